"""Tables of texts as a notebook, a terminal and a pipe show them."""

import io
import re
import sys

import pytest

from noisyrnn.display import Estimate, html_table, print_estimates, print_table

TITLE, HEAD, ROWS = "runs/a_b", ["test inputs", "accuracy"], [["White noise σ 0.1", "91.2 [88.1, 93.6]"], ["<b>", "1"]]


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_html_escapes_every_text() -> None:
    shown = html_table("<i>", [["<a>", "x & y"]], head=["<h>", "v"], notes=["<script>"])
    assert shown == (
        "<table><caption>&lt;i&gt;</caption><tr><th>&lt;h&gt;</th><th>v</th></tr>"
        "<tr><th>&lt;a&gt;</th><td>x &amp; y</td></tr></table><p>&lt;script&gt;</p>"
    )


def test_a_pipe_gets_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(TITLE, HEAD, ROWS, notes=["A note."])
    assert capsys.readouterr().out == (
        "runs/a\\_b\n\n| test inputs | accuracy |\n|---|---:|\n| White noise σ 0.1 | 91.2 [88.1, 93.6] |\n"
        "| \\<b\\> | 1 |\n\nA note.\n\n"
    )


def test_a_terminal_gets_aligned_columns_of_at_most_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    print_table(TITLE, HEAD, ROWS, notes=["A note."])
    lines = terminal.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    noise = next(line for line in lines if "White noise" in line)
    assert noise.rstrip().endswith("91.2 [88.1, 93.6]")  # brackets are text, not styles
    assert "|" not in terminal.getvalue()
    assert lines[-1] == "A note."


MODELS = ["noisy additive=0.05", "lipschitz", "lstm", "antisymmetric"]
CELLS = [Estimate(value="91.2", interval="[88.1, 93.6]", mark=mark) for mark in ("best", "close", "", "")]


def shown_at(width: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines of a table of four estimates in a terminal."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")  # a dumb one always has 80 columns
    print_estimates(TITLE, ["test inputs", *MODELS], [("White noise σ 0.1", CELLS)], notes=["A note."])
    lines = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()).splitlines()
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    return lines


@pytest.mark.parametrize(
    ("width", "beside", "below", "values"), [(100, 4, 0, 0), (80, 0, 4, 4), (72, 0, 0, 4), (45, 0, 0, 2)]
)
def test_estimates_take_the_widest_form_that_fits(
    width: int, beside: int, below: int, values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = shown_at(width, monkeypatch)
    row = next(line for line in lines if line.startswith("White noise"))
    assert row.count("91.2 [88.1, 93.6]") == beside
    assert lines[lines.index(row) + 1].count("[88.1, 93.6]") == below
    assert row.count("91.2") == (beside or values)
    assert sum(line.count("91.2") for line in lines) == 4  # what does not fit follows in another table
    left_out = " ".join(" ".join(lines).split()).endswith("Intervals are left out: this terminal is too narrow.")
    assert left_out == (not beside and not below)


def test_a_pipe_gets_estimates_in_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    print_estimates("t", ["test inputs", "lstm"], [("Clean", CELLS[:1])])
    assert capsys.readouterr().out.splitlines()[-2] == "| Clean | 91.2 [88.1, 93.6] |"
