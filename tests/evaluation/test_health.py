import math

import pytest
import torch

from threedgen.cameras import orbit_cameras
from threedgen.evaluation.health import SIZE, VIEWS, health_of
from threedgen.representations.mesh import render_mesh
from threedgen.representations.mesh_loading import load_mesh
from threedgen.shipped import shipped_folder


def painted_ball(faces: int, radius: float = 0.6, alpha: float = 1.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Views all around a ball: grey where `faces` is 0, else with a random pattern that repeats so often around its axis."""
    cameras = orbit_cameras([360.0 * i / VIEWS for i in range(VIEWS)], 0.0, 2.6, 40.0, SIZE, SIZE)
    origins, directions = (v.reshape(-1, 3) for v in cameras.rays())
    along = -(origins * directions).sum(-1)
    gap = radius**2 - (origins.square().sum(-1) - along**2)
    points = origins + (along - gap.clamp(min=0).sqrt())[:, None] * directions
    turn = torch.atan2(points[:, 1], points[:, 0]) * max(faces, 1)
    waves = torch.randn(6, 2, generator=torch.Generator().manual_seed(seed)) * (faces > 0)
    value = sum(a * torch.cos(k * turn) + b * torch.sin(k * turn) for k, (a, b) in enumerate(waves.tolist(), 1))
    rgb = torch.sigmoid(torch.as_tensor(value) + 0 * turn)[:, None].expand(-1, 3)
    covered = (gap > 0).float()[:, None] * alpha
    shape = (VIEWS, SIZE, SIZE)
    return (rgb * covered + 1 - covered).reshape(*shape, 3), covered.reshape(*shape, 1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("faces", "found"), [(2, {2}), (3, {3}), (4, {2, 4}), (1, set())])
def test_sides_that_repeat_are_counted(faces, found, seed):
    repeats = health_of(*painted_ball(faces, seed=seed)).repeats
    assert {times for times, likeness in repeats.items() if likeness > 0.8} == found
    assert all(likeness == pytest.approx(1.0, abs=0.01) for times, likeness in repeats.items() if times in found)


def test_one_wave_around_a_ball_is_like_itself_by_the_cosine_of_the_turn():
    views = torch.arange(VIEWS) * 2 * math.pi / VIEWS
    rgb = (0.5 + 0.4 * torch.cos(views))[:, None, None, None].expand(-1, SIZE, SIZE, 3)
    repeats = health_of(rgb, torch.ones(VIEWS, SIZE, SIZE, 1)).repeats
    assert repeats == pytest.approx({2: -1.0, 3: -0.5, 4: 0.0}, abs=1e-5)


def test_an_object_that_looks_the_same_all_around_has_no_verdict():
    health = health_of(*painted_ball(0))
    assert health.repeats == {}
    assert health.signs() == {}


@pytest.mark.parametrize(
    ("sign", "views"),
    [
        ("empty", painted_ball(1, alpha=0.0)),
        ("empty", painted_ball(1, radius=0.02)),
        ("filled", (torch.full((VIEWS, SIZE, SIZE, 3), 0.5), torch.full((VIEWS, SIZE, SIZE, 1), 0.7))),
        ("fog", painted_ball(1, alpha=0.4)),
        ("faces", painted_ball(2)),
    ],
)
def test_each_sign_is_seen_alone(sign, views):
    assert list(health_of(*views).signs()) == [sign]


@pytest.mark.parametrize("name", ["barrel", "house", "pine_tree"])
def test_known_objects_show_none(name):
    cameras = orbit_cameras([360.0 * i / VIEWS for i in range(VIEWS)], 15.0, 2.6, 40.0, SIZE, SIZE)
    render = render_mesh(load_mesh(shipped_folder("assets") / "meshes" / f"{name}.glb", fit_radius=0.85), cameras, supersample=2)
    assert health_of(render.rgb, render.alpha).signs() == {}
