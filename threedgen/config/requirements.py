"""What must hold beyond the single values: a prompt or images, a prior that fits the guidance, a folder that can be written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from threedgen import registry
from threedgen.config import suggest
from threedgen.config.aliases import ALIASES, BUILT_IN
from threedgen.config.schema import POSED_IMAGES
from threedgen.config.source import Source, shown
from threedgen.errors import UserError
from threedgen.schedule import knots_of

CAMERA_FILES = ("transforms_train.json", "transforms.json")


def inputs_of(types: Mapping[str, str]) -> list[str]:
    """What a run starts from: the key "data" where a guidance fits posed images, "prompt" where one listens to a prior.

    Args:
        types: variant of every group that chooses one, by dotted path.
    """
    guidances = [registry.lookup("guidance", name) for group, name in types.items() if group.endswith(".guidance")]
    fits = {POSED_IMAGES in getattr(guidance, "needs", ()) for guidance in guidances}
    return [name for name, wanted in (("prompt", False in fits), ("data", True in fits)) if wanted]


def check_inputs(
    inputs: Sequence[str], missing: Sequence[str], values: Mapping[str, Any], sources: Mapping[str, Source], place: str
) -> None:
    """UserError where an input is missing or cannot be used, or a folder of images is given to a run that does not look at it."""
    if "prompt" in missing:
        raise UserError(f'{place} has no prompt: say what to make, for example prompt="a red apple"')
    if "data" in missing:
        raise UserError(f"{place} has no data: name a folder of posed images, for example data=path/to/lego")
    if "prompt" in inputs:
        check_prompt(values["prompt"], str(sources["prompt"]))
    if "data" in inputs:
        check_data(values["data"], str(sources["data"]))
    elif values["data"]:
        raise UserError(f"data ({sources['data']}) is looked at by guidance images alone: use --config fit, or leave data out")


def check_data(data: str, source: str) -> None:
    """UserError unless a folder holds the camera file of a known format."""
    try:
        folder = Path(data).expanduser()
        is_folder = bool(data) and folder.is_dir()
        known = is_folder and any((folder / name).is_file() for name in CAMERA_FILES)
    except (ValueError, OSError, RuntimeError):
        is_folder = known = False
    if not is_folder:
        raise UserError(f"data: {shown(data)} is no folder ({source}): name the folder that holds {' or '.join(CAMERA_FILES)}")
    if not known:
        raise UserError(f"data: {shown(data)} holds neither {' nor '.join(CAMERA_FILES)} ({source}): name a folder in one of these formats")


def check_prompt(prompt: str, source: str) -> None:
    """UserError for a prompt without any visible character."""
    if not prompt.strip():
        raise UserError(f'the prompt is empty ({source}): say what to make, for example prompt="a red apple"')


def check_prior(prior: str, source: str) -> None:
    """UserError unless the prior is a known name or an existing diffusers folder."""
    names = [*BUILT_IN, *ALIASES]
    if prior in names:
        return
    try:
        folder = bool(prior) and Path(prior).expanduser().is_dir()
    except (ValueError, OSError, RuntimeError):
        folder = False
    if not folder:
        raise UserError(
            f"prior: {shown(prior)} is no known prior and no folder ({source}): {suggest.choose(prior, names)}, or a diffusers folder"
        )


def check_guidance(group: str, name: str, values: Mapping[str, Any], sources: Mapping[str, Source]) -> None:
    """UserError for a guidance that a run from text cannot have: one that needs more inputs, or a critic that the prior cannot train.

    Args:
        group: dotted path of a group that chooses a variant; groups of other kinds pass.
        name: of the variant.
        values, sources: checked value and origin of every dotted key.
    """
    if not group.endswith(".guidance"):
        return
    rule, source = registry.lookup("guidance", name), sources[f"{group}.type"]
    if needs := [name for name in getattr(rule, "needs", ()) if name != POSED_IMAGES]:
        raise UserError(
            f"{group}.type: {name} needs {' and '.join(needs)}, which a run from text does not have ({source}): "
            "choose another guidance (--list guidances)"
        )
    if getattr(rule, "critic", False) and values["prior"] == "analytic":
        raise UserError(
            f"{group}.type: {name} trains a critic ({source}), which the closed-form prior analytic cannot ({sources['prior']}): "
            "choose a guidance without a critic, or prior=embedded"
        )
    scale = f"{group}.image_scale"
    if any(height for _, height in knots_of(values.get(scale, 0.0))):
        raise UserError(f"{scale}: a run from text has no image prompt ({sources[scale]}): leave it at 0")


def check_output(output: str) -> None:
    """UserError unless the folder of the runs exists or can be made, and can be written to."""
    hint = "choose another folder with output=FOLDER"
    if not output or "\0" in output:
        raise UserError(f"output: {shown(output)} is no folder: {hint}")
    try:
        folder = _nearest(Path(output).absolute())
        is_folder = folder.is_dir()
    except OSError as error:
        raise UserError(f"output: cannot use {shown(output)} ({error.strerror}): {hint}") from error
    if not is_folder:
        raise UserError(f"output: {shown(str(folder))} is not a folder: {hint}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"output: no permission to write in {shown(str(folder))}: {hint}")


def _nearest(path: Path) -> Path:
    """The path, or the nearest of its parents that exists; OSError where a name is impossible."""
    while True:
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            path = path.parent
        else:
            return path
