"""Which space around a solid can be looked into: what no eye sees need not be hollow."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from scipy import ndimage

ELEVATIONS = (-15.0, 0.0, 20.0, 45.0, 70.0)  # degrees; few people look at an object from far below
AZIMUTHS = 12


def without_hidden_space(solid: np.ndarray, crack: int) -> np.ndarray:
    """The solid [N,N,N] bool, with the space filled that is closed, or that nobody sees from outside.

    Args:
        solid: cells indexed x, y, z.
        crack: cracks of up to twice so many cells do not count as windows.
    """
    cross = ndimage.generate_binary_structure(3, 1)
    seen = seen_from_around(ndimage.binary_dilation(solid, cross, iterations=crack))
    hidden = np.logical_not(ndimage.binary_dilation(seen, cross, iterations=crack))
    return np.asarray(ndimage.binary_fill_holes(solid | hidden))


def seen_from_around(solid: np.ndarray) -> np.ndarray:
    """[N,N,N] bool: the cells (indexed x, y, z) that far eyes all around, a little below and above see, first solid ones included."""
    seen = seen_along(solid, (0.0, 0.0, -1.0))
    for direction in _looks():
        seen |= seen_along(solid, direction)
    return seen


def _looks() -> Iterator[tuple[float, float, float]]:
    for elevation in ELEVATIONS:
        for i in range(AZIMUTHS):
            up, around = math.radians(elevation), 2 * math.pi * i / AZIMUTHS
            yield -math.cos(up) * math.cos(around), -math.cos(up) * math.sin(around), -math.sin(up)


def seen_along(solid: np.ndarray, direction: tuple[float, float, float]) -> np.ndarray:
    """[N,N,N] bool: the cells that parallel light along a direction reaches, the first solid ones included.

    Light goes from slice to slice across the axis it is closest to; its sideways moves are rounded to whole cells.
    """
    axis = int(np.argmax(np.abs(direction)))
    slices, seen = np.moveaxis(solid, axis, 0), np.empty_like(solid)
    lit_slices = np.moveaxis(seen, axis, 0)
    if direction[axis] < 0:
        slices, lit_slices = slices[::-1], lit_slices[::-1]
    slopes = [d / abs(direction[axis]) for i, d in enumerate(direction) if i != axis]
    lit = np.ones(slices.shape[1:], bool)
    for k, blocked in enumerate(slices):
        lit_slices[k] = lit
        move = [round((k + 1) * slope) - round(k * slope) for slope in slopes]
        lit = _moved(lit & ~blocked, move)
    return seen


def _moved(lit: np.ndarray, move: list[int]) -> np.ndarray:
    """A slice moved by at most one cell along either axis; what enters at the border is lit."""
    padded = np.pad(lit, 1, constant_values=True)
    rows, columns = lit.shape
    return padded[1 - move[0] : 1 - move[0] + rows, 1 - move[1] : 1 - move[1] + columns]
