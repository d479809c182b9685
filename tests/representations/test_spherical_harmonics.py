"""Spherical harmonics: orthonormal, and known values."""

import math

import numpy as np
import pytest
import torch

from threedgen.representations.spherical_harmonics import ZERO, count_of, harmonics


def quadrature() -> tuple[torch.Tensor, torch.Tensor]:
    """Directions and weights that integrate polynomials of degree 15 over the sphere exactly."""
    heights, shares = np.polynomial.legendre.leggauss(8)
    angles = np.arange(16) * 2 * np.pi / 16
    z, angle = (grid.ravel() for grid in np.meshgrid(heights, angles, indexing="ij"))
    ring = np.sqrt(1 - z**2)
    directions = np.stack([ring * np.cos(angle), ring * np.sin(angle), z], -1)
    return torch.from_numpy(directions), torch.from_numpy(np.repeat(shares, 16) * 2 * np.pi / 16)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_they_are_orthonormal(degree: int):
    directions, weights = quadrature()
    values = harmonics(directions, degree)
    assert values.shape[-1] == count_of(degree)
    gram = values.T @ (weights[:, None] * values)
    torch.testing.assert_close(gram, torch.eye(count_of(degree), dtype=torch.float64), rtol=0, atol=1e-12)


def test_lower_degrees_come_first_and_with_the_signs_of_the_field():
    direction = torch.nn.functional.normalize(torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64), dim=-1)
    values = harmonics(direction, 3)
    for degree in range(3):
        torch.testing.assert_close(values[:, : count_of(degree)], harmonics(direction, degree))
    assert values[0, 0] == pytest.approx(ZERO) == pytest.approx(0.28209479177387814)
    torch.testing.assert_close(values[0, 1:4], math.sqrt(3 / 4 / math.pi) * direction[0, [1, 2, 0]] * torch.tensor([-1.0, 1.0, -1.0]))


@pytest.mark.parametrize("degree", [-1, 4])
def test_other_degrees_are_refused(degree: int):
    with pytest.raises(ValueError, match=r"degree must be 0 ... 3"):
        harmonics(torch.ones(1, 3), degree)
