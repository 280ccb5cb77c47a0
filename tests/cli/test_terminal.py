"""What commands show in a terminal of 80 and of 120 columns."""

import re
import sys
from pathlib import Path

import pytest
from tests.cli.commands import SMALL
from tests.report.conftest import column, write_run

if sys.platform == "win32":
    pytest.skip("Windows has no pseudo-terminals", allow_module_level=True)

from tests.terminal import in_a_terminal

PLACES = [
    ("clean", None),
    ("white_noise", 0.1),
    ("white_noise", 0.2),
    ("multiplicative_noise", 0.6),
    ("salt_and_pepper", 0.1),
    ("pgd_linf", 0.05),
    ("worst_linf", 0.05),
]


def write_runs(folder: Path, labels: list[str]) -> list[Path]:
    return [
        write_run(
            folder / f"{label.split()[0]}{k}-{seed}",
            label=label,
            seed=seed,
            columns=[column(*place, 0.9 - 0.1 * rank) for rank, place in enumerate(PLACES)],
        )
        for k, label in enumerate(labels)
        for seed in (1, 2, 3)
    ]


@pytest.mark.parametrize("width", [80, 120])
def test_the_summary_of_a_comparison_fits(tmp_path: Path, width: int) -> None:
    runs = write_runs(tmp_path / "runs", ["noisy additive=0.05", "lipschitz", "lstm"])
    status, lines, _ = in_a_terminal("report", *runs, "--output", tmp_path, width=width)
    assert status == 0
    table = lines[: lines.index("")]
    assert max(map(len, lines[:-1])) <= width  # the last is the path of the page
    assert table[0] == "Comparison: Test accuracy in %; each perturbation at its worst strength"
    names = [line[:28].strip() for line in table[1:] if line[:28].strip()]
    assert [re.sub(r" ϵ$", "", name) for name in names if name[0].isupper()] == [
        "Clean",
        "White noise σ 0.2",
        "Multiplicative noise σ 0.6",
        "Salt and pepper α 0.1",
        "Worst case over attacks ℓ∞",
    ]
    clean = next(line for line in table if line.startswith("Clean"))
    beside = re.findall(r"90\.0 \[\d+\.\d, \d+\.\d\]", clean)
    assert len(beside) == (3 if width == 120 else 0)  # at 80 columns the intervals stand below
    assert len(re.findall(r"\[\d+\.\d, \d+\.\d\]", "\n".join(table))) == 3 * 5
    assert "…" not in "\n".join(table) and "|" not in "\n".join(lines)
    text = " ".join(" ".join(lines).split())
    assert "Of 3 models, noisy additive=0.05 has the highest mean accuracy on clean inputs" in text
    assert lines[-1] == f"Report: {tmp_path / 'report.html'}"


def test_training_on_workers_has_one_bar_and_ends_with_the_summary(data: Path, tmp_path: Path) -> None:
    words = ("--models", "noisy,gru", "--seeds", 1, "--strengths", "{white_noise: [0.1]}", "--workers", 2)
    status, lines, shown = in_a_terminal(
        "compare", "--dataset", data, *words, *SMALL, "--output", tmp_path / "runs", width=80
    )
    assert status == 0, shown
    bars = [line for line in re.split(r"[\r\n]+", shown) if line.startswith("runs ")]
    assert re.fullmatch(r"runs 2/2 ━+ 4/4 epochs \d:\d\d:\d\d ETA 0:00:00", bars[-1])
    assert re.search(r"Last: (noisy|gru) seed 1: test \d+\.\d %", shown)
    heading = next(line for line in lines if line.startswith("test inputs"))
    assert heading.split()[:4] == ["test", "inputs", "noisy", "gru"] and "1-NN" in " ".join(lines)
    assert any(line.startswith("Of 2 models, ") for line in lines)


def test_evaluate_and_train_end_with_a_table(data: Path, tmp_path: Path) -> None:
    words = ("--dataset", data, "--seeds", 2, *SMALL, "--output", tmp_path)
    status, lines, shown = in_a_terminal("train", *words, width=80)
    assert status == 0, shown
    runs = [Path(line.removeprefix("Trained: ")) for line in lines[:2]]
    assert lines[2] == "Trained"
    assert "There are no validation sequences" in " ".join(lines) and "Note: adapted to few sequences" in shown
    assert [line.split()[:5] for line in lines if line.startswith("noisy,")] == [
        ["noisy,", "seed", str(seed), "2", line.split()[4]]
        for seed, line in enumerate((line for line in lines if line.startswith("noisy,")), start=1)
    ]
    assert max(map(len, lines[2:])) <= 80
    strengths = "{white_noise: [0.1, 50]}"
    status, lines, shown = in_a_terminal("evaluate", runs[0], "--strengths", strengths, width=80)
    assert status == 0, shown
    noise = [line for line in lines if line.startswith("White noise")]
    assert len(noise) == 1 and noise[0].startswith("White noise σ 50 s")
    assert any(line.startswith("noisy has a mean accuracy of ") for line in lines)
    assert max(map(len, lines[1:])) <= 80
