"""Names that configs may use, each mapped to the dataclass of its settings. Never imports torch.

A name in YAML (`type: hashgrid`) is looked up here and nowhere else: configs hold registry names, never import paths.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from threedgen.errors import UserError

T = TypeVar("T", bound=type)
_registry: dict[str, dict[str, type]] = {}


def register(kind: str, name: str) -> Callable[[T], T]:
    """Class decorator: make a settings dataclass selectable as `type: name` where a config expects a `kind`."""

    def add(cls: T) -> T:
        entries = _registry.setdefault(kind, {})
        if name in entries and entries[name] is not cls:
            raise ValueError(f"{kind} '{name}' is registered twice: {entries[name]} and {cls}")
        entries[name] = cls
        return cls

    return add


def names(kind: str) -> list[str]:
    """Registered names of a kind, sorted."""
    return sorted(_registry.get(kind, {}))


def lookup(kind: str, name: str) -> type:
    """Settings dataclass registered under a name; UserError lists the known names."""
    if name not in _registry.get(kind, {}):
        raise UserError(f"unknown {kind} '{name}': choose one of {', '.join(names(kind))}")
    return _registry[kind][name]


def name_of(settings: object) -> str:
    """Registered name of a settings object's class."""
    for entries in _registry.values():
        for name, cls in entries.items():
            if cls is type(settings):
                return name
    raise KeyError(f"{type(settings).__name__} is not registered")
