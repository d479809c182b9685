"""Which images of a folder are fitted, and which are kept for the test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threedgen.data.frames import Frame, check_one_size, read_document, read_frames
from threedgen.errors import UserError

TRAIN, HELD_OUT, TOGETHER = "transforms_train.json", ("transforms_test.json", "transforms_val.json"), "transforms.json"


@dataclass(frozen=True)
class Splits:
    """Frames to fit and frames to test on, each at least one."""

    train: list[Frame]
    test: list[Frame]


def read_splits(folder: Path, hold_out: int) -> Splits:
    """Frames of a NeRF-synthetic folder (a camera file for each split) or a nerfstudio folder (one for all).

    Test images are those of transforms_test.json, or transforms_val.json; in a nerfstudio folder those that `test_filenames` or
    `val_filenames` name; where the data says nothing, every `hold_out`-th in the order of the names.

    Raises:
        UserError: the folder holds neither, a split is empty, or what `read_frames` raises.
    """
    if (folder / TRAIN).is_file():
        train = read_frames(folder / TRAIN, read_document(folder / TRAIN))
        held_out = [folder / name for name in HELD_OUT if (folder / name).is_file()]
        splits = Splits(train, read_frames(held_out[0], read_document(held_out[0]))) if held_out else _every(train, hold_out)
    elif (folder / TOGETHER).is_file():
        document = read_document(folder / TOGETHER)
        splits = _named(folder / TOGETHER, document, hold_out)
    else:
        raise UserError(f"'{folder}' holds neither {TRAIN} nor {TOGETHER}: name a folder of NeRF-synthetic or nerfstudio")
    check_one_size([*splits.train, *splits.test])
    return splits


def _every(frames: Sequence[Frame], hold_out: int) -> Splits:
    train = [frame for number, frame in enumerate(frames) if number % hold_out]
    if not train:
        raise UserError(f"'{frames[0].image}' is the only image, and a fit needs one more to test on: add images")
    return Splits(train, list(frames[::hold_out]))


def _named(path: Path, document: Mapping[str, Any], hold_out: int) -> Splits:
    frames = read_frames(path, document)
    test = _picked(path, document, "test_filenames", frames) or _picked(path, document, "val_filenames", frames)
    if not test:
        train = _picked(path, document, "train_filenames", frames)
        rest = [frame for frame in frames if train and frame not in train]
        return Splits(train, rest) if rest else _every(train or frames, hold_out)
    train = _picked(path, document, "train_filenames", frames) or [frame for frame in frames if frame not in test]
    if not train:
        raise UserError(f"'{path}': every image is kept for the test: leave some for train_filenames")
    return Splits(train, test)


def _picked(path: Path, document: Mapping[str, Any], key: str, frames: Sequence[Frame]) -> list[Frame]:
    """Frames whose images a list of names names; none where there is no such list."""
    names = document.get(key) or []
    by_name = {frame.image: frame for frame in frames}
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"'{path}': {key} must be a list of file names: correct it")
    unknown = [name for name in names if path.parent / name not in by_name]
    if unknown:
        raise UserError(f"'{path}': {key} names '{unknown[0]}', which is no frame: add the frame, or take the name out")
    return [by_name[path.parent / name] for name in names]
