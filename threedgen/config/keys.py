"""The tree of keys that the schema spans: groups, variants and leaves, each with what it accepts."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from threedgen import registry
from threedgen.config.schema import RunSettings

STAGE = "<stage>"
STAGE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")


@dataclass(frozen=True)
class Key:
    """One key that holds a value.

    Attributes:
        path: dotted, with the name of the stage in it.
        hint: int, float, bool, str, list[float], list[str] or Any.
        meta: the keywords of `threedgen.config.schema.setting`.
        default: its default, or MISSING.
        kind, variant: the variant that has this key ("guidance", "sds"), or two empty strings.
    """

    path: str
    hint: Any
    meta: dict[str, Any]
    default: Any
    kind: str = ""
    variant: str = ""

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]

    @property
    def group(self) -> str:
        return self.path.rpartition(".")[0]


@dataclass(frozen=True)
class Child:
    """A field of a settings class: a leaf (all empty), a nested group, named groups, or a variant."""

    field: Field[Any]
    hint: Any
    group: type | None = None
    named: type | None = None
    kind: str = ""

    @property
    def is_leaf(self) -> bool:
        return not (self.group or self.named or self.kind)

    @property
    def default(self) -> Any:
        made = self.field.default_factory
        return self.field.default if made is MISSING else made()


@functools.cache
def load_variants() -> None:
    """Register every variant a config may name (the guidance rules lie in their own files)."""
    from threedgen.guidance import discover

    discover()


@functools.cache
def children(cls: type) -> dict[str, Child]:
    """Fields of a settings class by name, in order."""
    hints = get_type_hints(cls)
    return {field.name: _child(field, hints[field.name]) for field in fields(cls)}


def _child(field: Field[Any], hint: Any) -> Child:
    if kind := field.metadata.get("variant"):
        return Child(field, hint, kind=kind)
    if is_dataclass(hint) and isinstance(hint, type):
        return Child(field, hint, group=hint)
    if get_origin(hint) is dict:
        return Child(field, hint, named=get_args(hint)[1])
    return Child(field, hint)


def leaves(cls: type, path: str, kind: str = "", variant: str = "") -> Iterator[Key]:
    """The keys that a settings class holds directly."""
    for name, child in children(cls).items():
        if child.is_leaf:
            yield Key(join(path, name), child.hint, dict(child.field.metadata), child.default, kind, variant)


def type_key(path: str, kind: str) -> Key:
    """The key that selects a variant."""
    meta = {"doc": f"variant of the {kind}; the other keys of this group depend on it", "choices": tuple(registry.names(kind))}
    return Key(f"{path}.type", str, meta, MISSING)


def keys(stages: Sequence[str] = (STAGE,), cls: type = RunSettings, path: str = "") -> Iterator[Key]:
    """Every key of every variant, in the order of the schema; keys of several variants appear once for each."""
    load_variants()
    yield from leaves(cls, path)
    for name, child in children(cls).items():
        below = join(path, name)
        if child.group:
            yield from keys(stages, child.group, below)
        elif child.named:
            for stage in stages:
                yield from keys(stages, child.named, join(below, stage))
        elif child.kind:
            yield type_key(below, child.kind)
            for variant in registry.names(child.kind):
                yield from leaves(registry.lookup(child.kind, variant), below, child.kind, variant)


def join(path: str, name: str) -> str:
    """Dotted path of a child."""
    return f"{path}.{name}" if path else name
