"""Other defaults of torch, which another library may have set."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def defaults(dtype: torch.dtype = torch.float32, device: str = "cpu") -> Iterator[None]:
    """Other defaults of torch for a while."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)
