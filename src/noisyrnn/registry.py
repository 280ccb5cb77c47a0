"""The entry that every registry is made of: `MODELS`, `DATASETS`, `PERTURBATIONS`, `DIAGNOSTICS` and `FORMATS`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Build = TypeVar("Build", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Entry(Generic[Build]):
    """One thing that is known by name; its key in a registry is that name.

    A registry that needs more of each thing declares the additional fields in a subclass.

    Args:
        description: One line for lists and help.
        build: Builds the thing; each registry states its arguments.
    """

    description: str
    build: Build
