"""Surfaces of known shapes on grids of cubes: topology of every case, orientation, closed forms, gradients, sharp edges."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.ops.surfaces import assert_closed, euler, fans, volume_of
from threedgen.ops import cube_grid, flexicubes, marching_tets, tet_grid
from threedgen.ops.flexicubes import WEIGHTS
from threedgen.representations.base import Mesh
from threedgen.representations.mesh import sample_faces


def grid(cells: int) -> tuple[Tensor, Tensor]:
    """Positions and weights of nothing."""
    return cube_grid(cells).double(), torch.zeros(cells**3, WEIGHTS, dtype=torch.float64)


def noise(cells: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random distances, outside on the boundary, positions, random weights."""
    rng = torch.Generator().manual_seed(seed)
    positions, weights = grid(cells)
    sdf = torch.randn(len(positions), generator=rng, dtype=torch.float64)
    sdf[positions.abs().amax(-1) == 1] = 1
    return sdf, positions, torch.randn(weights.shape, generator=rng, dtype=torch.float64)


def assert_manifold(vertices: Tensor, faces: Tensor) -> None:
    assert_closed(faces)
    assert torch.equal(faces.unique(), torch.arange(len(vertices)))
    assert fans(faces) == len(vertices)


def test_a_sphere_is_closed_outward_and_of_its_volume() -> None:
    positions, weights = grid(32)
    vertices, faces = flexicubes(positions.norm(dim=-1) - 0.7, positions, weights, 32)
    assert_manifold(vertices, faces)
    assert euler(vertices, faces) == 2
    assert volume_of(vertices, faces).item() == pytest.approx(4 / 3 * math.pi * 0.7**3, rel=1e-2)
    a, b, c = vertices[faces].unbind(1)
    assert (torch.linalg.cross(b - a, c - a) * a).sum(-1).min() > 0


def test_a_short_fit_brings_the_vertices_of_cubes_nearer_to_a_sphere_than_marching_tetrahedra() -> None:
    """By weights and distances. The middles of the quadrilaterals between them stay below the sphere, as those of chords do."""
    positions, weights = grid(12)
    sdf = (positions.norm(dim=-1) - 0.7).requires_grad_()
    optimizer = torch.optim.Adam([{"params": [sdf], "lr": 0.001}, {"params": [weights.requires_grad_()], "lr": 0.05}], betas=(0.9, 0.99))
    points, tets = tet_grid(12)
    other = (marching_tets(points.norm(dim=-1) - 0.7, points, tets)[0].norm(dim=-1) - 0.7).abs()
    off = torch.empty(0)
    for _ in range(50):
        vertices, faces = flexicubes(sdf, positions, weights, 12)
        off = (vertices[faces[:, :2].unique()].norm(dim=-1) - 0.7).abs()
        optimizer.zero_grad()
        off.square().mean().backward()
        optimizer.step()
    assert off.mean() < 0.5 * other.mean()
    assert off.max() < other.max()


def test_a_torus_and_two_spheres_have_their_topology() -> None:
    positions, weights = grid(24)
    x, y, z = positions.unbind(-1)
    torus = torch.stack([torch.stack([x, y], -1).norm(dim=-1) - 0.55, z], -1).norm(dim=-1) - 0.25
    vertices, faces = flexicubes(torus, positions, weights, 24)
    assert_manifold(vertices, faces)
    assert euler(vertices, faces) == 0
    assert volume_of(vertices, faces).item() == pytest.approx(2 * math.pi**2 * 0.55 * 0.25**2, rel=5e-2)
    two = torch.stack([(positions - positions.new_tensor([side, 0, 0])).norm(dim=-1) - 0.35 for side in (-0.5, 0.5)]).amin(0)
    assert euler(*flexicubes(two, positions, weights, 24)) == 4


def test_every_cube_gives_a_closed_manifold() -> None:
    """All 256 sets of corners inside of the middle one of 27 cubes."""
    positions, weights = grid(3)
    inner = torch.nonzero(positions.abs().amax(-1) < 0.9)[:, 0]
    for code in range(1, 256):
        sdf = torch.ones(len(positions), dtype=torch.float64)
        sdf[inner] = 1 - 2.0 * (code >> torch.arange(8) & 1).double()
        vertices, faces = flexicubes(sdf, positions, weights, 3)
        assert_manifold(vertices, faces)
        assert volume_of(vertices, faces) > 0


@pytest.mark.parametrize("seed", range(4))
def test_noise_gives_a_closed_manifold(seed: int) -> None:
    """Faces that are crossed twice, next to each other in all ways; in half of the cases a third of the distances is 0."""
    sdf, positions, weights = noise(8, seed)
    if seed % 2:
        sdf[(torch.rand(len(sdf), generator=torch.Generator().manual_seed(seed)) < 0.3) & (sdf < 0)] = 0
    vertices, faces = flexicubes(sdf, positions, weights, 8)
    assert_manifold(vertices, faces)
    assert torch.isfinite(vertices).all()
    assert volume_of(vertices, faces) > 0


def test_two_cubes_that_would_share_two_edges_part_instead() -> None:
    """Their common face has two corners outside, across from each other, and all else is inside: one of them is a void of its own."""
    positions, weights = grid(4)
    sdf = torch.where(positions.abs().amax(-1) == 1, 1.0, -1.0).double().view(5, 5, 5)
    sdf[2, 1, 1] = sdf[2, 2, 2] = 1.0
    vertices, faces = flexicubes(sdf.flatten(), positions, weights, 4)
    assert_manifold(vertices, faces)
    assert euler(vertices, faces) == 4


def test_a_vertex_is_where_the_weights_say() -> None:
    """One corner of the grid inside. In the cube below it, the edge along axis a is crossed at alpha / (alpha + alpha_a)."""
    positions, weights = grid(2)
    sdf = torch.ones(27, dtype=torch.float64)
    sdf[13] = -1.0
    alpha, beta = torch.ones(8), torch.ones(12)
    alpha[[7, 6, 5, 3]] = torch.tensor([1.5, 0.5, 1.0, 0.25])  # the corner inside, and those next to it along x, y, z
    edges = [0, 4, 8]  # those along x, y, z that lie highest along the other two axes
    beta[edges] = torch.tensor([0.3, 1.2, 1.9])
    weights[0, :20] = torch.atanh((torch.cat([alpha, beta]).double() - 1) / 0.99)
    vertices, faces = flexicubes(sdf, positions, weights, 2)
    crossed = 1.5 / (1.5 + torch.tensor([0.5, 1.0, 0.25]))
    torch.testing.assert_close(vertices[0], (-crossed * beta[edges] / beta[edges].sum()).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(vertices[1:8].abs(), torch.full((7, 3), 1 / 6, dtype=torch.float64))
    assert len(faces) == 4 * 6


def test_gamma_lays_the_crease_along_a_diagonal() -> None:
    positions, weights = grid(2)
    sdf = torch.ones(27, dtype=torch.float64)
    sdf[13] = -1.0
    weights[0, :20] = 3.0 * torch.randn(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for strong in (0, 1):
        weights[:, 20] = -9.0
        weights[[0, 3] if strong else [1, 2], 20] = 9.0
        vertices, _ = flexicubes(sdf, positions, weights, 2)
        below = vertices[8:][vertices[8:, 0] == vertices[8:, 0].min()][0]  # the middle of cubes 0 to 3, which lie around the edge along -x
        ends = vertices[[0, 3] if strong else [1, 2]]
        torch.testing.assert_close(below, ends.mean(0), atol=1e-6, rtol=0)


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_without_a_surface_nothing_is_returned_but_the_gradient_flows(value: float) -> None:
    positions, weights = grid(2)
    sdf = torch.full((27,), value, dtype=torch.float64, requires_grad=True)
    vertices, faces = flexicubes(sdf, positions, weights, 2)
    assert vertices.shape == faces.shape == (0, 3)
    assert torch.equal(torch.autograd.grad(vertices.sum(), sdf)[0], torch.zeros_like(sdf))


def test_a_surface_that_leaves_the_grid_is_open_there() -> None:
    positions, weights = grid(4)
    vertices, faces = flexicubes(positions[:, 0] - 0.25, positions, weights, 4)
    assert len(faces) == 3 * 3 * 4
    torch.testing.assert_close(vertices[:, 0], torch.full((len(vertices),), 0.25, dtype=torch.float64))
    a, b, c = vertices[faces].unbind(1)
    assert (torch.linalg.cross(b - a, c - a)[:, 0] > 0).all()


def test_gradcheck() -> None:
    sdf, positions, weights = (values.requires_grad_() for values in noise(3, 2))
    assert torch.autograd.gradcheck(lambda s, p, w: flexicubes(s, p, w, 3)[0], (sdf, positions, weights), fast_mode=True)


def test_the_volume_of_a_sphere_grows_by_its_area() -> None:
    positions, weights = grid(24)
    radius = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    vertices, faces = flexicubes(positions.norm(dim=-1) - radius, positions, weights, 24)
    (slope,) = torch.autograd.grad(volume_of(vertices, faces), radius)
    assert slope.item() == pytest.approx(4 * math.pi * 0.7**2, rel=2e-2)


def test_one_thread_and_two_give_the_same_bits() -> None:
    sdf, positions, weights = (values.float().requires_grad_() for values in noise(16, 0))

    def bits(threads: int) -> list[Tensor]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            vertices, faces = flexicubes(sdf, positions, weights, 16)
            return [vertices, faces, *torch.autograd.grad(vertices.square().sum(), (sdf, positions, weights))]
        finally:
            torch.set_num_threads(before)

    assert all(torch.equal(a, b) for a, b in zip(bits(1), bits(2), strict=True))


def test_a_box_is_sharper_than_on_tetrahedra() -> None:
    """A turned box, from its distances: after as many steps on the same loss of distance and normals, with as many cells along an axis."""
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))
    half, cells = torch.tensor([0.5, 0.4, 0.6]), 10

    def distance(points: Tensor) -> Tensor:
        beyond = (points @ turn).abs() - half
        return beyond.clamp_min(0).norm(dim=-1) + beyond.amax(-1).clamp_max(0)

    def errors(vertices: Tensor, faces: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Means over the surface of |distance|, in cells, and of 1 - cosine between the normals."""
        face, share = sample_faces(Mesh(vertices.detach(), faces), 2000, torch.Generator().manual_seed(seed))
        a, b, c = vertices[faces[face]].unbind(1)
        points = (vertices[faces[face]] * share[..., None]).sum(1)
        there = points.detach().requires_grad_()
        (normal,) = torch.autograd.grad(distance(there).sum(), there)
        cosine = (F.normalize(torch.linalg.cross(b - a, c - a), dim=-1) * normal).sum(-1)
        return distance(points).abs().mean() * cells / 2, (1 - cosine).mean()

    def fitted(points: Tensor, reach: float, weights: Tensor, surface: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        sdf, offsets = distance(points).requires_grad_(), torch.zeros_like(points).requires_grad_()
        groups = [{"params": [sdf], "lr": 0.02 / cells}, {"params": [offsets, weights.requires_grad_()], "lr": 0.05}]
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
        for step in range(60):
            off, bend = errors(*surface(sdf, points + reach * torch.tanh(offsets), weights), step)
            optimizer.zero_grad()
            (off + 0.1 * bend).backward()
            optimizer.step()
        return errors(*surface(sdf, points + reach * torch.tanh(offsets), weights), 1000)[1].detach()

    points, tets = tet_grid(cells)
    tetrahedral = fitted(points, 0.5 / cells, torch.zeros(1), lambda sdf, moved, _: marching_tets(sdf, moved, tets))
    start = torch.zeros(cells**3, WEIGHTS)
    cubic = fitted(cube_grid(cells), 1 / cells, start, lambda sdf, moved, weights: flexicubes(sdf, moved, weights, cells))
    assert cubic < 0.8 * tetrahedral, f"{cubic:.4f} on cubes, {tetrahedral:.4f} on tetrahedra"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sdf": torch.zeros(8)}, "sdf must have shape"),
        ({"positions": torch.zeros(5, 3)}, "positions must have shape"),
        ({"weights": torch.zeros(8, 20)}, "weights must have shape"),
        ({"sdf": torch.zeros(27, dtype=torch.float64)}, "one dtype is needed"),
    ],
)
def test_misfits_are_named(change: dict, message: str) -> None:
    arguments = {"sdf": torch.zeros(27), "positions": cube_grid(2), "weights": torch.zeros(8, WEIGHTS)}
    with pytest.raises(ValueError, match=message):
        flexicubes(**{**arguments, **change}, cells=2)


def test_a_grid_without_cells_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one cell"):
        cube_grid(0)
