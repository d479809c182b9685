import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from tests.representations.fields import points_in_ball, random_rays, ring
from threedgen.config.schema import DMTetSettings, HashGridSettings, OrbitSettings, RegularizerSettings, SDFSettings, StageSettings
from threedgen.draws import Draws
from threedgen.errors import UserError
from threedgen.guidance.sds import SDS
from threedgen.representations.base import Samples
from threedgen.representations.mesh import face_normals, load_mesh
from threedgen.representations.sdf import SDFField, laplace_density, section_depth
from threedgen.systems.regularizers import eikonal, penalties

MESHES = Path(__file__).parents[2] / "assets" / "meshes"
RADIUS = 0.5
SMALL = SDFSettings(
    levels=4, log2_table=10, base_resolution=4, max_resolution=16, hidden=8, occupancy_resolution=32, samples=128, sharpness=200.0
)


def field_of(**changes: object) -> SDFField:
    """A fresh small field, exactly its first shape."""
    field = SDFField(dataclasses.replace(SMALL, **changes))
    with torch.no_grad():
        field.head[0] = 0
    return field


def centres_seen(field: SDFField):
    """What parallel rays towards the origin see, from all around."""
    outward = F.normalize(torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    return outward, field.render_rays(outward * 2.6, -outward, torch.rand(40, generator=torch.Generator().manual_seed(1)), normals=True)


@pytest.mark.parametrize("density", ["neus", "volsdf"])
def test_a_sphere_has_its_depth_coverage_and_normals(density):
    outward, render = centres_seen(field_of(density=density))
    assert render.alpha.min() > 0.99
    assert render.normal is not None
    bias = 0.0 if density == "neus" else math.log(2 * math.log(2)) / 200  # VolSDF turns opaque a little behind the surface
    assert torch.allclose(render.depth / render.alpha, torch.full((40, 1), 2.6 - RADIUS + bias), atol=0.008)
    assert ((render.normal * outward).sum(-1) > 0.99 * render.alpha[:, 0]).all()
    beside = field_of(density=density).render_rays(torch.tensor([[2.6, 0, 0.56]]), torch.tensor([[-1.0, 0, 0]]), torch.tensor([0.5]))
    assert beside.alpha.max() < 1e-3


def plane(sharpness: float, cosine: float, step: float = 1e-3):
    """Distances at the ends of sections of a ray that goes through a plane at t = 1, float64, and t of the ends."""
    t = torch.arange(0, 2, step, dtype=torch.float64)
    return t, cosine * (1 - t), torch.tensor(sharpness, dtype=torch.float64)


@pytest.mark.parametrize("cosine", [1.0, 0.4])
def test_neus_leaves_the_light_of_its_logistic_and_weighs_most_at_the_surface(cosine):
    t, distance, s = plane(40.0, cosine)
    depth = section_depth(distance[:-1], distance[1:], s)
    light = torch.exp(-F.pad(depth.cumsum(0), (1, 0)))
    torch.testing.assert_close(light, torch.sigmoid(s * distance) / torch.sigmoid(s * distance[0]))
    weights = light[:-1] - light[1:]
    assert t[weights.argmax()] == pytest.approx(1.0, abs=2e-3)  # unbiased
    # A ray that leaves meets nothing.
    assert section_depth(distance.flip(0)[:-1], distance.flip(0)[1:], s).abs().max() == 0


def test_volsdf_is_the_laplace_distribution_and_tends_to_a_hard_surface():
    d = torch.linspace(-1, 1, 101, dtype=torch.float64)
    s = torch.tensor(7.0, dtype=torch.float64)
    torch.testing.assert_close(laplace_density(d, s), s * torch.distributions.Laplace(0.0, 1 / s).cdf(-d))
    for sharpness in (50.0, 1000.0, 20_000.0):
        t, distance, s = plane(sharpness, 1.0, 1e-4)
        light = torch.exp(-(laplace_density(distance, s) * 1e-4).cumsum(0))
        half = float(t[(light < 0.5).nonzero()[0]])
        assert half == pytest.approx(1 + math.log(2 * math.log(2)) / sharpness, abs=3e-4)  # where s(t - 1) + 1/2 e^.. reaches log 2
    assert light[t < 0.999].min() > 0.99
    assert light[t > 1.001].max() < 0.01


def test_a_distance_has_slopes_of_length_one_and_others_are_pulled_towards_it():
    field = field_of(max_resolution=256)
    points = points_in_ball(200, 0.9)
    points = points[points.norm(dim=-1) > 0.3]
    assert torch.allclose(field.slopes(points).norm(dim=-1), torch.ones(len(points)), atol=0.01)
    samples = Samples(*(torch.zeros(1),) * 5, slopes=lambda: torch.tensor([[3.0, 0, 0], [0, 0.5, 0]]))
    assert float(eikonal.totals(samples)[0]) / eikonal.totals(samples)[1] == pytest.approx((4 + 0.25) / 2)
    exact = penalties(RegularizerSettings(eikonal=2.0), centres_seen(field)[1], 0)["eikonal"]
    assert 0 <= exact.item() < 1e-4
    with torch.no_grad():
        field.table.normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
        field.head[0] = 1.0
    rough = penalties(RegularizerSettings(eikonal=2.0), centres_seen(field)[1], 0)["eikonal"]
    rough.backward()
    assert rough.item() > 0.1
    before = rough.item()
    with torch.no_grad():
        field.table -= 1e-3 * field.table.grad / field.table.grad.norm()
    assert penalties(RegularizerSettings(eikonal=2.0), centres_seen(field)[1], 0)["eikonal"].item() < before


def test_normals_teach_the_field():
    field = field_of()
    field.slopes(points_in_ball(20, 0.5)).square().sum().backward()
    assert field.head.grad is not None
    assert field.head.grad[0].abs().max() > 0


@pytest.mark.parametrize("density", ["neus", "volsdf"])
def test_gradients_reach_every_parameter_and_chunks_do_not_change_them(density):
    field = SDFField(dataclasses.replace(SMALL, density=density, sharpness=30.0, background="learned"))
    gradients = []
    for bound in (2**20, 300):
        field.zero_grad()
        field.chunk_samples = bound
        render = field.render(ring(1, 10), draws=Draws(0, 0, range(1)), normals=True)
        assert render.normal is not None
        loss = render.rgb.square().sum() + render.normal.sum() + sum(penalties(RegularizerSettings(eikonal=1.0), render, 0).values())
        loss.backward()
        gradients.append({name: p.grad for name, p in field.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(gradients[1][name], gradient, atol=2e-4 * float(gradient.abs().max()), rtol=1e-3)


def test_rays_look_for_the_surface_alone():
    field = field_of()
    cells = field.occupancy.cell_points(torch.full((32**3, 3), 0.5)).norm(dim=-1)
    occupied = field.occupancy.occupied.flatten()
    assert occupied[(cells - RADIUS).abs() < 0.03].all()
    assert not occupied[cells < 0.2].any()
    origins, directions = random_rays(200)
    skipped = field.render_rays(origins, directions, torch.full((200,), 0.3))
    field.occupancy.occupied.fill_(True)
    assert torch.allclose(field.render_rays(origins, directions, torch.full((200,), 0.3)).rgb, skipped.rgb, atol=1e-3)


@pytest.mark.parametrize("radius", [1.0, 1.4])
def test_the_mesh_lies_at_distance_zero_and_faces_outward(radius):
    mesh = field_of(radius=radius).to_mesh(48, 123.0)
    assert torch.allclose(mesh.vertices.norm(dim=-1), torch.tensor(RADIUS), atol=0.003)
    assert (face_normals(mesh.vertices, mesh.faces) * mesh.vertices[mesh.faces].mean(1)).sum(-1).min() > -1e-9


def test_an_empty_scene_is_bad_input():
    field = field_of()
    with torch.no_grad():
        field.head_bias[0] = 2.0
    with pytest.raises(UserError, match="the scene is empty: no distance is negative"):
        field.to_mesh(24)


def test_an_ellipsoid_reaches_its_axes():
    mesh = field_of(shape="ellipsoid", shape_axes=[1.0, 0.5, 1.6]).to_mesh(64)
    assert mesh.vertices.amax(0).tolist() == pytest.approx([0.5, 0.25, 0.8], abs=0.01)


def test_a_mesh_is_what_it_starts_from():
    file = sorted(MESHES.glob("*.glb"))[0]
    field = field_of(shape="mesh", shape_file=str(file), shape_radius=0.45)
    truth = load_mesh(file, fit_radius=0.45)
    found = field.to_mesh(96)
    for axis in range(3):
        assert float(found.vertices[:, axis].max()) == pytest.approx(float(truth.vertices[:, axis].max()), abs=0.03)
        assert float(found.vertices[:, axis].min()) == pytest.approx(float(truth.vertices[:, axis].min()), abs=0.03)
    with torch.no_grad():
        render = field.render(ring(1, 24))
    assert 0.02 < float(render.alpha.mean()) < 0.9


def test_albedo_is_the_colour_of_the_nearest_surface(monkeypatch):
    field = field_of()
    query = field.query
    monkeypatch.setattr(field, "query", lambda points: (query(points)[0], 0.5 + 0.5 * points))
    surface = F.normalize(points_in_ball(50, 1.0), dim=-1) * RADIUS
    for factor in (0.99, 1.0, 1.01):
        assert torch.allclose(field.albedo(surface * factor), 0.5 + 0.5 * surface, atol=2e-3)
    assert not field.albedo(surface).requires_grad


@pytest.mark.parametrize("representation", [HashGridSettings(), DMTetSettings()])
def test_penalties_on_distances_are_refused_where_there_are_none(representation):
    stage = StageSettings(representation, SDS(), OrbitSettings(), regularizers=RegularizerSettings(eikonal=0.1))
    with pytest.raises(ValueError, match=r"eikonal looks at the gradient of a signed distance, which this representation has not"):
        stage.check()
    StageSettings(SDFSettings(), SDS(), OrbitSettings(), regularizers=RegularizerSettings(eikonal=0.1, distortion=0.1)).check()
