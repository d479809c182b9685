"""Files of images, masks and depths as arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from threedgen.data.frames import Frame
from threedgen.errors import UserError


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
        raise UserError(f"'{path}' does not have the size of its image, {frame.width} x {frame.height} pixels: give it that size")
    return values
