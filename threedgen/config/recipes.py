"""Recipes: what a config says about a guidance or a representation other than its own, in a file of its own beside the config.

A recipe is a part of a stage (`guidance: {...}`, `cameras: {...}`, `steps: ...`, keys relative to the stage). It lies in
`recipes/<stem of the config>/<guidance or representation>.yaml` and comes on top of the config where the command line chooses that guidance
or representation. Where it chooses both, what the representation's recipe says counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from threedgen.config import find
from threedgen.config.document import describe, read, text_of
from threedgen.config.merge import Assignment, from_file, kind_of, types_of
from threedgen.config.schema import StageSettings
from threedgen.config.source import Source
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
