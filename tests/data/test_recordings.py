from pathlib import Path

import pytest

from noisyrnn.data import load_dataset
from noisyrnn.data.options import ReadingOptions
from noisyrnn.data.recordings import read_folder


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


TWO = {"a/1.csv": "x;y\n0,5;1\n1,5;3\n", "b/2.csv": "x;y\n2,5;7\n", "b/.hidden": "", "note.md": ""}


def test_the_class_is_the_subfolder(tmp_path: Path) -> None:
    cases = read_folder(write(tmp_path, TWO), ReadingOptions())
    assert cases.inputs.tolist() == [[[0.5, 1], [1.5, 3]], [[2.5, 7], [0, 0]]]
    assert [str(label) for label in cases.labels] == ["a", "b"]  # type: ignore[union-attr]


def test_the_class_is_in_a_table(tmp_path: Path) -> None:
    files = {"1.csv": "4\n5\n7\n", "2.csv": "6\n6\n6\n", "labels.csv": "recording,rpm,who\n2,60.5,p\n1,50,q\n"}
    folder = write(tmp_path, files)
    cases = read_folder(folder, ReadingOptions(label_column="rpm", task="regression", group_column="who"))
    assert cases.inputs.squeeze(2).tolist() == [[6, 6, 6], [4, 5, 7]] and cases.groups == ("p", "q")
    assert cases.labels.tolist() == [[60.5], [50.0]]  # type: ignore[union-attr]


def test_a_missing_class_or_group_in_a_table_is_refused(tmp_path: Path) -> None:
    files = {"1.csv": "4\n5\n", "2.csv": "6\n6\n", "labels.csv": "file,class,who\n1,a,p\n2,b,NA\n"}
    folder = write(tmp_path, files)
    with pytest.raises(
        ValueError, match=r"^Line 3 of .* must name a group, got 'NA', .* remove the line from the file"
    ):
        read_folder(folder, ReadingOptions(group_column="who", label_column="class"))
    (folder / "labels.csv").write_text("file,class\n1,a\n2,?\n")
    with pytest.raises(ValueError, match=r"^Line 3 of .* must name a class, got '\?'"):
        read_folder(folder, ReadingOptions())


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (
            {"1.csv": "1,2\n"},
            {},
            r"one subfolder of recordings for each class, or a table labels\.csv .* got 1 rec.* 0 sub",
        ),
        ({**TWO, "1.csv": "1"}, {}, r"got 1 recordings and 2 subfolders"),
        ({"train/1.csv": "1,2\n", "b/1.csv": "1,2\n"}, {}, r"for each class, got 'train', as a part of a split"),
        ({"a/x.md": "", "b/y.md": ""}, {}, r"must hold recordings ending in \.csv, .*, got none\."),
        (
            {**TWO, "b/3.csv": "x;z\n1;1\n"},
            {},
            r"3\.csv must hold the channels of the first sequence, x, y, got x, z in",
        ),
        (
            {**TWO, "b/3.csv": "x;y\n1;1\n1;1;1\n"},
            {},
            r"^Line 3 of .*3\.csv must hold 2 cells, as the first one does, got 3",
        ),
        (TWO, {"label_column": "x"}, r"^label_column, group_column and task must be None .* a table labels\.csv"),
        (
            {"1.csv": "1.5\n2\n", "labels.csv": "file,class\n1,a\n2,b\n"},
            {},
            r"^Line 3 of .* must name a file in .*, got '2'",
        ),
        (
            {"1.csv": "1\n2\n", "2.csv": "1\n", "labels.csv": "file,class\n1,a\n"},
            {},
            r"1 lines and 1 unlisted .* 2\.csv\.",
        ),
        (
            {"1.csv": "1\n2\n", "labels.csv": "file,rpm,who\n1,5,p\n"},
            {},
            r"one column with the class, .* Give label_column",
        ),
    ],
)
def test_an_unclear_folder_is_refused(
    tmp_path: Path, files: dict[str, str], options: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_folder(write(tmp_path, files), ReadingOptions(**options))


def test_a_folder_is_named_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"runs/{'ab'[i % 2]}/{i}.csv": f"{i}\n{i * i % 7}\n{i % 3}\n" for i in range(10)}
    monkeypatch.chdir(write(tmp_path, files))
    data = load_dataset("runs/")
    assert data.class_names == ("a", "b") and data.summary().startswith("runs: 10 sequences (6 / 2 / 2), 3 steps × 1 ")
    with pytest.raises(ValueError, match=r"^sheet must be None for 'runs/', got 1\. It is for \.xlsx files\.$"):
        load_dataset("runs/", sheet=1)


def test_channels_of_recordings_are_matched_by_name(tmp_path: Path) -> None:
    """Of the time too, which is found in the same column of all."""
    turned = {"a/1.csv": "t,x,y\n0,5,1\n1,6,3\n2,8,3\n", "b/2.csv": "y,t,x\n7,0,2\n1,1,4\n3,2,9\n"}
    folder = write(tmp_path / "rec", turned)
    cases = read_folder(folder, ReadingOptions(time="t"))
    assert cases.channel_names == ("x", "y")
    assert cases.inputs.tolist() == [[[5, 1], [6, 3], [8, 3]], [[2, 7], [4, 1], [9, 3]]]
    with pytest.raises(ValueError, match=r"got a column 't' that goes up evenly in every sequence"):
        read_folder(folder, ReadingOptions())
    write(folder, {"a/1.csv": "5.5,1\n6,3\n", "b/2.csv": "y,x\n7,2\n1,4\n"})
    with pytest.raises(ValueError, match=r"must hold the channels of the first sequence, 2 columns, got y, x"):
        read_folder(folder, ReadingOptions())


def test_the_table_of_classes_has_a_separator_of_its_own(tmp_path: Path) -> None:
    files = {"1.txt": "0,5;1\n1,5;3\n", "2.txt": "2,5;7\n3,5;8\n", "labels.csv": "file,class\n1,a\n2,b\n"}
    cases = read_folder(write(tmp_path, files), ReadingOptions(separator=";", decimal=","))
    assert cases.inputs.tolist() == [[[0.5, 1], [1.5, 3]], [[2.5, 7], [3.5, 8]]]
    assert [str(label) for label in cases.labels] == ["a", "b"]  # type: ignore[union-attr]
