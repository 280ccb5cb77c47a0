from pathlib import Path

import pytest

from noisyrnn.data import load_dataset
from noisyrnn.data.arff import read_arff
from noisyrnn.data.options import ReadingOptions

HEADER = "@relation r\n@attribute bag relational\n@attribute t0 numeric\n@attribute t1 numeric\n@end bag\n"
HEADER += "@attribute class {a,b}\n@data\n"


def test_missing_values_behind_a_sequence_are_its_end_and_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.arff"
    path.write_text(HEADER + "'1,2\\n3,4',a\n'5,?\\n6,?',b\n")
    cases = read_arff(path, ReadingOptions())
    assert cases.inputs.tolist() == [[[1, 3], [2, 4]], [[5, 6], [0, 0]]]
    assert cases.lengths is not None and cases.lengths.tolist() == [2, 1]
    path.write_text(HEADER + "'1,2\\n3,4',a\n'5,?\\n6,7',b\n")
    with pytest.raises(ValueError, match=r"^Instance 2 of .* no missing values, got '\?' at step 2 of channel 1\."):
        read_arff(path, ReadingOptions())


def test_a_declared_class_is_a_name_whatever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "own.arff"
    header = "@relation r\n@attribute t0 numeric\n@attribute t1 numeric\n@attribute class {NA,EU}\n@data\n"
    path.write_text(header + "".join(f"{k}.5,{k * k},{('NA', 'EU')[k % 2]}\n" for k in range(8)))
    assert load_dataset(str(path)).class_names == ("EU", "NA")
