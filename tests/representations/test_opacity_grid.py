"""Sums of opacities on a grid, against sums over all Gaussians."""

import pytest
import torch

from threedgen.representations import opacity_grid as module
from threedgen.representations.opacity_grid import FAINTEST, opacity_grid


def scene(count: int, deviation: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    means = 2.4 * torch.rand(count, 3, generator=rng, dtype=torch.float64) - 1.2  # some beside the cube
    axes = deviation * torch.randn(count, 3, 3, generator=rng, dtype=torch.float64)
    return means, axes, torch.rand(count, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("deviation", [0.02, 0.3])
@pytest.mark.parametrize("chunk", [2**21, 500])
def test_sums_are_those_over_all_but_the_faint_flanks(deviation: float, chunk: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "CHUNK", chunk)
    means, axes, opacity = scene(30, deviation)
    axis = torch.linspace(-1, 1, 17, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)
    offset = points[..., None, :] - means
    squared = (torch.linalg.inv(axes) @ offset[..., None]).square().sum((-1, -2))
    share = opacity * torch.exp(-0.5 * squared)
    got = opacity_grid(means, axes, opacity, 1.0, 17)
    assert (got <= share.sum(-1) + 1e-9).all()
    assert (got >= torch.where(share >= FAINTEST, share, 0).sum(-1) - 1e-9).all()


def test_without_gaussians_there_is_nothing():
    assert (opacity_grid(*scene(0, 0.1), 1.0, 5) == 0).all()
    means, axes, opacity = scene(5, 0.1)
    assert (opacity_grid(means, axes, 0.5 * FAINTEST * opacity, 1.0, 5) == 0).all()


def test_a_flat_gaussian_counts_where_it_lies():
    """An axis of no length: only points in its plane, to rounding."""
    axes = torch.diag(torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64))[None]
    got = opacity_grid(torch.zeros(1, 3, dtype=torch.float64), axes, torch.tensor([0.8], dtype=torch.float64), 1.0, 5)
    assert got[2, 2, 2] == pytest.approx(0.8)
    assert (got[:, :, [0, 1, 3, 4]] == 0).all()
