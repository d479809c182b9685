import math

import pytest
import torch
from torch.nn import functional as F

from tests.representations.fields import blob_field, points_in_ball, random_rays, ring, rough_field
from threedgen.draws import Draws
from threedgen.errors import UserError
from threedgen.representations import hashgrid
from threedgen.representations.hashgrid import analytic_normals
from threedgen.representations.volume import sphere_interval

BLOB_DENSITY, BLOB_RADIUS = 10.0, 0.5


def quadrature(field, origin, direction, jitter: float):
    """Colour, alpha and depth of a ray, sample by sample in float64, without occupancy."""
    near, far = (float(v) for v in sphere_interval(origin[None], direction[None], field.settings.radius))
    light, rgb, depth, k = 1.0, torch.zeros(3, dtype=torch.float64), 0.0, 0
    while (t := near + (k + jitter) * field.step_length) < far:
        sigma, colour = field.query((origin + t * direction)[None])
        opacity = 1 - math.exp(-float(sigma) * field.step_length)
        rgb += light * opacity * colour[0].double()
        depth += light * opacity * t
        light *= 1 - opacity
        k += 1
    return rgb + light, 1 - light, depth


@pytest.mark.parametrize("radius", [1.0, 1.5])
@torch.no_grad()
def test_rendering_is_the_quadrature_of_the_field(radius):
    field = rough_field(radius=radius)
    field.occupancy.occupied.fill_(True)
    origins, directions = random_rays(6, distance=2.6 * radius)
    render = field.render_rays(origins, directions, torch.full((6,), 0.3))
    for ray in range(6):
        rgb, alpha, depth = quadrature(field, origins[ray], directions[ray], 0.3)
        assert torch.allclose(render.rgb[ray].double(), rgb, atol=2e-5)
        assert float(render.alpha[ray]) == pytest.approx(alpha, abs=2e-5)
        assert float(render.depth[ray]) == pytest.approx(depth, abs=1e-4)


@torch.no_grad()
def test_alpha_tends_to_the_integral_of_the_blob():
    field = blob_field(samples=2048)
    x = torch.linspace(-1, 1, 20_001, dtype=torch.float64)
    integral = torch.trapezoid(F.softplus(BLOB_DENSITY * (1 - x.abs() / BLOB_RADIUS)), x)
    render = field.render_rays(torch.tensor([[2.6, 0, 0]]), torch.tensor([[-1.0, 0, 0]]), torch.tensor([0.5]))
    assert -math.log(1 - float(render.alpha)) == pytest.approx(float(integral), rel=0.02)


@torch.no_grad()
def test_the_field_starts_as_a_grey_blob():
    field = blob_field()
    sigma, rgb = field.query(torch.tensor([[0.0, 0, 0], [0, 0, BLOB_RADIUS], [0, -1, 0]]))
    expected = F.softplus(torch.tensor([BLOB_DENSITY, 0.0, -BLOB_DENSITY]))
    assert torch.allclose(sigma, expected, atol=1e-3)
    assert torch.allclose(rgb, torch.full((3, 3), 0.5), atol=1e-3)


@torch.no_grad()
def test_fields_differ_by_seed_and_repeat_with_it():
    from threedgen.representations.hashgrid import HashGridField

    a, b, c = (HashGridField(blob_field().settings, seed) for seed in (1, 1, 2))
    assert torch.equal(a.table, b.table)
    assert not torch.equal(a.table, c.table)


@pytest.mark.parametrize(("kind", "least"), [("analytic", 0.9999), ("finite_difference", 0.995)])
def test_normals_of_the_blob_are_radial(kind, least):
    field = blob_field(normals=kind)
    points = points_in_ball(100, 0.6)
    points = points[points.norm(dim=-1) > 0.2]
    aligned = (field.normals(points) * F.normalize(points, dim=-1)).sum(-1)
    assert aligned.min() > least


def test_analytic_normals_are_the_slope_of_the_density():
    field = rough_field().double()
    points = points_in_ball(100, 0.7).double()
    h = 1e-6
    ends = torch.cat([points + h * axis for axis in (*torch.eye(3).double(), *-torch.eye(3).double())])
    sigma = field.density(ends).reshape(2, 3, 100)
    slope = ((sigma[1] - sigma[0]) / (2 * h)).T
    assert torch.allclose(field.normals(points), F.normalize(slope, dim=-1), atol=1e-5)


def test_finite_difference_normals_teach_the_field_and_analytic_ones_do_not():
    points = points_in_ball(20, 0.5)
    field = rough_field(normals="finite_difference")
    field.normals(points)[:, 0].sum().backward()
    assert field.table.grad is not None
    assert field.table.grad.abs().max() > 0
    assert not rough_field(normals="analytic").normals(points).requires_grad


def test_flat_density_has_no_normal():
    assert torch.equal(analytic_normals(lambda x: x.sum(-1) * 0 + 3, torch.rand(4, 3)), torch.zeros(4, 3))


@torch.no_grad()
def test_images_have_ranges_shapes_and_a_normal_that_faces_the_camera():
    field = blob_field(blob_density=500.0)
    render = field.render(ring(2, 13), normals=True)
    assert render.normal is not None
    assert [tuple(v.shape) for v in (render.rgb, render.alpha, render.depth, render.normal)] == [(2, 13, 13, c) for c in (3, 1, 1, 3)]
    assert 0 <= render.rgb.min() <= render.rgb.max() <= 1 + 1e-6
    assert 0 <= render.alpha.min() <= render.alpha.max() <= 1
    to_camera = F.normalize(ring(2, 13).positions, dim=-1)
    assert ((render.normal[:, 6, 6] * to_camera).sum(-1) > 0.99).all()
    assert torch.allclose(render.depth[:, 6, 6], torch.full((2, 1), 2.6 - BLOB_RADIUS), atol=2 * field.step_length)
    assert torch.equal(render.rgb[:, 0, 0], torch.ones(2, 3))


@torch.no_grad()
def test_skipping_empty_cells_hardly_changes_the_image():
    field = rough_field(samples=96, occupancy_resolution=32)
    skipped = field.render(ring(2, 16))
    assert field.occupancy.occupied.float().mean() < 0.7
    field.occupancy.occupied.fill_(True)
    full = field.render(ring(2, 16))
    assert (skipped.rgb - full.rgb).abs().max() < 2 * field.occupancy.threshold


@torch.no_grad()
def test_draws_jitter_the_samples_and_repeat():
    field = rough_field(background="random")

    def image(step: int) -> torch.Tensor:
        return field.render(ring(), draws=Draws(3, step, range(2))).rgb

    assert torch.equal(image(0), image(0))
    assert not torch.equal(image(0), image(1))
    corners = image(0)[:, 0, 0]
    assert torch.equal(corners, image(0)[:, -1, -1])
    assert not torch.equal(corners[0], corners[1])
    assert torch.equal(field.render(ring()).rgb[:, 0, 0], torch.ones(2, 3))


def test_views_of_a_step_do_not_depend_on_who_renders_them():
    field = rough_field(background="random")
    cameras = ring(4, 8)
    together = field.render(cameras, draws=Draws(0, 5, range(4))).rgb
    apart = [field.render(cameras[half], draws=Draws(0, 5, half)).rgb for half in ([0, 1], [2, 3])]
    assert torch.allclose(together, torch.cat(apart), atol=1e-6)


def test_gradients_reach_every_parameter_and_follow_finite_differences():
    field = rough_field(background="learned")
    cameras = ring(1, 8)
    weights = torch.rand(1, 8, 8, 3, generator=torch.Generator().manual_seed(2))

    def loss() -> torch.Tensor:
        return (field.render(cameras).rgb * weights).sum()

    loss().backward()
    for parameter in field.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0
    for parameter in (field.head_bias, field.background.bias):
        for i in range(len(parameter)):
            ends = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter[i] += sign * 0.02
                    ends.append(float(loss()))
                    parameter[i] -= sign * 0.02
            assert float(parameter.grad[i]) == pytest.approx((ends[0] - ends[1]) / 0.04, rel=0.01, abs=0.01)


def test_groups_hold_every_parameter_once_with_its_rate():
    field = blob_field(background="learned", network_share=0.5)
    groups = field.param_groups(0.1, 0.001)
    assert [(g["name"], g["lr"]) for g in groups] == [("grid", 0.1), ("network", 0.05), ("background", 0.001)]
    assert sorted(id(p) for g in groups for p in g["params"]) == sorted(id(p) for p in field.parameters())
    assert [g["name"] for g in blob_field().param_groups(0.1, 0.001)] == ["grid", "network"]


def test_the_occupancy_follows_the_field_every_sixteen_steps():
    field = blob_field()
    with torch.no_grad():
        field.head_bias[0] = 20.0
    for step in (0, 14):
        field.after_step(step, Draws(0, step, range(1)))
    assert not field.occupancy.occupied.all()
    field.after_step(15, Draws(0, 15, range(1)))
    assert field.occupancy.occupied.all()


@torch.no_grad()
def test_state_round_trip_renders_the_same_bits():
    field, other = rough_field(background="learned"), blob_field(background="learned")
    other.load_state_dict(field.state_dict())
    draws = Draws(0, 0, range(2))
    assert torch.equal(field.render(ring(), draws=draws).rgb, other.render(ring(), draws=draws).rgb)


@pytest.mark.parametrize("radius", [1.0, 1.3])
def test_the_mesh_of_the_blob_is_a_sphere_of_the_radius_where_the_threshold_lies(radius):
    level = 3.0
    mesh = blob_field(radius=radius).to_mesh(64, level)
    expected = BLOB_RADIUS * (1 - math.log(math.expm1(level)) / BLOB_DENSITY)
    cell = 2 * radius / 63
    assert (mesh.vertices.norm(dim=-1) - expected).abs().max() < 0.5 * cell
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    outward = (torch.linalg.cross(b - a, c - a) * (a + b + c)).sum(-1)
    assert (outward > 0).float().mean() > 0.999


def test_the_automatic_threshold_finds_the_surface_of_a_hard_ball():
    mesh = blob_field(blob_density=500.0, samples=128).to_mesh(64, "auto")
    assert (mesh.vertices.norm(dim=-1) - BLOB_RADIUS).abs().max() < 0.06


@pytest.mark.parametrize("threshold", ["auto", 1e6])
def test_an_empty_scene_is_bad_input(threshold):
    field = blob_field()
    if threshold == "auto":
        with torch.no_grad():
            field.head_bias[0] = -40.0
    with pytest.raises(UserError, match="the scene is empty") as caught:
        field.to_mesh(32, threshold)
    assert "\n" not in str(caught.value)


def painted(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A hard ball whose colour follows the position."""
    sigma = 400 * torch.sigmoid((BLOB_RADIUS - points.norm(dim=-1)) * 100)
    return sigma, (0.5 + 0.5 * points).clamp(0, 1)


@pytest.mark.parametrize("offset", [-0.02, 0.0, 0.02])
def test_albedo_recovers_a_painted_field_from_a_rough_surface(monkeypatch, offset):
    field = blob_field(samples=96)
    monkeypatch.setattr(field, "query", painted)
    surface = F.normalize(points_in_ball(200, 1.0), dim=-1)
    colours = field.albedo(surface * (BLOB_RADIUS + offset))
    assert not colours.requires_grad
    assert (colours - painted(surface * BLOB_RADIUS)[1]).abs().max() < 0.04


def test_albedo_in_chunks_is_albedo_at_once(monkeypatch):
    field = rough_field()
    points = points_in_ball(50, 0.5)
    whole = field.albedo(points)
    monkeypatch.setattr(hashgrid, "CHUNK_POINTS", 16 * hashgrid.ALBEDO_SAMPLES)
    assert torch.allclose(field.albedo(points), whole, atol=1e-6)
