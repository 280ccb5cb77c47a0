"""The CPU kernel in a line, for people."""

import warnings

from noisyrnn.native import compiler, library


def describe() -> str:
    """Instruction set, compiler, cache and threads of this process's kernel, or why there is none; may compile it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they say is in the result
        reason = library.unavailable()
        if reason is not None:
            return f"none: {reason}"
        threads = "torch's OpenMP" if library.thread_pool() else "its own"
    instructions, command = compiler.level(), " ".join(compiler._compiler())
    folder = compiler.cache_folder()
    kept = "kept" if any(folder.glob(f"cpu-{instructions}-*.so")) else "cannot be kept"
    return f"{instructions}, compiled by {command}, {kept} in {folder}, threads: {threads}"
