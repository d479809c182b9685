"""Config file, recipes and command line to one assignment a key, variants resolved; every value keeps its origin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from yaml.nodes import MappingNode, Node, ScalarNode

from threedgen import registry
from threedgen.config import suggest
from threedgen.config.document import compose, describe, entries, text_of
from threedgen.config.keys import STAGE_NAME, Key, children, join, keys, load_variants
from threedgen.config.schema import RunSettings, StageSettings
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
    """A key of a file that does not go with the variant chosen on the command line."""

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


def from_file(top: MappingNode, place: str, cls: type = RunSettings, path: str = "") -> list[Assignment]:
    """Assignments of a file that holds the whole settings, or those of a class at a path."""
    return list(_unique(_flatten(top, cls, path, Source(place), place)))


HANDED_DOWN = ("representation", "cameras")  # what a stage has from the one before, unless it says otherwise
EMPTY = MappingNode("tag:yaml.org,2002:map", [])  # what a comment alone holds


def short_words() -> list[str]:
    """Groups of a stage that choose a variant: alone on the command line, `representation=hashgrid` chooses that of the only stage."""
    return [name for name, child in children(StageSettings).items() if child.kind]


def from_overrides(overrides: Sequence[str], stages: Sequence[str] = ()) -> list[Assignment]:
    """Assignments of `a.b=c` words, split at the first `=`; the text after it is kept as it is.

    Args:
        overrides: the words.
        stages: of the config; where there is one, the short words are its own.
    """
    found: list[Assignment] = []
    for word in overrides:
        path, equals, raw = word.partition("=")
        if not equals or not path:
            raise UserError(f"{shown(word)} is no override: write key=value, for example seed=3")
        if len(stages) == 1 and path in short_words():
            path = f"stages.{stages[0]}.{path}.type"
        place = _descend_all(RunSettings, path)
        if place is None:
            found.append(Assignment(path, raw, COMMAND_LINE))
        else:
            found += _flatten(compose(raw or "null", f"command line, {path}") or EMPTY, place, path, COMMAND_LINE, "")
    return found


def merge(file: Sequence[Assignment], recipes: Sequence[Assignment], overrides: Sequence[Assignment]) -> Merged:
    """Command line over recipes over config file; UserError at the first key that does not exist."""
    stages = stages_of(file)
    every = list(keys(stages))
    types = stage_types([*file, *recipes, *overrides], stages)
    within = [key for key in every if key.path.startswith("stages.")]
    for layer, there in ((file, every), (recipes, within), (overrides, every)):
        _refuse_unknown(layer, there, types)
    chosen = _chosen(every, types)
    known = {key.path for key in chosen}
    last: dict[str, Assignment] = {}
    dropped: list[Dropped] = []
    meant = (stage_types(file, stages), stage_types([*file, *recipes], stages), types)
    for layer, layer_types in zip((file, recipes, overrides), meant, strict=True):
        kept, unfit = _fitting(layer, layer_types, types, known)
        last |= {assignment.path: assignment for assignment in kept}
        dropped += unfit
    _hand_down(last, stages, types)
    for assignment in last.values():
        if assignment.path not in known:
            raise UserError(suggest.other_variant(assignment.path, str(assignment.source), every, types))
    return Merged(last, chosen, stages, types, [drop for drop in dropped if drop.assignment.path not in last])


def stage_types(assignments: Sequence[Assignment], stages: Sequence[str]) -> dict[str, str]:
    """Variant of each group, where a stage leaves it open that of the stage before."""
    types = types_of(assignments)
    for before, after in _handed_down(stages):
        if before in types:
            types.setdefault(after, types[before])
    return types


def _hand_down(last: dict[str, Assignment], stages: Sequence[str], types: dict[str, str]) -> None:
    """Give each stage the keys it leaves open of what the stage before says on the same variant."""
    for before, after in _handed_down(stages):
        if types.get(before) == types.get(after):
            for path, assignment in list(last.items()):
                if path.rpartition(".")[0] == before:
                    further = path.replace(before, after, 1)
                    last.setdefault(further, replace(assignment, path=further))


def _handed_down(stages: Sequence[str]) -> list[tuple[str, str]]:
    """Groups that a stage has from the one before it, as pairs (there, here), in the order of the stages."""
    return [(f"stages.{before}.{kind}", f"stages.{after}.{kind}") for before, after in pairwise(stages) for kind in HANDED_DOWN]


def _refuse_unknown(assignments: Sequence[Assignment], every: Sequence[Key], types: dict[str, str]) -> None:
    """UserError at a key that no variant has."""
    paths = {key.path for key in every}
    for assignment in assignments:
        if assignment.path not in paths:
            raise UserError(suggest.unknown_key(assignment.path, str(assignment.source), every, types))


def _fitting(
    layer: Sequence[Assignment], meant: dict[str, str], types: dict[str, str], known: set[str]
) -> tuple[list[Assignment], list[Dropped]]:
    """Assignments that stay, and those that were meant for a variant which a later layer replaced (`meant`, `types`: by group).

    A guidance's numbers are tuned for its rule, so all of them go; of other variants those go that the new one lacks.
    """
    kept: list[Assignment] = []
    dropped: list[Dropped] = []
    for assignment in layer:
        group, _, name = assignment.path.rpartition(".")
        before, now, kind = meant.get(group), types.get(group), kind_of(group)
        if before in (None, now) or name == "type":
            kept.append(assignment)
        elif kind == "guidance":
            dropped.append(Dropped(assignment, f"written for guidance {before}, not for {now}"))
        elif assignment.path not in known:
            dropped.append(Dropped(assignment, f"{kind} {now} has no such key"))
        else:
            kept.append(assignment)
    return kept, dropped


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


def stages_of(file: Sequence[Assignment]) -> list[str]:
    """Names of the stages of a config, in order; UserError for a name that is none."""
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


def types_of(assignments: Sequence[Assignment]) -> dict[str, str]:
    """Variant of each group; UserError where a type is unknown or wants a scalar."""
    load_variants()
    types: dict[str, str] = {}
    for assignment in assignments:
        group, _, name = assignment.path.rpartition(".")
        if name == "type" and (kind := kind_of(group)):
            types[group] = _variant(assignment, kind)
    return types


def kind_of(group: str) -> str:
    """Kind of the variants that a group chooses from ("guidance"), empty where it chooses none."""
    place = _descend_all(RunSettings, group) if group else None
    return place.name if isinstance(place, Kind) else ""


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
