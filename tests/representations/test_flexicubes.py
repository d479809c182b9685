"""Surfaces on a grid of cubes: renderings against closed forms, fitting, limits, what is remembered."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from threedgen.cameras import orbit_cameras
from threedgen.config.schema import FlexiCubesSettings
from threedgen.draws import Draws
from threedgen.errors import UserError
from threedgen.ops import adjacent_edges
from threedgen.representations.flexicubes import FlexiCubes
from threedgen.representations.mesh import load_mesh, render_mesh

MESHES = Path(__file__).parents[2] / "assets" / "meshes"
SMALL = FlexiCubesSettings(resolution=16, levels=4, log2_table=10, base_resolution=4, max_resolution=16, hidden=8)


def cubic(**changes: object) -> FlexiCubes:
    return FlexiCubes(dataclasses.replace(SMALL, **changes), seed=0)


def overlap(a: Tensor, b: Tensor) -> float:
    """Intersection over union of coverages."""
    return (torch.minimum(a, b).sum() / torch.maximum(a, b).sum()).item()


def test_a_sphere_has_the_area_depth_and_normals_of_one() -> None:
    size, distance, radius = 64, 2.6, 0.6
    cameras = orbit_cameras([0.0, 130.0], 25.0, distance, 40.0, size, size)
    render = cubic(shape_radius=radius, resolution=32).render(cameras, normals=True)
    on_screen = radius / math.sqrt(distance**2 - radius**2) / math.tan(math.radians(20)) * size / 2
    assert render.alpha.sum((1, 2, 3)).tolist() == pytest.approx([math.pi * on_screen**2] * 2, rel=2e-2)
    assert render.depth[:, size // 2, size // 2, 0].tolist() == pytest.approx([distance - radius] * 2, abs=8e-3)
    assert render.normal is not None
    solid = render.alpha[..., 0] == 1
    origins, directions = cameras.rays()
    assert (render.normal[solid] * (origins + directions * render.depth)[solid] / radius).sum(-1).min() > 0.97


def test_silhouettes_and_normals_turn_a_sphere_into_a_barrel() -> None:
    mesh = load_mesh(MESHES / "barrel.glb", fit_radius=0.85)
    cameras = orbit_cameras([0.0, 90.0, 180.0, 270.0], 20.0, 2.6, 40.0, 24, 24)
    target = render_mesh(mesh, cameras, supersample=3)
    assert target.normal is not None
    field = cubic(resolution=12)
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
    assert field.weights.detach().abs().max() > 0.05


@pytest.mark.parametrize("name", ["sdf", "deformation", "weights"])
def test_a_step_of_any_parameter_is_undone_by_its_gradient(name: str) -> None:
    """A silhouette that only one parameter was changed of comes back when it alone is trained."""
    cameras = orbit_cameras([20.0, 140.0], 20.0, 2.6, 40.0, 32, 32)
    field = cubic(resolution=10, shape_radius=0.6)
    with torch.no_grad():
        target = field.render(cameras).alpha
        parameter = getattr(field, name)
        scale = 0.05 if name == "sdf" else 1.0
        parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * scale)
    optimizer = torch.optim.Adam([parameter], 0.1 * scale)
    errors = []
    for _ in range(25):
        error = (field.render(cameras).alpha - target).square().mean()
        errors.append(error.item())
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    assert errors[-1] < 0.3 * errors[0]


def test_whatever_the_parameters_the_surface_is_closed_and_near_the_grid() -> None:
    field = cubic(resolution=6)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in field.shape_parameters():
            parameter.normal_(0, 100, generator=rng)
    mesh = field.to_mesh(0)
    assert (adjacent_edges(mesh.faces) >= 0).all()
    assert torch.isfinite(mesh.vertices).all()
    assert (field.moved() - field.positions).abs().max() <= field.cell / 2 + 1e-6
    assert mesh.vertices.abs().max() <= 1 + field.cell / 2


def test_a_vanished_surface_shows_the_background_and_is_seeded_again() -> None:
    field = cubic()
    with torch.no_grad():
        field.sdf.add_(2.0)
    cameras = orbit_cameras([0.0], 0.0, 2.6, 40.0, 16, 16)
    render = field.render(cameras)
    assert (render.rgb == 1).all()
    render.alpha.sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in field.shape_parameters())
    with pytest.raises(UserError, match="the scene is empty"):
        field.to_mesh(0)
    with pytest.warns(RuntimeWarning, match="vanished at step 7"):
        field.after_step(7, Draws(0, 7, [0]))
    assert field.render(cameras).alpha.sum() > 0


def test_state_holds_what_is_learned_alone() -> None:
    field = cubic()
    assert set(field.state_dict()) == {name for name, _ in field.named_parameters()}
    assert sum(len(group["params"]) for group in field.param_groups(0.1, 0.2)) == len(list(field.parameters()))
    assert not field.casts_rays


def test_another_surface_is_taken_over_with_weights_of_nothing() -> None:
    field = cubic(resolution=24)
    with torch.no_grad():
        field.weights.normal_(generator=torch.Generator().manual_seed(0))
    field.take_shape(cubic(shape_radius=0.6, resolution=32).to_mesh(0), torch.sigmoid, torch.Generator().manual_seed(0))
    assert not field.weights.any()
    assert (field.to_mesh(0).vertices.norm(dim=-1) - 0.6).abs().max() < 0.03
