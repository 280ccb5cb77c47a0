"""Run folders of the trained models that come with the package, so that every later stage works on them."""

import os
import re
from pathlib import Path

from noisyrnn.files import check_writable, file_digest, write_atomically, write_json
from noisyrnn.run_folder import RunFolder
from noisyrnn.training.pretrained import PretrainedModel, find_pretrained, pretrained_models


def open_run_or_pretrained(run: str, output: Path) -> RunFolder:
    """Return the run folder at a path or, where there is none, that of a pretrained model of this name.

    Args:
        run: Path of a run folder; or `NAME` (seed 1) or `NAME-seedN` of a pretrained model.
        output: Folder below which `unpack_pretrained` writes.

    Raises:
        ValueError: If there is neither, or the pretrained model has no such seed.
    """
    match = re.fullmatch(r"(.+?)(?:-seed(\d+))?", run)
    if match is None or os.path.lexists(run) or match[1] not in pretrained_models():
        return RunFolder.open(Path(run))
    return unpack_pretrained(find_pretrained(match[1], int(match[2] or 1)), output)


def unpack_pretrained(model: PretrainedModel, output: Path) -> RunFolder:
    """Write the run folder of a pretrained model, `output/pretrained-NAME-seedN`, without a history of its training.

    Results that are in the folder already stay, and are used again if its weights are the same.

    Raises:
        ValueError: If `output` is not writable.
    """
    folder = RunFolder(output / f"pretrained-{model.stem}")
    check_writable(folder.path)
    with model.file() as path:
        write_atomically(folder.model, path.read_bytes())
    write_json(folder.summary, {**model.summary, "model_sha256": file_digest(folder.model)})
    write_json(folder.config, model.config)
    return folder
