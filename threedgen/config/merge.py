"""Config file and command line to one assignment a key, variants resolved; every value keeps its origin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from yaml.nodes import MappingNode, Node, ScalarNode

from threedgen import registry
from threedgen.config import suggest
from threedgen.config.document import compose, describe, entries, text_of
from threedgen.config.keys import STAGE_NAME, Key, children, join, keys
from threedgen.config.schema import RunSettings
from threedgen.config.source import COMMAND_LINE, Source, shown
from threedgen.errors import UserError


@dataclass(frozen=True)
class Assignment:
    """A key with what was written for it: a YAML node, or the raw text of an override."""

    path: str
    value: Node | str
    source: Source


@dataclass(frozen=True)
class Dropped:
    """A key of the config file that the variant chosen on the command line does not have."""

    assignment: Assignment
    reason: str


@dataclass(frozen=True)
class Merged:
    """The last assignment of each key, the keys there are with the chosen variants, and what was dropped."""

    assignments: dict[str, Assignment]
    keys: list[Key]
    stages: list[str]
    types: dict[str, str]
    dropped: list[Dropped]


@dataclass(frozen=True)
class Named:
    """Groups of one class under names of the user's choice."""

    cls: type


@dataclass(frozen=True)
class Kind:
    """A group whose keys depend on its `type`."""

    name: str


Place = type | Named | Kind | None  # None: no group, so a key with a value or an unknown key


def from_file(top: MappingNode, place: str) -> list[Assignment]:
    """Assignments of a config file."""
    return list(_unique(_flatten(top, RunSettings, "", Source(place), place)))


EMPTY = MappingNode("tag:yaml.org,2002:map", [])  # what a comment alone holds


def from_overrides(overrides: Sequence[str]) -> list[Assignment]:
    """Assignments of `a.b=c` words, split at the first `=`; the text after it is kept as it is."""
    found: list[Assignment] = []
    for word in overrides:
        path, equals, raw = word.partition("=")
        if not equals or not path:
            raise UserError(f"{shown(word)} is no override: write key=value, for example seed=3")
        place = _descend_all(RunSettings, path)
        if place is None:
            found.append(Assignment(path, raw, COMMAND_LINE))
        else:
            found += _flatten(compose(raw or "null", f"command line, {path}") or EMPTY, place, path, COMMAND_LINE, "")
    return found


def merge(file: Sequence[Assignment], overrides: Sequence[Assignment]) -> Merged:
    """Command line over config file; UserError at the first key that does not exist."""
    stages = _stages(file)
    every = list(keys(stages))
    paths = {key.path for key in every}
    for assignment in [*file, *overrides]:
        if assignment.path not in paths:
            raise UserError(suggest.unknown_key(assignment.path, str(assignment.source), every, _types(file)))
    types = _types([*file, *overrides])
    chosen = _chosen(every, types)
    known = {key.path for key in chosen}
    retyped = {group for group, name in types.items() if _types(file).get(group, name) != name}
    dropped: list[Dropped] = []
    last: dict[str, Assignment] = {}
    for assignment in [*file, *overrides]:
        if assignment.path in known:
            last[assignment.path] = assignment
        elif assignment.source != COMMAND_LINE and assignment.path.rpartition(".")[0] in retyped:
            dropped.append(Dropped(assignment, _misfit(assignment.path, types)))
        else:
            raise UserError(suggest.other_variant(assignment.path, str(assignment.source), every, types))
    return Merged(last, chosen, stages, types, dropped)


def _flatten(node: Node, place: Place, path: str, source: Source, file: str) -> Iterator[Assignment]:
    if place is None:
        yield Assignment(path, node, source)
    elif isinstance(node, MappingNode):
        if not file and not node.value:
            raise UserError(f"{path} is a group of keys and cannot be emptied ({source}): {suggest.inside(path, _type_hint(place))}")
        for name, value, line in _entries(node, path, source):
            here = Source(file, line) if file else source
            yield from _flatten(value, _descend_all(place, name), join(path, name), here, file)
    elif not (file and isinstance(node, ScalarNode) and node.value in ("", "~", "null") and not node.style):
        raise UserError(f"{path} is a group of keys, got {describe(node)} ({source}): {suggest.inside(path, _type_hint(place))}")


def _entries(node: MappingNode, path: str, source: Source) -> list[tuple[str, Node, int]]:
    try:
        return entries(node)
    except ValueError as error:
        raise UserError(f"{path or 'the config'}: keys must be plain text, {error} ({source})") from error


def _descend_all(place: Place, dotted: str) -> Place:
    for name in dotted.split("."):
        place = _descend(place, name)
    return place


def _descend(place: Place, name: str) -> Place:
    if isinstance(place, Named):
        return place.cls
    if not isinstance(place, type) or name not in children(place):
        return None
    child = children(place)[name]
    if child.named:
        return Named(child.named)
    return Kind(child.kind) if child.kind else child.group


def _type_hint(place: Place) -> list[str]:
    if isinstance(place, Kind):
        return ["type"]
    if isinstance(place, Named):
        return ["NAME"]
    return list(children(place)) if place else []


def _unique(assignments: Iterator[Assignment]) -> Iterator[Assignment]:
    first: dict[str, Source] = {}
    for assignment in assignments:
        if assignment.path in first:
            raise UserError(f"{shown(assignment.path)} is given twice ({first[assignment.path]} and {assignment.source})")
        first[assignment.path] = assignment.source
        yield assignment


def _stages(file: Sequence[Assignment]) -> list[str]:
    stages: dict[str, None] = {}
    for assignment in file:
        head, _, rest = assignment.path.partition(".")
        if head != "stages" or not rest:
            continue
        name = rest.partition(".")[0]
        if not STAGE_NAME.fullmatch(name):
            raise UserError(f"{shown(name)} is no name for a stage ({assignment.source}): use up to 40 letters, digits, - and _")
        stages[name] = None
    return list(stages)


def _types(assignments: Sequence[Assignment]) -> dict[str, str]:
    """Variant of each group; UserError where a type is unknown or wants a scalar."""
    types: dict[str, str] = {}
    for assignment in assignments:
        group, _, name = assignment.path.rpartition(".")
        place = _descend_all(RunSettings, group) if group else None
        if name == "type" and isinstance(place, Kind):
            types[group] = _variant(assignment, place.name)
    return types


def _variant(assignment: Assignment, kind: str) -> str:
    known = registry.names(kind)
    try:
        text = assignment.value if isinstance(assignment.value, str) else text_of(assignment.value)
    except ValueError as error:
        raise UserError(f"{assignment.path}: expected one of {', '.join(known)}, {error} ({assignment.source})") from error
    if text not in known:
        raise UserError(f"{assignment.path}: unknown {kind} {shown(text)} ({assignment.source}): {suggest.choose(text, known)}")
    return text


def _chosen(every: Sequence[Key], types: dict[str, str]) -> list[Key]:
    for key in every:
        if key.name == "type" and not key.variant and key.group not in types:
            raise UserError(f"{key.path} is missing: choose one of {', '.join(key.meta['choices'])}")
    return [key for key in every if not key.variant or types[key.group] == key.variant]


def _misfit(path: str, types: dict[str, str]) -> str:
    group = path.rpartition(".")[0]
    return f"{group.rpartition('.')[2]} {types[group]} has no such key"
