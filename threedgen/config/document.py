"""YAML text to a tree of nodes that know their lines; scalars stay text until the key they belong to says what they are."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from threedgen.config.source import shown
from threedgen.errors import UserError

SIZE_LIMIT = 100_000
STANDARD_TAG = "tag:yaml.org,2002:"
INTEGER = re.compile(r"[-+]?[0-9]+(_[0-9]+)*", re.ASCII)
FLOAT = re.compile(r"[-+]?([0-9]+(_[0-9]+)*\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", re.ASCII)
DIGITS = 300


def read(path: Path) -> MappingNode | None:
    """Top mapping of a YAML file, None where the file holds nothing; UserError names file, line and column."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > SIZE_LIMIT:
        raise UserError(f"{path} is {len(data)} bytes long: a config holds at most {SIZE_LIMIT}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 text: save the file as UTF-8") from error
    node = compose(text, str(path))
    if node is not None and not isinstance(node, MappingNode):
        raise UserError(f"{path}:{line_of(node)}: a config is made of `key: value` lines, got {describe(node)}")
    return node


def compose(text: str, place: str) -> Node | None:
    """Root node of a YAML text; UserError begins with `place:line:column`."""
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        where = f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"
        raise UserError(f"{place}:{where}: the character {chr(error.character)!a} is not allowed in YAML") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        begun = f" begun in line {error.context_mark.line + 1}" if error.context_mark else ""
        said = ", ".join(part for part in (f"{error.context}{begun}" if error.context else "", error.problem) if part)
        raise UserError(f"{place}{where}: YAML cannot be read: {' '.join(said.split())}") from error
    except RecursionError:
        raise UserError(f"{place}: brackets are nested too deeply") from None


def line_of(node: Node) -> int:
    """Line of a node, from 1."""
    return node.start_mark.line + 1


def text_of(node: Node) -> str:
    """Text of a scalar as written, without its quotes; ValueError for a list or mapping."""
    if not isinstance(node, ScalarNode):
        raise ValueError(f"got {describe(node)}")
    _refuse_tag(node)
    return node.value


def items_of(node: Node) -> list[Node]:
    """Nodes of a list; a scalar or mapping alone is a list of one."""
    _refuse_tag(node)
    return node.value if isinstance(node, SequenceNode) else [node]


def entries(node: MappingNode) -> list[tuple[str, Node, int]]:
    """Name, value and line of each key of a mapping; ValueError for a key that is no plain text."""
    _refuse_tag(node)
    return [(text_of(key), value, line_of(key)) for key, value in node.value]


def plain(node: Node) -> object:
    """Python value of a leaf: number or text, a list of them, or a mapping of them; ValueError for anything deeper."""
    _refuse_tag(node)
    if isinstance(node, SequenceNode):
        return [_scalar(item) for item in node.value]
    if isinstance(node, MappingNode):
        entries: dict[object, object] = {}
        for key, value in node.value:
            name = _scalar(key)
            if name in entries:
                raise ValueError(f"{shown(name)} is given twice")
            entries[name] = _scalar(value)
        return entries
    return _scalar(node)


def _scalar(node: Node) -> object:
    return number(text_of(node))


def number(text: str) -> int | float | str:
    """The int or float a text spells (1e-3 and 10_000 too), else the text itself."""
    if len(text) > DIGITS:
        return text
    if INTEGER.fullmatch(text):
        return int(text)
    return float(text) if FLOAT.fullmatch(text) else text


def describe(node: Node) -> str:
    """What a node is, for messages."""
    if isinstance(node, ScalarNode):
        return shown(node.value)
    return "a list" if isinstance(node, SequenceNode) else "a group of keys"


def _refuse_tag(node: Node) -> None:
    if not node.tag.startswith(STANDARD_TAG):
        raise ValueError(f"the tag {shown(node.tag)} is not allowed")
