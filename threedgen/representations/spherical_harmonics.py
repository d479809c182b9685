"""Real spherical harmonics to degree 3, in the order and with the signs of 3D Gaussian Splatting files."""

from __future__ import annotations

import math

import torch
from torch import Tensor

ZERO = 0.5 / math.sqrt(math.pi)  # the harmonic of degree 0


def count_of(degree: int) -> int:
    """Number of harmonics to a degree."""
    return (degree + 1) ** 2


def harmonics(directions: Tensor, degree: int) -> Tensor:
    """[...,(degree+1)^2] orthonormal harmonics of unit directions [...,3]; degree 0 to 3.

    Raises:
        ValueError: another degree.
    """
    if not 0 <= degree <= 3:
        raise ValueError(f"degree must be 0 ... 3, got {degree}")
    x, y, z = directions.unbind(-1)
    values = [torch.full_like(x, ZERO)]
    if degree >= 1:
        one = math.sqrt(3 / (4 * math.pi))
        values += [-one * y, one * z, -one * x]
    if degree >= 2:
        two = math.sqrt(15 / (4 * math.pi))
        values += [two * x * y, -two * y * z, math.sqrt(5 / (16 * math.pi)) * (3 * z * z - 1), -two * x * z, 0.5 * two * (x * x - y * y)]
    if degree == 3:
        outer, middle, inner = math.sqrt(35 / (32 * math.pi)), math.sqrt(105 / (4 * math.pi)), math.sqrt(21 / (32 * math.pi))
        values += [
            -outer * y * (3 * x * x - y * y),
            middle * x * y * z,
            -inner * y * (5 * z * z - 1),
            math.sqrt(7 / (16 * math.pi)) * z * (5 * z * z - 3),
            -inner * x * (5 * z * z - 1),
            0.5 * middle * z * (x * x - y * y),
            -outer * x * (x * x - 3 * y * y),
        ]
    return torch.stack(values, -1)
