import importlib.util
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tests.data.real_files import FILES, STAMPS, RealFile

from noisyrnn.data import Dataset, load_dataset


def content(dataset: Dataset) -> Counter[tuple[str, tuple[tuple[float, ...], ...]]]:
    """Class and valid steps of each sequence, over all three parts."""
    found: Counter[tuple[str, tuple[tuple[float, ...], ...]]] = Counter()
    for part in (dataset.train, dataset.validation, dataset.test):
        lengths = part.lengths.tolist() if part.lengths is not None else [part.inputs.shape[1]] * len(part)
        for row, label, end in zip(part.inputs, part.labels.tolist(), lengths, strict=True):
            found[dataset.class_names[label], tuple(map(tuple, row[:end].tolist()))] += 1
    return found


def test_there_are_forty_files_and_most_tools_are_there() -> None:
    assert len(FILES) >= 40
    assert all((file.right is None) != (not file.message) for file in FILES.values())


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_rightly_or_refused_with_the_option_that_reads_it(tmp_path: Path, name: str) -> None:
    file: RealFile = FILES[name]
    missing = [package for package in file.needs if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    path = str(file.write(tmp_path))
    if file.right is None:
        with pytest.raises(ValueError, match=file.message) as caught:
            load_dataset(path, **file.options)
        assert "\n" not in str(caught.value)
        return
    dataset = load_dataset(path, **file.options)
    assert content(dataset) == Counter((label, tuple(map(tuple, steps))) for label, steps in file.right)
    gaps = [b - a for a, b in pairwise(STAMPS)] + [1.0]
    for part in (dataset.train, dataset.validation, dataset.test):
        assert (part.dt is None) is not file.dt
        assert part.dt is None or torch.equal(part.dt, torch.tensor([gaps] * len(part), dtype=torch.float64))
