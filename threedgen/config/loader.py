"""A config and its overrides to typed settings, every value with its origin."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from yaml.nodes import ScalarNode

from threedgen import registry
from threedgen.config import find
from threedgen.config.document import read
from threedgen.config.keys import Key, children, join
from threedgen.config.merge import Assignment, Dropped, Merged, from_file, from_overrides, merge, stages_of
from threedgen.config.recipes import profile, recipes
from threedgen.config.requirements import check_guidance, check_inputs, check_prior, inputs_of
from threedgen.config.schema import RunSettings
from threedgen.config.source import DEFAULT, Source, shown
from threedgen.config.values import convert, is_text, is_texts
from threedgen.errors import UserError


@dataclass(frozen=True)
class Loaded:
    """Settings of a run.

    Attributes:
        settings: complete and checked, except for inputs that are missing where they were not asked for.
        sources: origin of every dotted key.
        dropped: keys of the file that do not go with a variant chosen on the command line.
        missing: inputs that the run needs and that nobody gave ("prompt", "data").
        name, path: of the config.
    """

    settings: RunSettings
    sources: dict[str, Source]
    dropped: list[Dropped]
    missing: list[str]
    name: str
    path: Path


def load(config: str, overrides: Sequence[str] = (), *, inputs_needed: bool = True) -> Loaded:
    """Read a config by name or path, put `key=value` overrides on top, check everything.

    With `inputs_needed`, what the run starts from must be given: a folder of posed images where the guidance fits images, else a prompt.
    Where an override puts another guidance or representation in place of the config's, the config's recipe for it lies between the two; so
    do the numbers of a profile that an override names.

    Raises:
        UserError: one line naming the key, the value, what is allowed and where the value was written.
    """
    path = find.find(config)
    place = find.place(path)
    top = read(path)
    if top is None:
        raise UserError(f"{place} is empty: start from one of the shipped configs (--list configs)")
    file = from_file(top, place)
    words = from_overrides(overrides, stages_of(file))
    file += profile(path, words)
    merged = merge(file, recipes(path, file, words), words)
    if not merged.stages:
        raise UserError(f"{place} has no stages: a run needs at least one, under `stages:`")
    sources = {key.path: DEFAULT for key in merged.keys} | {p: a.source for p, a in merged.assignments.items()}
    values = _values(merged, sources)
    values.setdefault("prompt", "")
    inputs = inputs_of(merged.types)
    missing = [name for name in inputs if sources[name] == DEFAULT]
    if inputs_needed:
        check_inputs(inputs, missing, values, sources, place)
    check_prior(values["prior"], str(sources["prior"]))
    for group, name in merged.types.items():
        check_guidance(group, name, values, sources)
    settings = _build(RunSettings, "", values, merged)
    return Loaded(settings, sources, merged.dropped, missing, path.stem, path)


def load_run(folder: str, overrides: Sequence[str], config: str) -> Loaded:
    """The settings that a run was made with, its folder given; overrides make another run of the same config.

    Raises:
        UserError: the folder holds no run, or a config is named beside it.
    """
    path = Path(folder).absolute()
    if not (path / "config.yaml").is_file():
        raise UserError(f"--resume {shown(folder)}: that is no folder of a run; --resume alone finds the run of the same settings")
    if config:
        raise UserError(f"--resume {shown(folder)} takes the config from the run: leave --config out, or name no run")
    loaded = load(str(path / "config.yaml"), [f"output={path.parent.parent}", *overrides])
    return replace(loaded, name=path.parent.name)


def _values(merged: Merged, sources: dict[str, Source]) -> dict[str, Any]:
    """Checked value of every key that was given or has a default."""
    values: dict[str, Any] = {}
    for key in merged.keys:
        assignment = merged.assignments.get(key.path)
        if assignment is None or _left_open(assignment):
            sources[key.path] = DEFAULT
            if key.default is not MISSING:
                values[key.path] = key.default
            elif key.path != "prompt":
                raise UserError(f"{key.path} is missing: {key.meta['doc']}")
        else:
            values[key.path] = _converted(key, assignment)
    return values


def _converted(key: Key, assignment: Assignment) -> Any:
    try:
        return convert(key, assignment.value)
    except ValueError as error:
        raise UserError(f"{key.path}: {error} ({assignment.source})") from error


def _left_open(assignment: Assignment) -> bool:
    """Whether a file says `key: ???`, the mark for a value that the user must give."""
    node = assignment.value
    return isinstance(node, ScalarNode) and node.value == "???" and not node.style


def _build(cls: type, path: str, values: dict[str, Any], merged: Merged) -> Any:
    """Object of a settings class, its groups built first. Text stays outside of OmegaConf, which would read `${...}` in it."""
    numbers: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for name, child in children(cls).items():
        below = join(path, name)
        if child.kind:
            rest[name] = _build(registry.lookup(child.kind, merged.types[below]), below, values, merged)
        elif child.group:
            rest[name] = _build(child.group, below, values, merged)
        elif child.named:
            rest[name] = {stage: _build(child.named, join(below, stage), values, merged) for stage in merged.stages}
        else:
            key = Key(below, child.hint, dict(child.field.metadata), None)
            (rest if is_text(key) or is_texts(key) else numbers)[name] = values[below]
    built = cls(**_typed(cls, numbers), **rest)
    _check_together(built, path)
    return built


def _typed(cls: type, numbers: dict[str, Any]) -> dict[str, Any]:
    """Copies of the values, held to the annotations of the class by OmegaConf's structured containers."""
    container = _containers(cls).copy()
    for name, value in numbers.items():
        container[name] = value
    plain = {name: container[name] for name in numbers}
    return {name: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value for name, value in plain.items()}


@functools.cache
def _containers(cls: type) -> DictConfig:
    return OmegaConf.structured(cls)


def _check_together(built: Any, path: str) -> None:
    try:
        getattr(built, "check", lambda: None)()
    except ValueError as error:
        raise UserError(f"{path}: {error}" if path else str(error)) from error
