"""Keys in sections, each told once: what variants inherit from a common class stands there, a variant's own section holds the rest."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass

from threedgen import registry
from threedgen.config.keys import Key, leaves
from threedgen.config.values import allowed

OMITTED = 3  # variants that a title names as those that lack the keys


@dataclass(frozen=True)
class Section:
    """Keys of a group that are told together.

    Attributes:
        group: dotted path, empty for the run.
        kind: of the variants the group chooses from, empty for keys that do not depend on the variant.
        own: the variant whose own keys these are; empty where variants share them by a common class.
        variants: those that have the keys; the section of a variant stands above a common one where both tell a key.
        keys: what is told.
    """

    group: str
    kind: str
    own: str
    variants: tuple[str, ...]
    keys: list[Key]

    @property
    def who(self) -> str:
        """Which variants have the keys: "guidance vsd, esd", "guidance of every type but im3d"; empty for a plain group."""
        if self.own:
            return f"{self.kind} {', '.join([self.own, *(name for name in self.variants if name != self.own)])}"
        others = [name for name in registry.names(self.kind) if name not in self.variants]
        if len(others) > OMITTED:
            return f"{self.kind} {', '.join(self.variants)}"
        every = f"{self.kind} of every type" if self.kind else ""
        return f"{every} but {', '.join(others)}" if others else every


def sections(found: Sequence[Key]) -> list[Section]:
    """Sections for some of the keys of `threedgen.config.keys.keys`, in their order; of a variant on its own its own keys come first."""
    told: list[Section] = []
    for (group, kind), members in itertools.groupby(found, key=lambda key: (key.group, key.kind)):
        if kind:
            told += _of_variants(group, kind, list(members))
        else:
            told.append(Section(group, "", "", (), list(members)))
    return told


def bases(kind: str) -> list[type]:
    """Settings classes that several variants of a kind derive from and that are no variant themselves, the most general first."""
    variants = [registry.lookup(kind, name) for name in registry.names(kind)]
    above = {cls for variant in variants for cls in variant.__mro__ if is_dataclass(cls) and cls not in variants}
    shared = [cls for cls in above if sum(cls in variant.__mro__ for variant in variants) > 1]
    return sorted(shared, key=lambda cls: (len(cls.__mro__), cls.__name__))


def teller(cls: type, name: str, tellers: Collection[type]) -> type:
    """The class whose section tells a variant's key: the furthest of the tellers it is inherited from with the same default and range."""
    key = _fields(cls)[name]
    for above in cls.__mro__[1:]:
        if above in tellers and name in _fields(above):
            other = _fields(above)[name]
            if (other.default, allowed(other)) != (key.default, allowed(key)):
                return cls
            cls = above
    return cls


def _of_variants(group: str, kind: str, found: Sequence[Key]) -> Iterator[Section]:
    variants = {name: registry.lookup(kind, name) for name in registry.names(kind)}
    wanted = list(dict.fromkeys(key.variant for key in found))
    above = bases(kind)
    names = dict.fromkeys(above, "") | {variants[name]: name for name in wanted}
    told: dict[type, dict[str, set[str]]] = {cls: {} for cls in names}
    for key in found:
        told[teller(variants[key.variant], key.name, names)].setdefault(key.name, set()).add(key.variant)
    for cls, own in names.items() if len(wanted) > 1 else reversed(names.items()):
        keys = [key for key in leaves(cls, group, kind, own) if key.name in told[cls]]
        having = set().union(*told[cls].values()) if own else {name for name in variants if issubclass(variants[name], cls)}
        if keys:
            yield Section(group, kind, own, tuple(sorted(having)), keys)


@functools.cache
def _fields(cls: type) -> Mapping[str, Key]:
    return {key.name: key for key in leaves(cls, "")}
