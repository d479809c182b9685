"""Surfaces of known shapes on tetrahedral grids: area, volume, topology, orientation, gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.ops.surfaces import area_of, assert_closed, euler, volume_of
from threedgen.ops import marching_tets, tet_grid


def grid(resolution: int) -> tuple[Tensor, Tensor]:
    positions, tets = tet_grid(resolution)
    return positions.double(), tets


@pytest.mark.parametrize("resolution", [1, 2, 5])
def test_the_grid_fills_the_cube_with_positive_tetrahedra(resolution: int) -> None:
    positions, tets = grid(resolution)
    a, b, c, d = positions[tets].unbind(1)
    volume = (torch.linalg.cross(b - a, c - a) * (d - a)).sum(-1) / 6
    assert (volume > 0).all()
    assert volume.sum().item() == pytest.approx(8)
    assert len(tets.sort(1).values.unique(dim=0)) == len(tets)
    assert torch.equal(tets.unique(), torch.arange(len(positions)))


@pytest.mark.parametrize("resolution", [2, 3])
def test_tetrahedra_of_the_grid_meet_in_whole_faces(resolution: int) -> None:
    """A triangle belongs to two tetrahedra, or to one if it lies on the cube's boundary."""
    positions, tets = grid(resolution)
    triangles, count = tets[:, [[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]]].view(-1, 3).sort(1).values.unique(dim=0, return_counts=True)
    corners = positions[triangles]
    boundary = ((corners - corners[:, :1]).abs().amax(1) == 0) & (corners[:, 0].abs() == 1)
    assert torch.equal(count, 2 - boundary.any(-1).long())


def test_area_and_volume_of_a_sphere() -> None:
    positions, tets = grid(24)
    vertices, faces = marching_tets(positions.norm(dim=-1) - 0.7, positions, tets)
    assert_closed(faces)
    assert euler(vertices, faces) == 2
    assert volume_of(vertices, faces).item() == pytest.approx(4 / 3 * math.pi * 0.7**3, rel=6e-3)
    assert area_of(vertices, faces).item() == pytest.approx(4 * math.pi * 0.7**2, rel=6e-3)
    assert (vertices.norm(dim=-1) - 0.7).abs().max() < 3e-3


def test_a_half_space_is_cut_exactly() -> None:
    """Linear distances are interpolated without error, whatever the direction of the plane."""
    positions, tets = grid(6)
    normal = torch.tensor([0.3, -0.8, 0.52], dtype=torch.float64)
    vertices, faces = marching_tets(positions @ normal - 0.11, positions, tets)
    assert (vertices @ normal - 0.11).abs().max() < 1e-12
    a, b, c = vertices[faces].unbind(1)
    assert (torch.linalg.cross(b - a, c - a) @ normal >= -1e-15).all()


def test_a_torus_and_two_spheres_have_their_topology() -> None:
    positions, tets = grid(20)
    x, y, z = positions.unbind(-1)
    torus = torch.stack([torch.stack([x, y], -1).norm(dim=-1) - 0.55, z], -1).norm(dim=-1) - 0.25
    vertices, faces = marching_tets(torus, positions, tets)
    assert_closed(faces)
    assert euler(vertices, faces) == 0
    assert volume_of(vertices, faces).item() == pytest.approx(2 * math.pi**2 * 0.55 * 0.25**2, rel=3e-2)
    two = torch.stack([(positions - positions.new_tensor([side, 0, 0])).norm(dim=-1) - 0.35 for side in (-0.5, 0.5)]).amin(0)
    vertices, faces = marching_tets(two, positions, tets)
    assert euler(vertices, faces) == 4


@pytest.mark.parametrize("seed", range(3))
def test_random_distances_with_zeros_give_closed_surfaces(seed: int) -> None:
    """Noise, a third of it exactly 0: every case of the table occurs."""
    positions, tets = grid(5)
    rng = torch.Generator().manual_seed(seed)
    sdf = torch.randn(len(positions), generator=rng, dtype=torch.float64)
    sdf[torch.rand(len(sdf), generator=rng) < 0.3] = 0
    sdf[positions.abs().amax(-1) == 1] = 1
    vertices, faces = marching_tets(sdf, positions, tets)
    directed = torch.stack([faces, faces.roll(-1, 1)], -1).view(-1, 2)
    assert torch.equal(*(torch.sort(d[:, 0] * len(vertices) + d[:, 1]).values for d in (directed, directed.flip(1))))
    assert torch.isfinite(vertices).all()
    assert volume_of(vertices, faces) > 0


def test_a_box_whose_sides_lie_on_vertices() -> None:
    """Distances of exactly 0 on whole planes of the grid."""
    positions, tets = grid(8)
    sdf = positions.abs().amax(-1) - 0.5
    vertices, faces = marching_tets(sdf, positions, tets)
    assert_closed(faces)
    assert volume_of(vertices, faces).item() == pytest.approx(1.0, rel=2e-2)
    assert area_of(vertices, faces).item() == pytest.approx(6.0, rel=4e-2)


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_without_a_surface_nothing_is_returned_but_the_gradient_flows(value: float) -> None:
    positions, tets = grid(2)
    sdf = torch.full((len(positions),), value, dtype=torch.float64, requires_grad=True)
    vertices, faces = marching_tets(sdf, positions, tets)
    assert vertices.shape == faces.shape == (0, 3)
    assert torch.equal(torch.autograd.grad(vertices.sum(), sdf)[0], torch.zeros_like(sdf))


def test_gradcheck() -> None:
    positions, tets = grid(2)
    rng = torch.Generator().manual_seed(3)
    sdf = (torch.randn(len(positions), generator=rng, dtype=torch.float64)).requires_grad_()
    moved = (positions + 0.05 * torch.randn(positions.shape, generator=rng, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda s, p: marching_tets(s, p, tets)[0], (sdf, moved))


def test_the_volume_of_a_sphere_grows_by_its_area() -> None:
    positions, tets = grid(20)
    radius = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    vertices, faces = marching_tets(positions.norm(dim=-1) - radius, positions, tets)
    (slope,) = torch.autograd.grad(volume_of(vertices, faces), radius)
    assert slope.item() == pytest.approx(4 * math.pi * 0.7**2, rel=1e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sdf": torch.zeros(4, 1)}, "sdf must have shape"),
        ({"positions": torch.zeros(5, 3)}, "positions must have shape"),
        ({"tets": torch.zeros(1, 4)}, "tets must be int64"),
        ({"sdf": torch.zeros(4, dtype=torch.float64)}, "one dtype is needed"),
    ],
)
def test_misfits_are_named(change: dict, message: str) -> None:
    arguments = {"sdf": torch.zeros(4), "positions": torch.zeros(4, 3), "tets": torch.tensor([[0, 1, 2, 3]])}
    with pytest.raises(ValueError, match=message):
        marching_tets(**{**arguments, **change})


def test_a_grid_without_cells_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one cell"):
        tet_grid(0)
