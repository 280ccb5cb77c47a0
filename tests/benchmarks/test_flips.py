from pathlib import Path

import pytest
from benchmarks.flips import campaign


@pytest.mark.slow
def test_no_flip_changes_a_table_in_silence(tmp_path: Path) -> None:
    counts = campaign(tmp_path, flips=48, seed=1)  # two of each file
    assert sum(count["report: noticed"] + count["report: no effect"] for count in counts.values()) == 48
    assert not any("SILENT" in end for count in counts.values() for end in count)
    assert all(counts[name]["compare: noticed"] == 8 for name in ("config.json", "summary.json", "robustness.json"))
