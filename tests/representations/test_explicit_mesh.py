"""A mesh that is optimized itself: starts, remeshing between steps, recovery of a shape, state of fixed shape."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from threedgen.cameras import orbit_cameras
from threedgen.config.schema import MeshSettings
from threedgen.draws import Draws
from threedgen.errors import UserError
from threedgen.ops import adjacent_edges
from threedgen.representations.explicit_mesh import ExplicitMesh, spread
from threedgen.representations.mesh import load_mesh, render_mesh

MESHES = Path(__file__).parents[2] / "assets" / "meshes"
SMALL = MeshSettings(
    resolution=16, capacity=1500, edge=0.12, levels=4, log2_table=10, base_resolution=4, max_resolution=16, hidden=8, background="black"
)


def triangle_mesh(**changes: object) -> ExplicitMesh:
    return ExplicitMesh(dataclasses.replace(SMALL, **changes), seed=0)


def overlap(a: Tensor, b: Tensor) -> float:
    """Intersection over union of coverages."""
    return (torch.minimum(a, b).sum() / torch.maximum(a, b).sum()).item()


def volume(mesh: ExplicitMesh) -> float:
    a, b, c = mesh.vertices.detach()[mesh.triangles()].unbind(1)
    return float((torch.linalg.cross(a, b) * c).sum() / 6)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 4 / 3 * math.pi * 0.5**3),
        ({"shape": "ellipsoid", "shape_axes": [1.0, 0.6, 1.4]}, 4 / 3 * math.pi * 0.5**3 * 0.84),
    ],
)
def test_it_starts_closed_with_edges_as_wanted(changes: dict, expected: float) -> None:
    mesh = triangle_mesh(**changes)
    surface = mesh.surface()
    assert (adjacent_edges(surface.faces) >= 0).all()
    assert len(surface.vertices) - len(surface.faces) // 2 == 2
    corners = surface.vertices[surface.faces]
    lengths = (corners.detach() - corners.detach().roll(1, 1)).norm(dim=-1)
    assert lengths.mean().item() == pytest.approx(0.12, rel=0.25)
    assert volume(mesh) == pytest.approx(expected, rel=0.06)


def test_it_starts_from_a_mesh_file_and_from_a_hull() -> None:
    file = MESHES / "barrel.glb"
    cameras = orbit_cameras([20.0, 200.0], 15.0, 2.6, 40.0, 48, 48)
    field = triangle_mesh(shape="mesh", shape_file=str(file), shape_radius=0.8, resolution=24, capacity=3000)
    assert overlap(field.render(cameras).alpha, render_mesh(load_mesh(file, fit_radius=0.8), cameras, supersample=3).alpha) > 0.9
    box = ExplicitMesh(dataclasses.replace(SMALL, shape="hull"), hull=lambda x: (x.abs() - 0.4).amax(-1))
    assert volume(box) == pytest.approx(0.8**3, rel=0.1)


def test_silhouettes_and_normals_turn_a_sphere_into_a_barrel() -> None:
    mesh = load_mesh(MESHES / "barrel.glb", fit_radius=0.85)
    cameras = orbit_cameras([0.0, 90.0, 180.0, 270.0], 20.0, 2.6, 40.0, 24, 24)
    target = render_mesh(mesh, cameras, supersample=3)
    assert target.normal is not None
    field = triangle_mesh(edge=0.15)
    optimizer = torch.optim.Adam(field.param_groups(0.02, 0.001), betas=(0.9, 0.99))
    rows = 0
    for step in range(40):
        views = [step % 4, (step + 1) % 4]
        render = field.render(cameras[views], normals=True)
        assert render.normal is not None
        loss = (render.alpha - target.alpha[views]).square().mean() + 0.3 * (render.normal - target.normal[views]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rows += sum(len(forgotten) for forgotten in field.after_step(step, Draws(0, step, views)).values())
    assert overlap(field.render(cameras).alpha, target.alpha) > 0.9
    assert rows > 0
    surface = field.surface()
    assert (adjacent_edges(surface.faces) >= 0).all()


def test_remeshing_keeps_the_shapes_of_the_state_and_a_copy_goes_on_alike() -> None:
    field = triangle_mesh(gain=0.0)
    shapes = {name: value.shape for name, value in field.state_dict().items()}
    cameras = orbit_cameras([0.0], 20.0, 2.6, 40.0, 32, 32)

    def moved(mesh: ExplicitMesh, first: int) -> Tensor:
        for step in range(first, first + 10):
            with torch.no_grad():
                mesh.vertices.mul_(1.03)
            mesh.after_step(step, Draws(0, step, [0]))
        return mesh.render(cameras).alpha

    before = len(field.triangles())
    moved(field, 0)
    assert len(field.triangles()) > 1.2 * before
    other = triangle_mesh(shape_radius=0.3, gain=0.0)
    other.load_state_dict(field.state_dict())
    assert {name: value.shape for name, value in other.state_dict().items()} == shapes
    assert torch.equal(moved(field, 10), moved(other, 10))


def test_edges_become_longer_where_vertices_move_on_and_shorter_where_they_rest() -> None:
    field = triangle_mesh(remesh_every=100)
    for step in range(20):
        with torch.no_grad():
            left = field.vertices[:, 0] < 0
            field.vertices[left] += torch.tensor([-1e-3, 0, 0])
            field.vertices[~left] += torch.tensor([1e-3 * (-1) ** step, 0, 0])
        field.after_step(step, Draws(0, step, [0]))
    there = torch.zeros(SMALL.capacity, dtype=torch.bool).index_fill(0, field.triangles().flatten(), True)
    assert (field.wanted[there & (field.vertices[:, 0] < -0.1)] > 1).all()
    assert (field.wanted[there & (field.vertices[:, 0] > 0.1)] < 1).all()


def test_spreading_keeps_what_is_constant_and_lowers_what_is_not() -> None:
    surface = triangle_mesh().surface()
    constant = torch.full((len(surface.vertices), 2), 3.0)
    torch.testing.assert_close(spread(constant, surface.faces, 5), constant)
    single = torch.zeros(len(surface.vertices), 1).index_fill(0, torch.tensor([7]), 1.0)
    once, often = spread(single, surface.faces, 1), spread(single, surface.faces, 20)
    assert once[7].item() == pytest.approx(0.5)
    assert int((once > 0).sum()) == 1 + int((surface.faces == 7).any(1).sum())
    assert often.max() < 0.1
    assert often.sum().item() == pytest.approx(1.0, rel=0.3)


def test_gradients_reach_the_vertices_spread() -> None:
    weight = torch.randn(SMALL.capacity, 3, generator=torch.Generator().manual_seed(0))
    gradients = []
    for sweeps in (0, 4):
        field = triangle_mesh(spread=sweeps)
        surface = field.surface()
        (surface.vertices * weight[: len(surface.vertices)]).sum().backward()
        assert field.vertices.grad is not None
        gradients.append(field.vertices.grad[: len(surface.vertices)])
    torch.testing.assert_close(gradients[1], spread(gradients[0], surface.faces, 4))


def test_what_cannot_start_or_has_diverged_is_named() -> None:
    with pytest.raises(UserError, match=r"representation\.capacity 50"):
        triangle_mesh(capacity=50)
    with pytest.raises(UserError, match="too thin for a grid of 16 cells"):
        ExplicitMesh(dataclasses.replace(SMALL, shape="hull"), hull=lambda x: x[:, 0] + 2)
    field = triangle_mesh()
    with torch.no_grad():
        field.vertices.fill_(math.nan)
    with pytest.raises(UserError, match="lower the learning rate"):
        field.after_step(0, Draws(0, 0, [0]))


def test_without_remeshing_the_first_mesh_stays() -> None:
    field = triangle_mesh(remesh_every=0)
    faces = field.faces.clone()
    with torch.no_grad():
        field.vertices.mul_(1.5)
    assert field.after_step(4, Draws(0, 4, [0])) == {}
    assert torch.equal(field.faces, faces)
    assert len(field.to_mesh(0).faces) == len(field.triangles())
