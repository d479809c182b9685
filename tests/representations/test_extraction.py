import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from threedgen.errors import UserError
from threedgen.ops.composite import composite
from threedgen.representations.base import Mesh, Render, Samples
from threedgen.representations.extraction import auto_threshold, extract_mesh, sample_grid, surface_of, without_floaters

EVERYWHERE = torch.ones(4, 4, 4, dtype=torch.bool)
LEVEL, SOLID, RESOLUTION = 10.0, 100.0, 48
CELL = 2 / (RESOLUTION - 1)


def ball(centre: tuple[float, float, float], radius: float) -> Callable[[Tensor], Tensor]:
    """Density that falls from SOLID to 0 over three cells; LEVEL lies on the sphere."""
    steepness = 2 / CELL
    shift = math.log(SOLID / LEVEL - 1) / steepness

    def density(x: Tensor) -> Tensor:
        gap = radius - (x - torch.tensor(centre)).norm(dim=-1)
        return SOLID * torch.sigmoid((gap - shift) * steepness)

    return density


def union(*parts: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.stack([part(x) for part in parts]).amax(0)


def extracted(density: Callable[[Tensor], Tensor], occupied: Tensor = EVERYWHERE) -> trimesh.Trimesh:
    mesh = extract_mesh(density, occupied, 1.0, RESOLUTION, LEVEL)
    assert (mesh.vertices.dtype, mesh.faces.dtype) == (torch.float32, torch.int64)
    return solid_of(mesh)


def solid_of(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=True)


@pytest.mark.parametrize("centre", [(0.0, 0.0, 0.0), (0.2, -0.1, 0.25)])
def test_a_ball_becomes_a_closed_outward_sphere_at_its_place(centre):
    mesh = extracted(ball(centre, 0.5))
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume == pytest.approx(4 / 3 * math.pi * 0.5**3, rel=0.03)
    assert np.abs(np.linalg.norm(mesh.vertices - centre, axis=1) - 0.5).max() < 0.5 * CELL


def test_axes_are_not_swapped():
    def box(x: Tensor) -> Tensor:
        return SOLID * (x.abs() < torch.tensor([0.2, 0.4, 0.7])).all(-1)

    extents = extracted(box).extents
    assert np.abs(extents - [0.4, 0.8, 1.4]).max() < 2 * CELL


def test_small_floaters_go_and_large_parts_stay():
    speck, part = ball((0.75, 0.0, 0.0), 0.12), ball((-0.7, 0.0, 0.0), 0.2)
    mesh = extracted(union(ball((0.1, 0, 0), 0.4), speck, part))
    assert len(mesh.split()) == 2
    assert mesh.vertices[:, 0].max() < 0.55
    assert mesh.vertices[:, 0].min() < -0.8


def test_removing_a_floater_does_not_move_the_surface_that_stays():
    alone, together = extracted(ball((0, 0, 0), 0.5)), extracted(union(ball((0, 0, 0), 0.5), ball((0.8, 0, 0), 0.1)))
    assert together.volume == pytest.approx(alone.volume, rel=1e-3)


def test_the_largest_part_is_never_a_floater_and_nothing_stays_nothing():
    cells = np.zeros((8, 8, 8), bool)
    assert not without_floaters(cells).any()
    cells[0, 0, 0] = True
    assert without_floaters(cells).sum() == 1


def test_cavities_are_filled():
    outer = ball((0, 0, 0), 0.6)
    mesh = extracted(lambda x: outer(x) * (x.norm(dim=-1) > 0.35))
    assert len(mesh.split(only_watertight=False)) == 1
    assert mesh.volume == pytest.approx(4 / 3 * math.pi * 0.6**3, rel=0.03)


def test_a_hollow_wall_with_a_crack_is_filled_and_a_bowl_stays_open():
    outer = ball((0, 0, 0), 0.6)

    def shell(x: Tensor) -> Tensor:
        return outer(x) * (x.norm(dim=-1) > 0.4)

    cracked = extracted(lambda x: shell(x) * ((x[:, :2].norm(dim=-1) > 0.8 * CELL) | (x[:, 2] < 0)))
    assert cracked.volume == pytest.approx(4 / 3 * math.pi * 0.6**3, rel=0.05)
    bowl = extracted(lambda x: shell(x) * (x[:, 2] < 0))
    assert bowl.volume == pytest.approx(2 / 3 * math.pi * (0.6**3 - 0.4**3), rel=0.1)


def test_a_scene_that_fills_the_cube_is_closed_at_its_sphere():
    mesh = extracted(lambda x: torch.full((len(x),), SOLID))
    assert mesh.is_watertight
    assert mesh.volume > 0
    assert np.linalg.norm(mesh.vertices, axis=1).max() < 1 + CELL


def test_cells_known_to_be_empty_are_not_asked():
    occupied = torch.zeros(4, 4, 4, dtype=torch.bool)
    occupied[2:, :, :] = True
    asked = []

    def density(x: Tensor) -> Tensor:
        asked.append(x)
        return torch.ones(len(x))

    values = sample_grid(density, occupied, 2.0, 21)
    assert values.shape == (21, 21, 21)
    assert torch.cat(asked)[:, 0].min() >= -1e-6
    assert torch.cat(asked).norm(dim=-1).max() < 2.0
    assert not values[:10].any()
    assert values[11, 10, 10] == 1


def test_nothing_above_the_threshold_is_bad_input():
    with pytest.raises(UserError, match=r"highest density 5 is below the surface threshold 10; .*export\.threshold"):
        extracted(lambda x: torch.full((len(x),), 5.0))


def render_through(sigma: Tensor, step: float) -> Render:
    """Rendering of rays [R,S] that all meet the same number of samples."""
    rays, count = sigma.shape
    offsets = torch.arange(rays + 1) * count
    t = torch.arange(count).repeat(rays) * step
    _, transmittance, weights = composite(sigma.reshape(-1), t[:, None], offsets, step)
    samples = Samples(offsets, t, torch.zeros(len(t), 3), weights, torch.zeros(rays, 3))
    return Render(torch.zeros(rays, 3), 1 - transmittance[:, None], torch.zeros(rays, 1), samples=samples)


def test_the_automatic_threshold_of_a_hard_surface_is_a_tenth_below_its_density():
    sigma = torch.zeros(50, 20)
    sigma[:, 10:] = 60.0
    assert auto_threshold(render_through(sigma, 0.02), 0.02) == pytest.approx(0.9 * 60.0, rel=1e-3)


def test_the_automatic_threshold_keeps_thin_parts_and_drops_haze():
    sigma = torch.full((100, 20), 1.0)
    sigma[:90, 10:] = 80.0
    sigma[90:, 10:] = 30.0
    assert 1.0 < auto_threshold(render_through(sigma, 0.02), 0.02) <= 30.0


def test_what_lies_behind_the_visible_surface_does_not_raise_the_threshold():
    sigma = torch.zeros(50, 30)
    sigma[:, 10:14] = 30.0
    sigma[:, 20:] = 2000.0
    assert auto_threshold(render_through(sigma, 0.02), 0.02) == pytest.approx(0.9 * 30.0, rel=1e-3)


def test_without_an_opaque_ray_there_is_no_threshold():
    with pytest.raises(UserError, match="the scene is empty"):
        auto_threshold(render_through(torch.full((5, 10), 0.1), 0.02), 0.02)


def test_what_is_thinner_than_the_grid_is_named():
    values = torch.zeros(20, 20, 20)
    values[10, 10, 10] = 1.0
    with pytest.raises(UserError, match=r"raise export\.resolution"):
        surface_of(values, 1.0, 0.5)
