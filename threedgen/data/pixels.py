"""Files of images, masks, depths and normals as arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from threedgen.data.frames import Frame
from threedgen.errors import UserError

SHORTEST_NORMAL = 0.5  # length of a decoded normal from which on it is one


def read_rgba(frame: Frame) -> np.ndarray:
    """[H,W,4] uint8, alpha straight, 255 where the file has none; UserError where the file is damaged or not of 8 bits."""
    with _opened(frame.image) as image:
        if image.mode.startswith(("I", "F")):
            raise UserError(f"'{frame.image}' has more than 8 bits a channel: save it with 8")
        return np.asarray(image.convert("RGBA"))


def read_mask(frame: Frame) -> np.ndarray:
    """[H,W] bool, True where the image counts; all of it where the frame has no mask."""
    if frame.mask is None:
        return np.ones((frame.height, frame.width), bool)
    with _opened(frame.mask) as image:
        return _sized(np.asarray(image.convert("L")) > 0, frame, frame.mask)


def read_depth(frame: Frame) -> np.ndarray:
    """[H,W] float32 depths along the optical axis in the file's units, 0 where unknown.

    From a PNG of 16 bits or a NumPy file; not finite and negative values are unknown.
    """
    if frame.depth is None:
        return np.zeros((frame.height, frame.width), np.float32)
    if frame.depth.suffix == ".npy":
        try:
            values = np.load(frame.depth, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"'{frame.depth}' cannot be read as a NumPy file: replace it") from error
    else:
        with _opened(frame.depth) as image:
            values = np.asarray(image)
    values = _sized(values.squeeze().astype(np.float32), frame, frame.depth)
    return np.where(np.isfinite(values) & (values > 0), values, 0)


def read_normal(frame: Frame) -> np.ndarray:
    """[H,W,3] float32 unit normals in the world of the data, 0 where unknown: where the file's alpha is 0, or its values are no direction.

    From an RGB image of 8 bits that holds 0.5 + 0.5 n.
    """
    if frame.normal is None:
        return np.zeros((frame.height, frame.width, 3), np.float32)
    with _opened(frame.normal) as image:
        if image.mode not in ("RGB", "RGBA"):
            raise UserError(f"'{frame.normal}' is no RGB image of 8 bits: save normals as 0.5 + 0.5 n in three channels")
        rgba = np.asarray(image.convert("RGBA"), np.float32) / 255
    values = rgba[..., :3] * 2 - 1
    length = np.linalg.norm(values, axis=-1, keepdims=True)
    known = (length > SHORTEST_NORMAL) & (rgba[..., 3:] > 0)
    normals = np.where(known, values / np.maximum(length, SHORTEST_NORMAL), 0)
    if normals.shape[:2] != (frame.height, frame.width):
        raise UserError(_wrong_size(frame, frame.normal))
    return normals.astype(np.float32)


def _opened(path: Path) -> Image.Image:
    """A decoded image: a damaged file is found here, not by its header."""
    try:
        with path.open("rb") as file:
            image = Image.open(file)
            image.load()
    except Exception as error:  # Pillow's readers raise whatever their parsers do
        raise UserError(f"'{path}' is damaged or cut off: replace the file") from error
    return image


def _sized(values: np.ndarray, frame: Frame, path: Path) -> np.ndarray:
    if values.shape != (frame.height, frame.width):
        raise UserError(_wrong_size(frame, path))
    return values


def _wrong_size(frame: Frame, path: Path) -> str:
    return f"'{path}' does not have the size of its image, {frame.width} x {frame.height} pixels: give it that size"
