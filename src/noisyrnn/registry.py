"""Registries: things known by name, ours and those of plug-ins.

`MODELS`, `DATASETS`, `PERTURBATIONS`, `DIAGNOSTICS` and `FORMATS` are registries. A package adds an entry with an entry
point in the group of the registry, such as `noisyrnn.models`.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

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


UNUSABLE = "The package .* which cannot be used"
"""Matches the warning about a plug-in that is left out."""

AnyEntry = TypeVar("AnyEntry", bound=Entry[Any])


class Registry(MutableMapping[str, AnyEntry]):
    """Entries by name: those of this package, followed by those of plug-ins.

    Plug-ins are loaded when a name is not one of ours, or when all names are asked for. One that cannot be loaded is
    left out with a warning that names its package.

    Args:
        group: Group of the entry points.
        entries: Entries of this package.
        kind: Type of an entry.
        check: Raises an error if the entry of a plug-in cannot be used; it is not called for our own entries.
    """

    def __init__(
        self,
        group: str,
        entries: Mapping[str, AnyEntry],
        *,
        kind: type[Entry[Any]] = Entry,
        check: Callable[[AnyEntry], None] | None = None,
    ) -> None:
        self.group = group
        self._entries, self._kind, self._check = dict(entries), kind, check
        self._loaded = False

    def __getitem__(self, name: str) -> AnyEntry:
        if name not in self._entries:
            self._load()
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        if name not in self._entries:
            self._load()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(self._entries)

    def __len__(self) -> int:
        self._load()
        return len(self._entries)

    def __setitem__(self, name: str, entry: AnyEntry) -> None:
        self._entries[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __repr__(self) -> str:
        return f"Registry({self.group!r}: {', '.join(self)})"

    def _load(self) -> None:
        """Load the plug-ins, once."""
        if self._loaded:
            return
        self._loaded = True  # before: a plug-in may read the registry while it is imported
        from importlib.metadata import entry_points  # not before there is a use for it

        for point in entry_points(group=self.group):
            package = "unknown" if point.dist is None else f"{point.dist.name} {point.dist.version}"
            try:
                found = point.load()
                if not isinstance(found, self._kind):
                    raise TypeError(f"it must be a {self._kind.__name__}, got {type(found).__name__}")
                entry = cast("AnyEntry", found)
                if point.name in self._entries:
                    raise ValueError("there is already an entry of this name")
                if self._check is not None:
                    self._check(entry)
            except Exception as error:  # whatever it is, everything else must work
                reason = f"{type(error).__name__}: {error}".rstrip(".")
                warnings.warn(
                    f"The package {package} adds {point.name!r} to {self.group}, which cannot be used ({reason}). "
                    "Repair or uninstall the package.",
                    stacklevel=3,
                )
            else:
                self._entries[point.name] = entry
