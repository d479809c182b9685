"""What one representation hands to another: a ball with two colours, handed on by each to each."""

import math

import pytest
import torch

from threedgen.cameras import orbit_cameras
from threedgen.config.schema import DMTetSettings, FlexiCubesSettings, GaussiansSettings, HashGridSettings, MeshSettings, SDFSettings
from threedgen.errors import UserError
from threedgen.representations import handed_over
from threedgen.representations.base import Mesh, Representation
from threedgen.representations.dmtet import DMTet
from threedgen.representations.explicit_mesh import ExplicitMesh
from threedgen.representations.flexicubes import FlexiCubes
from threedgen.representations.gaussians import GaussianCloud
from threedgen.representations.handed_over import sample_surface, surface_distance
from threedgen.representations.hashgrid import HashGridField
from threedgen.representations.particles import Particles
from threedgen.representations.sdf import SDFField

RADIUS = 0.6
SMALL_DMTET = DMTetSettings(resolution=24, levels=5, log2_table=10, max_resolution=64)
MADE = {
    "hashgrid": lambda: HashGridField(HashGridSettings(levels=6, log2_table=12, max_resolution=64, samples=48)),
    "gaussians": lambda: GaussianCloud(GaussiansSettings(count=1500)),
    "dmtet": lambda: DMTet(SMALL_DMTET),
    "flexicubes": lambda: FlexiCubes(FlexiCubesSettings(resolution=24, levels=5, log2_table=10, max_resolution=64)),
    "mesh": lambda: ExplicitMesh(MeshSettings(resolution=24, capacity=6000, levels=5, log2_table=10, max_resolution=64)),
    "sdf": lambda: SDFField(SDFSettings(levels=6, log2_table=12, max_resolution=64, samples=48, sharpness=100.0)),
}


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(handed_over, "BATCH", 1024)


def ball(radius: float = RADIUS) -> Mesh:
    """The surface of a ball, fine."""
    return DMTet(DMTetSettings(resolution=48, shape_radius=radius)).to_mesh(0)


class Ball(Representation):
    """A ball, red above and blue below."""

    def to_mesh(self, resolution: int, threshold: float | str = "auto") -> Mesh:
        return ball()

    def albedo(self, points: torch.Tensor) -> torch.Tensor:
        return torch.where(points[:, 2:] > 0, points.new_tensor([0.8, 0.1, 0.1]), points.new_tensor([0.1, 0.1, 0.8]))


def looks_like_the_ball(shown: Representation, tolerance: float) -> None:
    """From the side, the disc of the ball, red above and blue below."""
    cameras = orbit_cameras([20.0, 140.0], 0.0, 2.6, 40.0, 80, 80)
    with torch.no_grad():
        seen = shown.render(cameras)
    share = math.tan(math.asin(RADIUS / 2.6)) / math.tan(math.radians(20.0))
    assert float(seen.alpha.mean()) == pytest.approx(math.pi * share**2 / 4, rel=tolerance)
    rgb = seen.rgb * seen.alpha
    upper, lower = rgb[:, 24:34, 36:44].mean((0, 1, 2)), rgb[:, 46:56, 36:44].mean((0, 1, 2))
    assert upper[0] > 0.6 > 0.35 > upper[2]
    assert lower[2] > 0.6 > 0.35 > lower[0]


@pytest.mark.parametrize("after", MADE)
def test_a_ball_is_taken_over_with_its_colours_and_handed_on(after):
    first = MADE[after]()
    first.start_from(Ball())
    looks_like_the_ball(first, 0.15)
    second = DMTet(SMALL_DMTET)
    second.start_from(first)
    looks_like_the_ball(second, 0.15)


@pytest.mark.parametrize("kind", MADE)
def test_the_same_kind_and_size_hands_over_all_it_holds(kind):
    before, after = MADE[kind](), MADE[kind]()
    with torch.no_grad():
        for parameter in before.parameters():
            parameter.add_(0.1)
    after.start_from(before)
    assert all(torch.equal(value, after.state_dict()[name]) for name, value in before.state_dict().items())


def test_another_size_of_the_same_kind_goes_by_the_surface():
    coarse, fine = DMTet(DMTetSettings(resolution=16, shape_radius=RADIUS)), DMTet(SMALL_DMTET)
    fine.start_from(coarse)
    reach = fine.to_mesh(0).vertices.norm(dim=-1)
    assert float((reach - RADIUS).abs().max()) < 0.03


def test_a_learned_background_goes_along_where_both_have_one():
    before, other = (DMTet(DMTetSettings(resolution=8, background="learned")) for _ in range(2))
    with torch.no_grad():
        before.background.bias.fill_(-1.0)
    for after in (other, HashGridField(HashGridSettings(levels=2, log2_table=8, background="learned"))):
        after.take_background(before)
        assert torch.equal(after.background.bias, before.background.bias)
    plain = DMTet(DMTetSettings(resolution=8))
    plain.start_from(before)
    assert torch.equal(plain.sdf, before.sdf)


def test_particles_begin_one_by_one_or_all_from_one():
    def field(shift: float) -> DMTet:
        made = DMTet(DMTetSettings(resolution=8))
        with torch.no_grad():
            made.sdf.add_(shift)
        return made

    pair = Particles([field(0.0), field(0.0)])
    pair.start_from(field(0.1))
    assert all(torch.equal(scene.sdf, field(0.1).sdf) for scene in pair.scenes)
    pair.start_from(Particles([field(0.2), field(0.3)]))
    assert [torch.equal(scene.sdf, field(shift).sdf) for scene, shift in zip(pair.scenes, (0.2, 0.3), strict=True)] == [True, True]


def test_nothing_cannot_be_handed_over():
    empty = DMTet(DMTetSettings(resolution=8))
    with torch.no_grad():
        empty.sdf.fill_(1.0)
    with pytest.raises(UserError, match="empty"):
        DMTet(SMALL_DMTET).start_from(empty)


def test_distances_to_a_ball_are_those_of_a_ball():
    points = (torch.rand(4000, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1) * 0.9
    found = surface_distance(ball(), points, 0.03, torch.Generator().manual_seed(1))
    exact = points.norm(dim=-1) - RADIUS
    assert float((found - exact).abs().max()) < 0.08
    near = exact.abs() < 0.05
    assert float((found - exact)[near].abs().max()) < 0.004


def test_points_of_a_surface_lie_on_it_and_know_its_normals():
    surface = sample_surface(ball(), 3000, torch.Generator().manual_seed(2))
    assert torch.allclose(surface.points.norm(dim=-1), torch.tensor(RADIUS), atol=3e-3)
    assert float((surface.normals * surface.points / RADIUS).sum(-1).min()) > 0.995
    # Uniform: the mean is the centre, and a cap holds its share of the area.
    assert surface.points.mean(0).norm() < 0.03
    assert float((surface.points[:, 2] > RADIUS / 2).float().mean()) == pytest.approx(0.25, abs=0.03)


def test_gaussians_taken_over_are_discs_along_the_surface():
    cloud = MADE["gaussians"]()
    cloud.start_from(Ball())
    axes = torch.nn.functional.normalize(cloud.axes()[cloud.alive].detach(), dim=1)
    outward = torch.nn.functional.normalize(cloud.means[cloud.alive].detach(), dim=-1)
    thin = axes[:, :, 2]
    assert float((thin * outward).sum(-1).abs().min()) > 0.98
