"""Chooses the device and the processes of a run."""

import atexit
import os
from typing import TYPE_CHECKING

import torch

from noisyrnn.checks import check_choice
from noisyrnn.training.config import Precision

if TYPE_CHECKING:
    from lightning_fabric import Fabric

ACCELERATORS = ("auto", "cpu", "cuda")


def resolve_accelerator(accelerator: str, *, argument: str = "accelerator") -> str:
    """Return `"cpu"` or `"cuda"`; `"auto"` is the GPU if there is one. `argument` is its name in messages.

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
    """Return the number of processes of the run: 1, or as many as torchrun has started.

    Raises:
        ValueError: If the environment variables of torchrun are incomplete or contradict each other.
    """
    world = _environment_integer("WORLD_SIZE", default=1, minimum=1)
    if world == 1:
        return 1
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise ValueError(f"{name} must be set where WORLD_SIZE is {world}, got nothing. {_ADVICE}")
    if _environment_integer("RANK", minimum=0) >= world:
        raise ValueError(f"RANK must be less than WORLD_SIZE {world}, got {os.environ['RANK']}. {_ADVICE}")
    local = _environment_integer("LOCAL_WORLD_SIZE", default=world, minimum=1)
    if world % local:
        raise ValueError(f"LOCAL_WORLD_SIZE must divide WORLD_SIZE {world}, got {local}. {_ADVICE}")
    if _environment_integer("LOCAL_RANK", minimum=0) >= local:
        raise ValueError(f"LOCAL_RANK must be less than {local}, got {os.environ['LOCAL_RANK']}. {_ADVICE}")
    _environment_integer("MASTER_PORT", minimum=0)
    return world


_ADVICE = "Start the processes with torchrun, or unset WORLD_SIZE for one process."


def _environment_integer(name: str, *, minimum: int, default: int | None = None) -> int:
    value = os.environ.get(name, default)
    try:
        number = int(value)  # type: ignore[arg-type]  # where it is missing there is a default
    except ValueError:
        number = minimum - 1
    if number < minimum:
        raise ValueError(f"{name} must be an integer of at least {minimum}, got {value!r}. {_ADVICE}")
    return number


def make_fabric(precision: Precision, accelerator: str) -> "Fabric":
    """Create the Fabric of this process: for one device, or for its part of a run that torchrun has started.

    Its process group is destroyed when the process exits: left to the interpreter, one of its threads can abort it.
    """
    from lightning_fabric import Fabric  # two seconds to import

    accelerator = resolve_accelerator(accelerator)
    world = processes()
    if world == 1:
        return Fabric(accelerator=accelerator, devices=1, precision=precision)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    fabric = Fabric(
        accelerator=accelerator, devices=local, num_nodes=world // local, strategy="ddp", precision=precision
    )
    mine = not torch.distributed.is_initialized()
    fabric.launch()
    if mine:
        atexit.register(_leave_process_group)
    return fabric


def _leave_process_group() -> None:
    if torch.distributed.is_initialized():  # Fabric does the same for some back ends
        torch.distributed.destroy_process_group()
