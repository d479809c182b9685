"""Settings back to a flat table and to YAML that loads to the same settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from threedgen import registry
from threedgen.config.keys import Child, children, join
from threedgen.config.schema import RunSettings
from threedgen.config.values import written

INDENT = "  "
COMMENT_COLUMN = 48


def flat(settings: RunSettings) -> dict[str, Any]:
    """Value of every dotted key, `type` keys included."""
    return {path: value for path, value, _ in _leaves(settings, "")}


def affecting_result(settings: RunSettings) -> dict[str, Any]:
    """The keys of `flat` that change what is made, not where or how it is computed."""
    return {path: value for path, value, child in _leaves(settings, "") if child is None or child.field.metadata["affects_result"]}


def to_yaml(settings: RunSettings, notes: Mapping[str, str] | None = None) -> str:
    """YAML text of resolved settings; `notes` are written as comments behind their keys. Raw text is quoted and escaped."""
    return "".join(f"{line}\n" for line in _lines(settings, "", 0, notes or {}))


def quoted(text: str) -> str:
    """Double-quoted YAML scalar that reads back to the same text, whatever it holds; always one line."""
    return '"' + "".join(_escaped(character) for character in text) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


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


def _lines(value: Any, path: str, depth: int, notes: Mapping[str, str]) -> Iterator[str]:
    members = children(type(value))
    for name, child in members.items():
        if child.is_leaf:
            raw = child.hint is str and not child.field.metadata["choices"]
            text = quoted(getattr(value, name)) if raw else written(getattr(value, name))
            yield _line(name, text, join(path, name), depth, notes)
    for name, child in members.items():
        if not child.is_leaf:
            yield INDENT * depth + f"{name}:"
            yield from _group(getattr(value, name), child, join(path, name), depth + 1, notes)


def _group(value: Any, child: Child, path: str, depth: int, notes: Mapping[str, str]) -> Iterator[str]:
    if child.named:
        for stage, group in value.items():
            yield INDENT * depth + f"{stage}:"
            yield from _lines(group, join(path, stage), depth + 1, notes)
        return
    if child.kind:
        yield _line("type", registry.name_of(value), f"{path}.type", depth, notes)
    yield from _lines(value, path, depth, notes)


def _line(name: str, text: str, path: str, depth: int, notes: Mapping[str, str]) -> str:
    line = INDENT * depth + f"{name}: {text}"
    return f"{line.ljust(COMMENT_COLUMN)}  # {notes[path]}" if path in notes else line
