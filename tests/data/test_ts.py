import gzip
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from noisyrnn.data import load_dataset
from noisyrnn.data.labels import decimal_labels
from noisyrnn.data.ts import read_ts

Require = Callable[[str], Path]
HEADER = "# a comment\n@problemName Tiny\n@timeStamps false\n@classLabel true a b\n"
UNEQUAL = HEADER + "@dimensions 2\n@data\n1,2,3:4,5,6:a\n\n7,8:9,1.5e1:b\n"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str, name: str = "Tiny_TRAIN.ts") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No data but in `tmp_path`, and no aeon; the path is the cache's."""
    monkeypatch.setenv("NOISYRNN_DATA", str(tmp_path))
    for module in ("folders", "ts"):
        monkeypatch.setattr(f"noisyrnn.data.{module}.cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setitem(sys.modules, "aeon", None)
    return tmp_path / "cache"


def test_unequal_lengths_are_padded(write: Callable[..., Path]):
    for name in ("a.ts", "a.ts.gz"):
        cases = read_ts(write(UNEQUAL, name))
        assert cases.inputs.tolist() == [[[1, 4], [2, 5], [3, 6]], [[7, 9], [8, 15], [0, 0]]]
        assert cases.lengths is not None and cases.lengths.tolist() == [3, 2]
        assert (cases.labels, cases.declared) == (decimal_labels("ab"), decimal_labels("ab"))


def test_numeric_classes_are_equal_by_decimal_value(write: Callable[..., Path]):
    names = ["1", "1.0", "1.0000e+00", "2", "1_0", "9007199254740992", "9007199254740993"]
    cases = read_ts(write("@classLabel true\n@data\n" + "".join(f"{i}.5,2:{name}\n" for i, name in enumerate(names))))
    assert [label.text for label in dict.fromkeys(cases.labels)] == ["1", *names[3:]]
    declared = read_ts(write("@classLabel true 1 2\n@data\n0,1:1.0\n0,1:2.0\n"))
    assert declared.labels == declared.declared


def test_a_header_with_targets_holds_values_to_predict(write: Callable[..., Path]):
    cases = read_ts(write("@targetLabel true\n@data\n1,2,3:0.5\n4,5:-1e2\n"))
    assert isinstance(cases.labels, torch.Tensor) and cases.labels.tolist() == [[0.5], [-100.0]] and cases.names == ()
    assert cases.lengths is not None and cases.lengths.tolist() == [3, 2]


@pytest.mark.parametrize("cell", ["1_5", "\u0661", "0x10"])
def test_what_only_python_reads_as_a_number_is_refused(write: Callable[..., Path], cell: str):
    with pytest.raises(ValueError, match=rf"^Line 3 of .* must hold numbers, got '{cell}'\.$"):
        read_ts(write(f"@classLabel true a b\n@data\n1,{cell}:a\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER, r"x\.ts must hold a line '@data' before its cases, got 3 lines without one\.$"),
        (HEADER + "@data\n", r"x\.ts must hold at least one case after '@data', got none\.$"),
        (UNEQUAL + "1,2:a\n", r"^Line 10 of .*x\.ts must hold 2 channels and a class, .* got 1 channels\.$"),
        (HEADER + "@univariate true\n@data\n1:2:a\n", r"^Line 7 of .* must hold 1 channels .* got 2 channels\.$"),
        (HEADER + "@data\n1:2:a\n1:a\n", r"^Line 7 of .* must hold 2 channels .* got 1 channels\.$"),
        (UNEQUAL + "1,2:1:a\n", r"^Line 10 of .* must hold channels of one length, got 1 and 2 values\.$"),
        (UNEQUAL + "1,2:1,2:c\n", r"^Line 10 of .* must end in one of the classes a, b, got 'c'\.$"),
        (
            UNEQUAL + "1,?:1,2:a\n",
            r"^Line 10 of .* must hold no missing values, got '\?'\. Give missing='hold' .* impute them",
        ),
        (UNEQUAL + "1,NaN:1,2:a\n", r"^Line 10 of .* must hold no missing values, got 'NaN'\."),
        (UNEQUAL + "1,2x:1,2:a\n", r"^Line 10 of .* must hold numbers, got '2x'\.$"),
        (
            UNEQUAL + "(0,1),(1,2):(0,1),(1,2):a\n",
            r"^Line 10 of .* must hold plain values, got a time stamp '\(0' without",
        ),
        (
            "@timeStamps TRUE\n@data\n1:a\n",
            r"^Line 3 of .*x\.ts must hold \(time,value\) cells, as '@timeStamps true' states, got '1'\.$",
        ),
        (
            "@classLabel false\n@data\n1,2\n",
            r"x\.ts must hold class labels, got a header without '@classLabel true'\.$",
        ),
        (
            "@classLabel true a b\n@targetLabel true\n@data\n1,2:0.5\n",
            r"x\.ts must hold classes or targets, got '@classLabel true' and '@targetLabel true'\.$",
        ),
        (
            "@targetLabel true\n@data\n1,2:0.5\n1,2:nan\n",
            r"^Line 4 of .*x\.ts must end in a finite number to predict, as '@targetLabel true' states, got 'nan'\.$",
        ),
        (
            HEADER + "@equalLength true\n@seriesLength 3\n@data\n1,2,3:a\n1,2:a\n",
            r"^Line 9 of .* must hold 3 values per channel, as '@seriesLength' states, got 2\.$",
        ),
    ],
)
def test_a_malformed_file_is_refused(write: Callable[..., Path], text: str, message: str):
    with pytest.raises(ValueError, match=message):
        read_ts(write(text, "x.ts"))


def test_a_truncated_file_is_refused(write: Callable[..., Path]):
    path = write(UNEQUAL, "x.ts.gz")
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(
        ValueError, match=r"x\.ts\.gz must be a complete gzip file, got \d+ bytes that do not decompress"
    ):
        read_ts(path)


JAPANESE_TEST = [31, 35, 88, 44, 29, 24, 40, 50, 29]


@pytest.mark.parametrize(
    ("name", "train", "test", "steps", "channels"),
    [
        ("JapaneseVowels", [30] * 9, JAPANESE_TEST, (26, 29), 12),
        ("Epilepsy", [34, 36, 30, 37], [34, 37, 30, 37], (206, 206), 3),
        ("ECGFiveDays", [14, 9], [428, 433], (136, 136), 1),
    ],
)
def test_the_published_counts(
    require_data: Require, name: str, train: list[int], test: list[int], steps: tuple[int, int], channels: int
):
    require_data(f"ucr_uea/{name}_TRAIN.ts.gz")
    dataset = load_dataset(name)
    counts = dataset.train.labels.bincount() + dataset.validation.labels.bincount()
    assert dataset.test.labels.bincount().tolist() == test
    got = [sorted(counts.tolist()), sorted(train)]
    assert got[0] == got[1]
    assert len(dataset.validation) == round(0.2 * sum(train))
    assert (dataset.steps, dataset.test.inputs.shape[1], dataset.input_size) == (*steps, channels)
    assert dataset.standardize and dataset.train.inputs.dtype == torch.float64


def test_lengths_and_range_of_japanese_vowels(require_data: Require):
    dataset = load_dataset("JapaneseVowels", data_dir=require_data("ucr_uea"))
    assert dataset.class_names == tuple("123456789")
    assert dataset.test.lengths is not None and dataset.train.lengths is not None
    assert (int(dataset.test.lengths.min()), int(dataset.test.lengths.max())) == (7, 29)
    assert dataset.value_range is None
    padding = ~dataset.test.valid()
    assert padding.any() and not dataset.test.inputs[padding].any()


def test_classes_of_epilepsy_are_in_alphabetical_order(require_data: Require):
    require_data("ucr_uea/Epilepsy_TRAIN.ts.gz")
    dataset = load_dataset("Epilepsy")
    assert dataset.class_names == ("EPILEPSY", "RUNNING", "SAWING", "WALKING")
    counts = dataset.train.labels.bincount() + dataset.validation.labels.bincount()
    assert counts.tolist() == [34, 36, 30, 37]


@pytest.mark.parametrize("place", [".", "ucr_uea", "Tiny"])
@pytest.mark.parametrize("suffix", [".ts", ".ts.gz"])
def test_a_set_is_found_by_name(offline: Path, write: Callable[..., Path], place: str, suffix: str):
    write(UNEQUAL + "1,2:3,4:a\n1,2:3,5:b\n", f"{place}/Tiny_TRAIN{suffix}")
    dataset = load_dataset("Tiny")
    assert (len(dataset.train), len(dataset.validation)) == (2, 2)
    message = r"^Tiny_TEST\.ts must be in .*, next to Tiny_TRAIN\.ts.*, got no such file\.$"
    with pytest.raises(FileNotFoundError, match=message):
        _ = dataset.test
    write(UNEQUAL, f"{place}/Tiny_TEST.ts.gz")
    assert load_dataset("Tiny").test.labels.tolist() == [0, 1]


def test_a_misspelt_name_gets_the_nearest(offline: Path):
    message = r"^dataset must be one of digits, ecg5000, .* or a file, got 'digts'\. Did you mean 'digits'\?$"
    with pytest.raises(ValueError, match=message):
        load_dataset("digts")
    with pytest.raises(ValueError, match=r"Did you mean 'smnist'\?"):
        load_dataset("mnist")


def test_without_aeon_the_files_are_named(offline: Path):
    message = (
        r"^dataset must be one of digits, .* or a set of the UCR/UEA archive in a data folder, got 'PenDigits'\. "
        r"Put PenDigits_TRAIN\.ts and PenDigits_TEST\.ts into .*ucr_uea, or set NOISYRNN_DATA to the folder that holds "
        r"them\. Or: pip install noisyrnn\[ucr\]\.$"
    )
    with pytest.raises(FileNotFoundError, match=message):
        load_dataset("PenDigits")


def install_fake_aeon(monkeypatch: pytest.MonkeyPatch, load: Callable[..., object]) -> None:
    """A package `aeon` with that one function."""
    aeon, datasets = types.ModuleType("aeon"), types.ModuleType("aeon.datasets")
    aeon.__spec__ = types.SimpleNamespace(name="aeon")  # type: ignore[assignment]
    datasets.load_classification = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "aeon", aeon)
    monkeypatch.setitem(sys.modules, "aeon.datasets", datasets)


def test_aeon_downloads_into_the_cache(offline: Path, monkeypatch: pytest.MonkeyPatch):
    def load(name: str, extract_path: str) -> None:
        folder = Path(extract_path) / name
        folder.mkdir(parents=True)
        (folder / f"{name}_TRAIN.ts").write_text(UNEQUAL + "1,2:3,4:a\n1,2:3,5:b\n")
        (folder / f"{name}_TEST.ts").write_text(UNEQUAL)

    install_fake_aeon(monkeypatch, load)
    dataset = load_dataset("Tiny")
    assert len(dataset.test) == 2
    assert (offline / "ucr_uea" / "Tiny" / "Tiny_TRAIN.ts").is_file()
    install_fake_aeon(monkeypatch, lambda name, extract_path: pytest.fail("fetched again"))
    assert len(load_dataset("Tiny").train) == 2


def test_a_failed_download_by_aeon_is_one_sentence(offline: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(name: str, extract_path: str) -> None:
        raise ConnectionError("no route")

    install_fake_aeon(monkeypatch, fail)
    with pytest.raises(FileNotFoundError, match=r"downloaded by aeon, got 'Tiny' and ConnectionError\. Put Tiny_TRAIN"):
        load_dataset("Tiny")
    install_fake_aeon(monkeypatch, lambda name, extract_path: None)
    with pytest.raises(
        FileNotFoundError, match=r"^Tiny_TRAIN\.ts must be in .*cache after aeon's download, got no such"
    ):
        load_dataset("Tiny")


@pytest.mark.parametrize(("case", "got"), [("1,2,3", "no ':'"), ("1,2,3:", "no class after the last ':'")])
def test_a_case_without_a_class_is_refused(write: Callable[..., Path], case: str, got: str):
    with pytest.raises(ValueError, match=f"^Line 2 of .* must hold its values, a ':' and its class, got {got}.$"):
        read_ts(write(f"@data\n{case}\n"))


def test_an_integer_that_float64_rounds_is_refused(write: Callable[..., Path]):
    with pytest.raises(ValueError, match=r"^Line 2 of .*'9007199254740993'"):
        read_ts(write("@data\n1,9007199254740993:a\n"))
