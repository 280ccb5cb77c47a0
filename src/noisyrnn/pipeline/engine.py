"""Which device and which processes do the work."""

import os

import torch
from lightning_fabric import Fabric

from noisyrnn.checks import check_choice
from noisyrnn.training.config import Precision

ACCELERATORS = ("auto", "cpu", "cuda")


def resolve_accelerator(accelerator: str, *, argument: str = "accelerator") -> str:
    """`"cpu"` or `"cuda"`; `"auto"` is the GPU where there is one. `argument` is what it is called.

    Raises:
        ValueError: If it is unknown, or a GPU is asked for and there is none.
    """
    check_choice(argument, accelerator, ACCELERATORS)
    if accelerator == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"{argument} must be 'cpu' where torch finds no GPU, got 'cuda'. See noisyrnn doctor.")
    return accelerator


def processes() -> int:
    """Processes that the run is spread over: 1, or as many as torchrun has started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def make_fabric(precision: Precision, accelerator: str) -> Fabric:
    """The engine of this process: one device, or its part of a run that torchrun has started."""
    accelerator = resolve_accelerator(accelerator)
    world = processes()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
    if world == 1:
        return Fabric(accelerator=accelerator, devices=1, precision=precision)
    fabric = Fabric(
        accelerator=accelerator, devices=local, num_nodes=world // local, strategy="ddp", precision=precision
    )
    fabric.launch()
    return fabric
