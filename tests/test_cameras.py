import math

import pytest
import torch

from threedgen.cameras import Cameras, OrbitSampler, orbit, orbit_cameras
from threedgen.config.schema import OrbitSettings
from threedgen.draws import Draws


def test_azimuth_zero_looks_from_plus_x_with_z_up():
    c2w = orbit(torch.zeros(1), torch.zeros(1), torch.full((1,), 2.0))[0]
    assert torch.allclose(c2w[:3, 3], torch.tensor([2.0, 0.0, 0.0]))
    assert torch.allclose(c2w[:3, 1], torch.tensor([0.0, 0.0, 1.0]))  # image up
    assert torch.allclose(c2w[:3, 2], torch.tensor([1.0, 0.0, 0.0]))  # looks along -z, towards the origin
    assert torch.allclose(c2w[:3, 0], torch.tensor([0.0, 1.0, 0.0]))  # right


def test_orbit_matrices_are_rotations():
    c2w = orbit(torch.linspace(-180, 180, 9), torch.linspace(-80, 80, 9), torch.full((9,), 2.0))[:, :3, :3]
    assert torch.allclose(c2w @ c2w.mT, torch.eye(3).expand(9, 3, 3), atol=1e-6)
    assert torch.allclose(torch.linalg.det(c2w), torch.ones(9), atol=1e-6)


def test_the_middle_ray_meets_the_origin_and_edges_span_the_field_of_view():
    cameras = orbit_cameras([30.0], 20.0, 2.5, 50.0, 2, 2)
    origins, directions = cameras.rays()
    middle = torch.nn.functional.normalize(directions.mean((1, 2)), dim=-1)
    assert torch.allclose(middle, -torch.nn.functional.normalize(origins[:, 0, 0], dim=-1), atol=1e-6)
    # Pixel centres of a 2 x 2 image lie half way out: tan(angle) = tan(25 degrees) / 2, up and down.
    top = directions[0, 0].mean(0)
    angle = torch.acos(torch.nn.functional.normalize(top, dim=0) @ middle[0])
    assert angle.item() == pytest.approx(math.atan(math.tan(math.radians(25)) / 2), abs=1e-5)


def test_projecting_points_on_rays_returns_their_pixels():
    cameras = orbit_cameras([10.0, 200.0], 30.0, 2.6, 40.0, 6, 9)
    origins, directions = cameras.rays()
    points = origins + 2.0 * directions
    clip = torch.einsum("bij,bhwj->bhwi", cameras.view_projection(), torch.cat([points, torch.ones_like(points[..., :1])], -1))
    ndc = clip[..., :3] / clip[..., 3:]
    column = (ndc[..., 0] + 1) / 2 * 9 - 0.5
    row = (1 - ndc[..., 1]) / 2 * 6 - 0.5
    assert torch.allclose(column, torch.arange(9.0).expand_as(column), atol=1e-4)
    assert torch.allclose(row, torch.arange(6.0)[:, None].expand_as(row), atol=1e-4)
    assert (ndc[..., 2].abs() < 1).all()


def test_nearer_points_have_smaller_depth():
    cameras = orbit_cameras([0.0], 0.0, 2.0, 40.0, 4, 4)
    points = torch.tensor([[1.0, 0, 0, 1], [-1.0, 0, 0, 1]])
    clip = points @ cameras.view_projection()[0].T
    depth = clip[:, 2] / clip[:, 3]
    assert depth[0] < depth[1]


def test_views_of_a_step_are_evenly_spread_and_repeatable():
    sampler = OrbitSampler(OrbitSettings(views=4))
    cameras = sampler.sample(Draws(3, 11, range(4)))
    again = sampler.sample(Draws(3, 11, range(4)))
    assert torch.equal(cameras.c2w, again.c2w)
    azimuth = torch.rad2deg(torch.atan2(cameras.positions[:, 1], cameras.positions[:, 0]))
    gaps = (azimuth - azimuth.roll(1)) % 360
    assert torch.allclose(gaps, torch.full((4,), 90.0), atol=1e-3)
    assert torch.allclose(cameras.positions[:, 2], cameras.positions[:1, 2].expand(4), atol=1e-6)


def test_half_of_the_views_equals_the_half_of_all():
    sampler = OrbitSampler(OrbitSettings(views=4))
    assert torch.equal(sampler.sample(Draws(3, 2, range(4))).c2w[2:], sampler.sample(Draws(3, 2, [2, 3])).c2w)


def test_samples_stay_within_the_ranges_and_follow_the_milestones():
    settings = OrbitSettings(
        views=1, elevation=[-10.0, 60.0], azimuth=[-45.0, 45.0], distance=[1.5, 3.0], fovy=[30.0, 60.0], resolution={0: 16, 50: 32}
    )
    sampler = OrbitSampler(settings)
    drawn = [sampler.sample(Draws(0, step, [0])) for step in range(100)]
    position = torch.cat([c.positions for c in drawn])
    distance = position.norm(dim=-1)
    elevation = torch.rad2deg(torch.asin(position[:, 2] / distance))
    azimuth = torch.rad2deg(torch.atan2(position[:, 1], position[:, 0]))
    for values, (low, high) in ((distance, (1.5, 3.0)), (elevation, (-10, 60)), (azimuth, (-45, 45))):
        assert values.min() >= low - 1e-3
        assert values.max() <= high + 1e-3
        assert values.max() - values.min() > 0.8 * (high - low)
    assert [c.height for c in drawn[48:52]] == [16, 16, 32, 32]


def test_resizing_keeps_the_field_of_view():
    cameras = orbit_cameras([0.0], 0.0, 2.0, 40.0, 8, 8)
    big = cameras.resized(16, 16)
    assert isinstance(big, Cameras)
    coarse = cameras.rays()[1][0, 0, 0]
    fine = torch.nn.functional.normalize(big.rays()[1][0, :2, :2].mean((0, 1)), dim=0)
    assert torch.allclose(coarse, fine, atol=1e-3)


STRATA = OrbitSettings(views=2, azimuth=[-30.0, 90.0], elevation=[-10.0, 50.0], strata=4, strata_elevation=3)


def angles(sampler: OrbitSampler, seed: int, turn: int) -> tuple[float, float]:
    """Azimuth of the first view and elevation of a turn, in degrees."""
    x, y, z = sampler.sample(Draws(seed, turn, [0])).positions[0].double().tolist()
    return math.degrees(math.atan2(y, x)), math.degrees(math.atan2(z, math.hypot(x, y)))


def cell_of(azimuth: float, elevation: float) -> tuple[int, int]:
    """Row and column among the 3 x 4 cells; the first of two views has the lower half of the range of azimuths."""
    return int((elevation + 10) / 20), int((azimuth + 30) / 15)


def test_every_epoch_visits_each_cell_once_in_an_order_of_its_own():
    sampler, every = OrbitSampler(STRATA), {(row, column) for row in range(3) for column in range(4)}
    orders = []
    for epoch in range(4):
        order = [cell_of(*angles(sampler, 0, 12 * epoch + place)) for place in range(12)]
        assert set(order) == every
        orders.append(tuple(order))
    orders.append(tuple(cell_of(*angles(sampler, 1, place)) for place in range(12)))
    assert len(set(orders)) == 5


def test_a_turn_is_uniform_over_the_ranges_whatever_the_seed():
    drawn = torch.tensor([angles(OrbitSampler(STRATA), seed, turn) for seed in range(150) for turn in (0, 7)], dtype=torch.float64)
    shares = (drawn - torch.tensor([-30.0, -10.0])) / 60
    assert shares.min() >= 0
    assert shares.max() < 1
    # Kolmogorov's distance of 300 draws is below 0.094 in 99 of 100 cases.
    for share in shares.T:
        steps = torch.arange(301, dtype=torch.float64) / 300
        ordered = share.sort().values
        assert torch.maximum((ordered - steps[:-1]).abs(), (ordered - steps[1:]).abs()).max() < 0.094
    within = torch.stack([shares[:, 0] * 4, shares[:, 1] * 3]) % 1
    assert torch.allclose(within.mean(1), torch.full((2,), 0.5, dtype=torch.float64), atol=0.06)


def test_strata_do_not_depend_on_how_the_views_are_split():
    sampler = OrbitSampler(OrbitSettings(views=4, strata=5, strata_elevation=2))
    whole = sampler.sample(Draws(3, 8, range(4))).c2w
    parts = [sampler.sample(Draws(3, 8, views)).c2w for views in ([0, 1], [2, 3])]
    assert torch.equal(whole, torch.cat(parts))


def test_the_turn_decides_on_the_cell_and_the_step_on_the_place_in_it():
    sampler = OrbitSampler(STRATA)
    cameras = [sampler.sample(Draws(0, step, [0]), turn=5) for step in (5, 6)]
    cells = []
    for camera in cameras:
        x, y, z = camera.positions[0].tolist()
        cells.append(cell_of(math.degrees(math.atan2(y, x)), math.degrees(math.atan2(z, math.hypot(x, y)))))
    assert cells[0] == cells[1] == cell_of(*angles(sampler, 0, 5))
    assert not torch.equal(cameras[0].c2w, cameras[1].c2w)


def test_cells_of_the_elevation_need_cells_of_the_azimuth():
    OrbitSettings(strata=1, strata_elevation=4).check()
    with pytest.raises(ValueError, match="strata_elevation needs strata"):
        OrbitSettings(strata_elevation=4).check()
