"""Settings back to a flat table and to YAML that loads to the same settings."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from threedgen import registry
from threedgen.config.keys import Child, children, join
from threedgen.config.schema import RunSettings
from threedgen.config.values import quoted, written

INDENT = "  "
COMMENT_COLUMN = 48


def flat(settings: RunSettings) -> dict[str, Any]:
    """Value of every dotted key, `type` keys included."""
    return {path: value for path, value, _ in _leaves(settings, "")}


def affecting_result(settings: RunSettings) -> dict[str, Any]:
    """The keys of `flat` that change what is made, not where or how it is computed."""
    return {path: value for path, value, child in _leaves(settings, "") if child is None or child.field.metadata["affects_result"]}


def to_yaml(settings: RunSettings, notes: Mapping[str, str] | None = None, left_open: Collection[str] = ()) -> str:
    """YAML text of resolved settings that loads back to the same.

    Args:
        settings: checked settings; raw text is quoted and escaped.
        notes: comments to write behind keys.
        left_open: keys to write as `???`, to be given by whoever uses the text as a config.
    """
    return "".join(f"{line}\n" for line in _Writer(notes or {}, left_open).lines(settings, "", 0))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any, Child | None]]:
    for name, child in children(type(value)).items():
        below, item = join(path, name), getattr(value, name)
        if child.is_leaf:
            yield below, item, child
        elif child.named:
            for stage, group in item.items():
                yield from _leaves(group, join(below, stage))
        else:
            if child.kind:
                yield f"{below}.type", registry.name_of(item), None
            yield from _leaves(item, below)


@dataclass(frozen=True)
class _Writer:
    notes: Mapping[str, str]
    left_open: Collection[str]

    def lines(self, value: Any, path: str, depth: int) -> Iterator[str]:
        """Values first, groups behind them."""
        members = children(type(value))
        for name, child in members.items():
            if child.is_leaf:
                raw = child.hint is str and not child.field.metadata["choices"]
                text = quoted(getattr(value, name)) if raw else written(getattr(value, name))
                yield self.line(name, text, join(path, name), depth)
        for name, child in members.items():
            if not child.is_leaf:
                yield INDENT * depth + f"{name}:"
                yield from self.group(getattr(value, name), child, join(path, name), depth + 1)

    def group(self, value: Any, child: Child, path: str, depth: int) -> Iterator[str]:
        if child.named:
            for stage, below in value.items():
                yield INDENT * depth + f"{stage}:"
                yield from self.lines(below, join(path, stage), depth + 1)
            return
        if child.kind:
            yield self.line("type", registry.name_of(value), f"{path}.type", depth)
        yield from self.lines(value, path, depth)

    def line(self, name: str, text: str, path: str, depth: int) -> str:
        line = INDENT * depth + f"{name}: {'???' if path in self.left_open else text}"
        return f"{line.ljust(COMMENT_COLUMN)}  # {self.notes[path]}" if path in self.notes else line
