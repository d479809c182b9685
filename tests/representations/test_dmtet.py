"""Surfaces on a tetrahedral grid: initial shapes, renderings against closed forms, fitting, recovery, mesh and colours."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
import trimesh
from torch import Tensor

from threedgen.cameras import orbit_cameras
from threedgen.config.schema import DMTetSettings
from threedgen.draws import Draws
from threedgen.errors import UserError
from threedgen.ops import adjacent_edges
from threedgen.representations.base import Mesh
from threedgen.representations.dmtet import DMTet
from threedgen.representations.initial_shape import ellipsoid_distance, mesh_distance
from threedgen.representations.mesh import face_normals, load_mesh, render_mesh

MESHES = Path(__file__).parents[2] / "assets" / "meshes"
SMALL = DMTetSettings(resolution=16, levels=4, log2_table=10, base_resolution=4, max_resolution=16, hidden=8)


def tetrahedral(**changes: object) -> DMTet:
    return DMTet(dataclasses.replace(SMALL, **changes), seed=0)


def overlap(a: Tensor, b: Tensor) -> float:
    """Intersection over union of coverages."""
    return (torch.minimum(a, b).sum() / torch.maximum(a, b).sum()).item()


def test_a_sphere_has_the_area_depth_and_normals_of_one() -> None:
    size, distance, radius = 64, 2.6, 0.6
    field = tetrahedral(shape_radius=radius, resolution=32)
    cameras = orbit_cameras([0.0, 130.0], 25.0, distance, 40.0, size, size)
    render = field.render(cameras, normals=True)
    on_screen = radius / math.sqrt(distance**2 - radius**2) / math.tan(math.radians(20)) * size / 2
    assert render.alpha.sum((1, 2, 3)).tolist() == pytest.approx([math.pi * on_screen**2] * 2, rel=1e-2)
    assert render.depth[:, size // 2, size // 2, 0].tolist() == pytest.approx([distance - radius] * 2, abs=5e-3)
    assert render.normal is not None
    solid = render.alpha[..., 0] == 1
    origins, directions = cameras.rays()
    surface = (origins + directions * render.depth)[solid]
    assert (render.normal[solid] * surface / radius).sum(-1).min() > 0.97
    white = render.rgb[render.alpha[..., 0] == 0]
    assert torch.equal(white, torch.ones_like(white))


def test_an_ellipsoid_reaches_its_axes() -> None:
    mesh = tetrahedral(shape="ellipsoid", shape_axes=[1.0, 0.5, 1.6], resolution=32).to_mesh(0)
    assert mesh.vertices.amax(0).tolist() == pytest.approx([0.5, 0.25, 0.8], abs=0.02)
    assert (face_normals(mesh.vertices, mesh.faces) * mesh.vertices[mesh.faces].mean(1)).sum(-1).min() > -1e-9
    points = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ellipsoid_distance(points, torch.full((3,), 0.7)), points.norm(dim=-1) - 0.7)
    assert ellipsoid_distance(torch.zeros(1, 3), torch.tensor([0.4, 0.2, 0.3])).item() == pytest.approx(-0.2)


def test_it_starts_from_a_mesh_file() -> None:
    file = MESHES / "barrel.glb"
    mesh = load_mesh(file, fit_radius=0.8)
    cameras = orbit_cameras([20.0, 200.0], 15.0, 2.6, 40.0, 48, 48)
    field = tetrahedral(shape="mesh", shape_file=str(file), shape_radius=0.8, resolution=24)
    assert overlap(field.render(cameras).alpha, render_mesh(mesh, cameras, supersample=3).alpha) > 0.94
    with pytest.raises(UserError, match="there is no mesh file"):
        tetrahedral(shape="mesh", shape_file="absent.glb")


def test_distances_to_a_box_are_exact_to_a_voxel() -> None:
    box = trimesh.creation.box((0.83, 1.01, 1.27))
    points = (torch.rand(2000, 3, generator=torch.Generator().manual_seed(0)) - 0.5) * 2.4
    beyond = points.abs() - torch.tensor([0.83, 1.01, 1.27]) / 2
    exact = beyond.clamp_min(0).norm(dim=-1) + beyond.amax(-1).clamp_max(0)
    error = mesh_distance(Mesh(torch.tensor(box.vertices).float(), torch.tensor(box.faces)), points, 0.04) - exact
    assert error.abs().max() < 0.04
    assert error.abs().mean() < 0.02


def test_the_derivative_of_the_silhouette_area_is_that_of_the_sphere() -> None:
    """Lowering all distances by dr lets the sphere grow by dr."""
    field = tetrahedral(shape_radius=0.6, resolution=32)
    cameras = orbit_cameras([10.0], 20.0, 2.6, 40.0, 64, 64)
    (gradient,) = torch.autograd.grad(field.render(cameras).alpha.sum(), field.sdf)

    def area(r: float) -> float:
        return math.pi * (r / math.sqrt(2.6**2 - r**2) / math.tan(math.radians(20)) * 32) ** 2

    slope = (area(0.601) - area(0.599)) / 0.002
    assert -gradient.sum().item() == pytest.approx(slope, rel=3e-2)


def test_silhouettes_and_normals_turn_a_sphere_into_a_barrel() -> None:
    mesh = load_mesh(MESHES / "barrel.glb", fit_radius=0.85)
    cameras = orbit_cameras([0.0, 90.0, 180.0, 270.0], 20.0, 2.6, 40.0, 24, 24)
    target = render_mesh(mesh, cameras, supersample=3)
    assert target.normal is not None
    field = tetrahedral(resolution=12)
    optimizer = torch.optim.Adam(field.param_groups(0.03, 0.001), betas=(0.9, 0.99))
    before = overlap(field.render(cameras).alpha, target.alpha)
    for step in range(30):
        views = [step % 4, (step + 1) % 4]
        render = field.render(cameras[views], normals=True)
        assert render.normal is not None
        loss = (render.alpha - target.alpha[views]).square().mean() + 0.3 * (render.normal - target.normal[views]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        field.after_step(step, Draws(0, step, views))
    assert before < 0.6
    assert overlap(field.render(cameras).alpha, target.alpha) > 0.9


def test_offsets_stay_below_what_separates_vertices_and_the_boundary_stays_outside() -> None:
    field = tetrahedral(resolution=6)
    with torch.no_grad():
        field.deformation.normal_(0, 100, generator=torch.Generator().manual_seed(0))
        field.sdf.fill_(-1.0)
    mesh = field.to_mesh(0)
    assert (adjacent_edges(mesh.faces) >= 0).all()
    moved = field.positions + torch.tanh(field.deformation) * field.cell / 4
    assert (moved - field.positions).abs().max() <= field.cell / 4 + 1e-6
    assert mesh.vertices.abs().max() <= 1 + field.cell / 4


def test_a_vanished_surface_shows_the_background_and_is_seeded_again() -> None:
    field = tetrahedral()
    with torch.no_grad():
        field.sdf.add_(2.0)
    cameras = orbit_cameras([0.0], 0.0, 2.6, 40.0, 16, 16)
    render = field.render(cameras, normals=True)
    assert (render.rgb == 1).all()
    assert not render.alpha.any()
    render.alpha.sum().backward()
    assert field.sdf.grad is not None
    assert not field.sdf.grad.any()
    with pytest.raises(UserError, match="the scene is empty"):
        field.to_mesh(0)
    with pytest.warns(RuntimeWarning, match="vanished at step 7"):
        field.after_step(7, Draws(0, 7, [0]))
    share = (field.distances() < 0)[~field.boundary].double().mean().item()
    assert 0 < share < 0.03
    assert field.render(cameras).alpha.sum() > 0
    with torch.no_grad():
        field.sdf.add_(2.0)
    field.after_step(8, Draws(0, 8, [0]))  # the second time without a word
    assert (field.distances() < 0).any()


def test_a_diverged_surface_is_named() -> None:
    field = tetrahedral()
    with torch.no_grad():
        field.sdf.fill_(math.nan)
    with pytest.raises(UserError, match="lower the learning rate"):
        field.after_step(0, Draws(0, 0, [0]))


@pytest.mark.parametrize("shading", ["albedo", "lambert", "normal"])
@pytest.mark.parametrize("normals", ["vertex", "face"])
def test_every_shading_teaches_the_shape(shading: str, normals: str) -> None:
    field = tetrahedral(shading=shading, normals=normals)
    render = field.render(orbit_cameras([0.0], 0.0, 2.6, 40.0, 33, 33), normals=True)
    centre = render.rgb[0, 16, 16]
    expected = torch.tensor([1.0, 0.5, 0.5]) if shading == "normal" else torch.full((3,), 0.5)
    assert (centre - expected).abs().max() < 0.12
    render.rgb.square().sum().backward()
    assert field.sdf.grad is not None
    assert torch.isfinite(field.sdf.grad).all()
    assert field.sdf.grad.any()


def test_backgrounds() -> None:
    cameras = orbit_cameras([0.0, 180.0], 0.0, 2.6, 40.0, 16, 16)
    draws = Draws(3, 0, [0, 1])
    random = tetrahedral(background="random").render(cameras, draws=draws).rgb
    colours = draws.uniform("background", (3,))
    torch.testing.assert_close(random[:, 0, 0], colours)
    assert (tetrahedral(background="black").render(cameras).rgb[:, 0, 0] == 0).all()
    learned = tetrahedral(background="learned")
    assert [group["name"] for group in learned.param_groups(0.1, 0.2)] == ["geometry", "appearance", "background"]
    assert sum(len(group["params"]) for group in learned.param_groups(0.1, 0.2)) == len(list(learned.parameters()))


def test_the_same_seed_gives_the_same_field_and_state_holds_what_is_learned_alone() -> None:
    a, b = tetrahedral(), tetrahedral()
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert set(a.state_dict()) == {name for name, _ in a.named_parameters()}
    points = torch.rand(10, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    albedo = a.albedo(points)
    assert albedo.shape == (10, 3)
    assert ((albedo > 0) & (albedo < 1)).all()


def test_it_is_drawn_in_whole_views() -> None:
    assert not tetrahedral().casts_rays


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": "mesh"}, "shape_file goes with shape: mesh"),
        ({"shape_file": "a.glb"}, "shape_file goes with shape: mesh"),
        ({"shape_axes": [1.0, 2.0, 1.0]}, "shape_axes goes with shape: ellipsoid"),
        ({"shape_radius": 1.0}, "beyond the radius 1 of the cube"),
        ({"max_resolution": 4, "base_resolution": 8}, "max_resolution"),
    ],
)
def test_settings_that_do_not_go_together(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change).check()
