"""Posed images as a camera file describes them: where each file lies, from where it was taken, through which lens."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from threedgen.errors import UserError

FURTHER = ("mask_path", "depth_file_path", "normal_file_path")  # keys of the files that a frame may have beside its image
ENDINGS = ("", ".png", ".jpg", ".jpeg")
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
PINHOLES = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE")
OFF_CENTRE = 0.5  # pixels that a principal point may be off the middle
FOCAL_DIFFERENCE = 1e-3  # share by which the two focal lengths may differ
ROTATION_ERROR = 1e-3


@dataclass(frozen=True)
class Frame:
    """One posed image.

    Attributes:
        image: its file; mask, depth, normal: files of the same size, or None.
        c2w: [4,4] float64 camera-to-world, OpenGL axes, in the units of the data.
        fovy: vertical field of view in radians.
        width, height: in pixels.
    """

    image: Path
    c2w: np.ndarray
    fovy: float
    width: int
    height: int
    mask: Path | None = None
    depth: Path | None = None
    normal: Path | None = None


def read_document(path: Path) -> dict[str, Any]:
    """The camera file as a mapping; UserError where it is none or has no frames."""
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read '{path}' ({error.strerror}): check the file") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"'{path}' is not JSON ({' '.join(str(error).split())[:100]}): write it anew") from error
    frames = document.get("frames") if isinstance(document, dict) else None
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise UserError(f"'{path}' has no list of frames: it must be a camera file of NeRF-synthetic or nerfstudio")
    if not frames:
        raise UserError(f"'{path}' lists no image: add frames to it")
    return document


def read_frames(path: Path, document: Mapping[str, Any]) -> list[Frame]:
    """Checked frames of a camera file, sorted by the names of their images; only the headers of the images are read.

    Raises:
        UserError: a file is missing or no image, a pose is no rigid motion, a camera is no centred pinhole, or sizes differ.
    """
    frames = sorted((_frame(path, document, entry, number) for number, entry in enumerate(document["frames"])), key=lambda f: str(f.image))
    check_one_size(frames)
    return frames


def check_one_size(frames: Sequence[Frame]) -> None:
    """UserError where images differ in size."""
    for frame in frames:
        if (frame.width, frame.height) != (frames[0].width, frames[0].height):
            raise UserError(
                f"'{frame.image}' has {frame.width} x {frame.height} pixels, '{frames[0].image}' {frames[0].width} x {frames[0].height}: "
                "images of one size are needed, crop or scale them"
            )


def _frame(path: Path, document: Mapping[str, Any], entry: Mapping[str, Any], number: int) -> Frame:
    name = entry.get("file_path")
    if not isinstance(name, str) or not name or "\0" in name:
        raise UserError(f"'{path}', frame {number}: file_path is missing: name the image of every frame")
    image = _existing(path, name)
    width, height = image_size(image)
    values = {**document, **entry}
    where = f"'{path}', image '{name}'"
    for key, size in (("w", width), ("h", height)):
        if key in values and _number(values, key, where) != size:
            raise UserError(
                f"{where}: {key} is {values[key]}, but the image has {width} x {height} pixels: scale the image, or the camera file's "
                "w, h, fl_x, fl_y, cx, cy"
            )
    fovy = 2 * math.atan(height / (2 * _focal_length(values, width, height, where)))
    further = [_existing(path, entry[key]) if entry.get(key) else None for key in FURTHER]
    return Frame(image, _pose(entry, where), fovy, width, height, *further)


def _existing(path: Path, name: str) -> Path:
    """A file that a camera file names, beside it; without an ending it is a PNG or JPEG."""
    for ending in ENDINGS:
        file = path.parent / f"{name}{ending}"
        try:
            if file.is_file():
                return file
        except (OSError, ValueError):  # a name that is too long, a NUL in it
            continue
    raise UserError(f"'{path}' names '{name}', which is not there: put the file in its place, or take the frame out")


def image_size(path: Path) -> tuple[int, int]:
    """Width and height by the header alone; UserError where the file is no image."""
    try:
        with Image.open(path) as image:
            return image.size
    except Exception as error:  # Pillow's readers raise whatever their parsers do
        raise UserError(f"'{path}' is no image that can be read: replace it by a PNG or JPEG file") from error


def _focal_length(values: Mapping[str, Any], width: int, height: int, where: str) -> float:
    """Focal length in pixels of a centred pinhole; UserError for every other camera."""
    if (model := values.get("camera_model", PINHOLES[0])) not in PINHOLES:
        raise UserError(f"{where}: camera_model {model!r} is no pinhole: undistort the images first")
    for key in DISTORTION:
        if key in values and _number(values, key, where) != 0:
            raise UserError(f"{where}: lens distortion {key}={values[key]} is not supported: undistort the images first")
    for key, middle in (("cx", width / 2), ("cy", height / 2)):
        if key in values and abs(_number(values, key, where) - middle) > OFF_CENTRE:
            raise UserError(
                f"{where}: the principal point {key}={values[key]} is off the middle ({middle}): crop the images so that it is centred"
            )
    along = [_focal(values, f"fl_{axis}", f"camera_angle_{axis}", size, where) for axis, size in (("x", width), ("y", height))]
    x, y = along[0] or along[1], along[1] or along[0]
    if x is None or y is None:
        raise UserError(f"{where}: neither fl_x nor camera_angle_x is given: add the focal length in pixels, or the horizontal angle")
    if abs(x - y) > FOCAL_DIFFERENCE * x:
        raise UserError(f"{where}: the focal lengths {x:g} and {y:g} differ: scale the images so that pixels are square")
    return y


def _focal(values: Mapping[str, Any], length: str, angle: str, size: int, where: str) -> float | None:
    """Focal length in pixels along an axis, by its length or its angle of view; None where neither is given."""
    if length in values:
        if (focal := _number(values, length, where)) > 0:
            return focal
        raise UserError(f"{where}: {length} must be above 0, got {values[length]}: give the focal length in pixels")
    if angle in values:
        if 0 < (view := _number(values, angle, where)) < math.pi:
            return size / (2 * math.tan(view / 2))
        raise UserError(f"{where}: {angle} must lie between 0 and pi, got {values[angle]}: give the angle of view in radians")
    return None


def _number(values: Mapping[str, Any], key: str, where: str) -> float:
    value = values[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{where}: {key} must be a finite number, got {value!r:.60}: correct it")
    return float(value)


def _pose(entry: Mapping[str, Any], where: str) -> np.ndarray:
    """[4,4] camera-to-world; UserError unless it is a rotation and a translation."""
    try:
        matrix = np.asarray(entry.get("transform_matrix"), np.float64)
    except (TypeError, ValueError, OverflowError):
        matrix = np.zeros(0)
    if matrix.shape not in ((4, 4), (3, 4)):
        raise UserError(f"{where}: transform_matrix must be 4 x 4 numbers: give the camera-to-world matrix")
    matrix = np.concatenate([matrix[:3], [[0.0, 0.0, 0.0, 1.0]]]) if len(matrix) == 3 else matrix
    if not np.isfinite(matrix).all():
        raise UserError(f"{where}: transform_matrix holds a number that is not finite: correct it, or take the frame out")
    rotation = matrix[:3, :3]
    is_rotation = np.abs(rotation.T @ rotation - np.eye(3)).max() < ROTATION_ERROR and np.linalg.det(rotation) > 0
    if not is_rotation or np.abs(matrix[3] - [0, 0, 0, 1]).max() > ROTATION_ERROR:
        raise UserError(f"{where}: transform_matrix is no rotation and translation: apply the scale of the camera before export")
    return matrix
