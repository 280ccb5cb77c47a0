from dataclasses import fields
from typing import Any

import pytest

from noisyrnn.data.options import ReadingOptions
from noisyrnn.data.user_files import FORMATS
from noisyrnn.training.config import TrainConfig


def test_columns_are_names_or_numbers() -> None:
    options = ReadingOptions(drop="time, 3,-1", label_column=" 2 ", group_column="patient")
    assert options.drop == ("time", 3, -1) and options.label_column == 2 and options.group_column == "patient"
    assert ReadingOptions(drop=["a,b", 2]).drop == ("a,b", 2)  # type: ignore[arg-type]
    assert ReadingOptions(skip_lines="1-3, 7").skipped == {1, 2, 3, 7} and ReadingOptions().skipped == frozenset()
    assert [ReadingOptions(separator=name).separator for name in ("tab", "\\t", "space", ";")] == ["\t", "\t", " ", ";"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"label_column": 1.5}, TypeError, r"^label_column must be the name or the number of a column, got 1\.5\.$"),
        ({"drop": ["a", True]}, TypeError, r"^drop must be the name or the number of a column, got True\.$"),
        ({"drop": "a,,b"}, ValueError, r"^drop must be a name or a number from 1, or from -1 at the end, got ''\.$"),
        ({"id": 0}, ValueError, r"^id must be a name or a number from 1, or from -1 at the end, got 0\.$"),
        (
            {"separator": "ab"},
            ValueError,
            r"^separator must be one character that no number has, or one of tab, .*'ab'",
        ),
        ({"separator": "."}, ValueError, r"^separator must be one character that no number has"),
        ({"separator": 3}, TypeError, r"^separator must be a character, got 3\.$"),
        ({"decimal": "'"}, ValueError, r"^decimal must be one of ,, \., got \"'\""),
        ({"decimal": ",", "separator": ","}, ValueError, r"^decimal must differ from separator, got ',' for both\.$"),
        ({"encoding": "utf-9"}, ValueError, r"^encoding must be one that Python knows, got 'utf-9'\. Use utf-8"),
        (
            {"skip_lines": "0"},
            ValueError,
            r"^skip_lines must be numbers of lines from 1, such as '1-11,13', got '0'\.$",
        ),
        ({"skip_lines": 2.0}, TypeError, r"^skip_lines must be numbers of lines such as"),
        ({"sheet": 0}, ValueError, r"^sheet must be at least 1, got 0\.$"),
        ({"value": "v"}, ValueError, r"^value must be None without channel, got 'v'\. Give channel too\.$"),
        ({"channel": "c", "value": "v", "id": "i"}, ValueError, r"^channel must be None without time"),
        ({"layout": "rows"}, ValueError, r"^layout must be one of channels-last, one-channel, time-last, got 'rows'"),
        ({"task": "both"}, ValueError, r"^task must be one of classification, regression, got 'both'"),
    ],
)
def test_a_bad_value_is_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ReadingOptions(**options)
    with pytest.raises(error, match=message):
        TrainConfig(**options)


def test_settings_of_a_run_have_them_flat() -> None:
    config = TrainConfig.from_dict({"dataset": "own.csv", "separator": "tab", "drop": "a,b", "seed": 2})
    assert config.reading == ReadingOptions(separator="\t", drop=("a", "b"))
    assert config.to_dict()["drop"] == ["a", "b"] and TrainConfig.from_dict(config.to_dict()) == config
    assert config.identity() == {
        "label": "noisy",
        "dataset": "own.csv",
        "separator": "\t",
        "drop": ["a", "b"],
        "seed": 2,
    }
    assert TrainConfig().identity() == {"label": "noisy"} and TrainConfig().reading == ReadingOptions()


def test_every_option_is_for_some_file() -> None:
    assert set().union(*(kind.options for kind in FORMATS.values())) == {entry.name for entry in fields(ReadingOptions)}
