"""Recipes and profiles: what a config says about another guidance, representation or machine, in files of their own beside the config.

A recipe is a part of a stage (`guidance: {...}`, `cameras: {...}`, `steps: ...`, keys relative to the stage). It lies in
`recipes/<stem of the config>/<guidance or representation>.yaml` and comes on top of the config where the command line chooses that guidance
or representation. Where it chooses both, what the representation's recipe says counts.

A profile says the same keys as the config, with the numbers of another machine. It lies in `profiles/<stem of the config>/<name>.yaml` and
comes on top of the config where the command line says `profile=<name>`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from threedgen.config import find
from threedgen.config.document import describe, read, text_of
from threedgen.config.merge import Assignment, from_file, kind_of, types_of
from threedgen.config.schema import StageSettings
from threedgen.config.source import Source, shown
from threedgen.config.suggest import choose
from threedgen.errors import UserError

KINDS = ("guidance", "representation")  # in the order their recipes are put on top of each other


def recipes(config: Path, file: Sequence[Assignment], overrides: Sequence[Assignment]) -> list[Assignment]:
    """Assignments of the recipes for the guidances and representations that the overrides put in place of the config's.

    Args:
        config: its file; the recipes lie beside it.
        file, overrides: assignments of the config and of the command line.

    Raises:
        UserError: a recipe cannot be read, or is for another guidance or representation than its name says.
    """
    written, chosen = types_of(file), types_of([*file, *overrides])
    groups = sorted((group for group in chosen if kind_of(group) in KINDS), key=lambda group: KINDS.index(kind_of(group)))
    found: list[Assignment] = []
    for group in groups:
        variant = chosen[group]
        path = find.recipe(config, variant)
        if path and written.get(group, variant) != variant:
            found += _read(path, group, variant)
    return found


def profile(config: Path, overrides: Sequence[Assignment]) -> list[Assignment]:
    """Assignments of the profile that the overrides name; UserError where the config has none of that name."""
    named = [assignment for assignment in overrides if assignment.path == "profile"]
    if not named or not (name := str(named[-1].value)):
        return []
    known = find.profiles(config)
    if name not in known:
        hint = choose(name, list(known)) if known else "leave it out"
        raise UserError(f"profile: {find.place(config)} has no profile {shown(name)} ({named[-1].source}): {hint}")
    top = read(known[name])
    return from_file(top, find.place(known[name])) if top else []


def _read(path: Path, group: str, variant: str) -> list[Assignment]:
    """A recipe's assignments to the stage of a group; its type first, which it need not say itself."""
    place, stage, kind = find.place(path), group.rpartition(".")[0], kind_of(group)
    top = read(path)
    said = from_file(top, place, StageSettings, stage) if top else []
    for assignment in said:
        if assignment.path == f"{group}.type" and _text(assignment) != variant:
            raise UserError(
                f"{kind}.type: a recipe is for the {kind} of its file name, {variant}, got {_text(assignment)} ({assignment.source})"
            )
    return [Assignment(f"{group}.type", variant, Source(place)), *said]


def _text(assignment: Assignment) -> str:
    assert not isinstance(assignment.value, str)
    try:
        return text_of(assignment.value)
    except ValueError:
        return describe(assignment.value)
