"""Clouds of Gaussians: rendering, starts, colours that depend on the view, meshes."""

import math

import pytest
import torch
import trimesh

from threedgen.cameras import orbit_cameras
from threedgen.config.schema import GaussiansSettings
from threedgen.draws import Draws
from threedgen.errors import UserError
from threedgen.representations import gaussians
from threedgen.representations.base import Mesh
from threedgen.representations.gaussian_starts import ball, on_mesh, spacing
from threedgen.representations.gaussians import GaussianCloud, thinnest
from threedgen.representations.mesh import render_mesh
from threedgen.representations.mesh_loading import load_mesh
from threedgen.representations.spherical_harmonics import ZERO
from threedgen.shipped import shipped_folder

BARREL = shipped_folder("assets") / "meshes" / "barrel.glb"
CAMERAS = orbit_cameras([0.0, 120.0, 240.0], elevation=15.0, distance=2.6, fovy=40.0, height=33, width=33)


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch: pytest.MonkeyPatch):
    """Colours of meshes from fewer and smaller pictures than users get."""
    monkeypatch.setattr(gaussians, "VIEWS", 16)
    monkeypatch.setattr(gaussians, "VIEW_PIXELS", 80)
    monkeypatch.setattr(gaussians, "OUTLINE_PIXELS", 48)


def cloud(seed: int = 0, **settings: object) -> GaussianCloud:
    return GaussianCloud(GaussiansSettings(**({"count": 200, "capacity": 250} | settings)), seed=seed)


def solid(count: int = 2000, radius: float = 0.6) -> GaussianCloud:
    """A red ball, opaque."""
    made = cloud(count=count, capacity=count, start_radius=radius, opacity=0.99)
    with torch.no_grad():
        made.base[:] = torch.tensor([0.5, -0.5, -0.5]) / ZERO
    return made


def test_a_render_is_what_the_contract_says():
    made = cloud()
    render = made.render(CAMERAS, normals=True)
    assert render.rgb.shape == (3, 33, 33, 3)
    assert render.alpha.shape == render.depth.shape == (3, 33, 33, 1)
    assert render.normal is not None
    assert render.normal.shape == (3, 33, 33, 3)
    assert ((render.alpha >= 0) & (render.alpha <= 1)).all()
    empty = render.alpha[..., 0] == 0
    assert empty.any()
    assert (render.rgb[empty] == 1).all()
    render.rgb.sum().backward()
    moved = [name for name, parameter in made.named_parameters() if parameter.grad is not None and parameter.grad.abs().sum() > 0]
    assert moved == ["means", "log_scales", "quaternions", "logits", "base"]


def test_depth_is_the_distance_times_alpha():
    made = solid(radius=0.05)
    render = made.render(CAMERAS)
    centre = render.depth[:, 16, 16, 0] / render.alpha[:, 16, 16, 0]
    assert render.alpha[:, 16, 16].min() > 0.99
    torch.testing.assert_close(centre, torch.full((3,), 2.56), rtol=0, atol=0.06)


def test_normals_face_the_eye():
    render = solid().render(CAMERAS, normals=True)
    assert render.normal is not None
    directions = CAMERAS.rays()[1]
    assert ((render.normal * directions).sum(-1) <= 1e-5).all()


def test_free_places_are_not_drawn():
    made = cloud()
    with torch.no_grad():
        before = made.render(CAMERAS).rgb
        made.means[200:] = 0
        made.logits[200:] = 10
        assert torch.equal(made.render(CAMERAS).rgb, before)


def test_random_backgrounds_are_keyed_and_only_drawn_while_training():
    made = cloud(background="random")
    first, again, later = (made.render(CAMERAS, draws=Draws(0, step, range(3))).rgb[:, 0, 0] for step in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert len({tuple(colour) for colour in first.tolist()}) == 3
    assert (made.render(CAMERAS).rgb[:, 0, 0] == 1).all()


def test_the_look_does_not_depend_on_the_resolution_where_antialiased():
    """The mean opacity of an image of Gaussians smaller than its pixels is that of a sharper image."""
    shares = {}
    for antialiased in (True, False):
        made = cloud(antialiased=antialiased, opacity=0.9)
        with torch.no_grad():
            made.log_scales[:] = math.log(0.015)
            coarse, fine = (float(made.render(CAMERAS.resized(size, size)).alpha.mean()) for size in (32, 256))
        shares[antialiased] = coarse / fine
    assert shares[True] == pytest.approx(1, abs=0.2)
    assert shares[False] > 2


def test_harmonics_come_into_use_degree_by_degree():
    made = cloud(sh_degree=2, sh_every=10)
    degrees = []
    for step in range(35):
        made.after_step(step, Draws(0, step, range(3)))
        degrees.append(int(made.degree))
    assert degrees == [0] * 9 + [1] * 10 + [2] * 16


def test_harmonics_colour_by_the_view():
    made = cloud(sh_degree=1)
    with torch.no_grad():
        made.rest[:, 2, 0] = -1.0  # red grows with x of the direction from the eye
        towards, away = made.colours(torch.tensor([[[1.0, 0, 0]], [[-1.0, 0, 0]]]).expand(2, 250, 3))
    assert (towards[:200, 0] > away[:200, 0] + 0.4).all()
    torch.testing.assert_close(towards[..., 1:], away[..., 1:])


def test_state_survives_saving():
    made, other = cloud(sh_degree=1, sh_every=5), cloud(seed=9, sh_degree=1, sh_every=5)
    made.after_step(4, Draws(0, 4, range(3)))
    other.load_state_dict(made.state_dict())
    assert torch.equal(made.render(CAMERAS).rgb, other.render(CAMERAS).rgb)
    assert int(other.degree) == 1


def test_the_seed_decides_on_the_start():
    assert torch.equal(cloud(seed=1).means, cloud(seed=1).means)
    assert not torch.equal(cloud(seed=1).means, cloud(seed=2).means)


# Starts


def test_a_ball_is_filled_evenly():
    points = ball(20_000, 0.5, torch.Generator().manual_seed(0)).points
    shares = (points.norm(dim=-1) / 0.5) ** 3
    assert shares.max() <= 1 + 1e-5
    torch.testing.assert_close(torch.quantile(shares, torch.tensor([0.25, 0.5, 0.75])), torch.tensor([0.25, 0.5, 0.75]), rtol=0, atol=0.02)


def test_spacing_is_that_of_a_lattice():
    axis = torch.arange(6.0) * 0.1
    lattice = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    torch.testing.assert_close(spacing(lattice), torch.full((216,), 0.1), rtol=1e-4, atol=0)


def test_points_on_a_mesh_are_spread_by_area():
    box = trimesh.creation.box((2.0, 1.0, 0.5))
    mesh = Mesh(torch.from_numpy(box.vertices).float(), torch.from_numpy(box.faces))
    points = on_mesh(mesh, 20_000, torch.Generator().manual_seed(0)).points
    on_side = (points.abs() - torch.tensor([1.0, 0.5, 0.25])).abs() < 1e-6
    assert on_side.any(-1).all()
    torch.testing.assert_close(on_side.float().mean(0), torch.tensor([1.0, 2.0, 4.0]) / 7, rtol=0, atol=0.02)


def test_points_on_a_mesh_have_its_colours():
    start = on_mesh(load_mesh(BARREL, fit_radius=0.85), 500, torch.Generator().manual_seed(0))
    brown = (start.rgb - torch.tensor([0.68, 0.36, 0.28])).abs().amax(-1) < 0.2
    assert brown.float().mean() > 0.4


def test_points_on_a_mesh_take_the_colours_they_are_given():
    mesh = load_mesh(BARREL, fit_radius=0.85)
    start = on_mesh(mesh, 300, torch.Generator().manual_seed(0), albedo=lambda points: points.abs())
    torch.testing.assert_close(start.rgb, start.points.abs())
    assert torch.equal(start.points, on_mesh(mesh, 300, torch.Generator().manual_seed(0)).points)


def test_discs_lie_on_the_surface():
    box = trimesh.creation.box((2.0, 1.0, 0.5))
    start = on_mesh(Mesh(torch.from_numpy(box.vertices).float(), torch.from_numpy(box.faces)), 500, torch.Generator().manual_seed(0))
    made = GaussianCloud(GaussiansSettings(count=500, capacity=500), start=start)
    on_side = (start.points.abs() - torch.tensor([1.0, 0.5, 0.25])).abs() < 1e-6
    thin = thinnest(made.axes(), made.log_scales).detach().abs()
    torch.testing.assert_close(thin[on_side.sum(-1) == 1], on_side[on_side.sum(-1) == 1].float(), rtol=0, atol=1e-5)
    lengths = made.log_scales.detach().exp()
    torch.testing.assert_close(lengths[:, 2] / lengths[:, 0], torch.full((500,), 0.2))


def test_discs_begin_on_a_hull():
    """A ball beside the origin, and a plate thinner than the grid."""
    centre = torch.tensor([0.2, 0.0, -0.1])

    def hull(points: torch.Tensor) -> torch.Tensor:
        plate = torch.stack([points[:, 0].abs() - 0.9, points[:, 1].abs() - 0.9, (points[:, 2] - 0.8).abs() - 0.002], -1).amax(-1)
        return torch.minimum((points - centre).norm(dim=-1) - 0.4, plate)

    made = GaussianCloud(GaussiansSettings(start="hull", count=2000, capacity=2000), seed=1, hull=hull)
    on_plate = made.means[:, 2] > 0.7
    assert 0.5 < on_plate.float().mean() < 0.9
    torch.testing.assert_close(
        (made.means[~on_plate] - centre).norm(dim=-1), torch.full((int((~on_plate).sum()),), 0.4125), rtol=0, atol=3e-3, check_dtype=False
    )
    with pytest.raises(UserError, match="no space in common"):
        GaussianCloud(GaussiansSettings(start="hull"), hull=lambda points: points[:, 0] + 5)


def test_a_mesh_without_area_is_refused():
    with pytest.raises(UserError, match="without area"):
        on_mesh(Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]])), 10, torch.Generator())


def test_a_cloud_begins_on_the_surface_of_another_one():
    """A red ball of Gaussians, its mesh, and Gaussians on that: mesh and second cloud look alike from all sides."""
    first = solid()
    mesh = first.to_mesh(48)
    start = on_mesh(mesh, 2000, torch.Generator().manual_seed(0), albedo=first.albedo)
    second = GaussianCloud(GaussiansSettings(count=2000, capacity=2100, opacity=0.9, background="black"), start=start)
    assert int(second.alive.sum()) == 2000
    with torch.no_grad():
        a, b = render_mesh(mesh, CAMERAS), second.render(CAMERAS)
    inside, also = a.alpha > 0.5, b.alpha > 0.5
    assert (inside & also).sum() / (inside | also).sum() > 0.85
    torch.testing.assert_close(b.rgb[inside[..., 0] & (b.alpha[..., 0] > 0.9)].mean(0), torch.tensor([1.0, 0.0, 0.0]), rtol=0, atol=0.1)


def test_the_mesh_of_a_cloud_leaves_strays_out():
    made, other = solid(300), solid(300)
    with torch.no_grad():
        other.means[0] = torch.tensor([30.0, 0.0, 0.0])
    for mine, theirs in zip(made.to_mesh(32).vertices.aminmax(dim=0), other.to_mesh(32).vertices.aminmax(dim=0), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0.05)


def test_a_point_cloud_is_a_start(tmp_path):
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    colours = torch.full((50, 4), 255, dtype=torch.uint8)
    colours[:, 0] = 51
    trimesh.PointCloud(points.numpy(), colours.numpy()).export(tmp_path / "points.ply")
    made = cloud(start=str(tmp_path / "points.ply"), count=4)
    assert int(made.alive.sum()) == 50
    torch.testing.assert_close(made.means[:50], points)
    torch.testing.assert_close(made.colours(torch.ones(1, 250, 3))[0, :50], torch.tensor([0.2, 1.0, 1.0]).expand(50, 3), rtol=0, atol=1e-3)


@pytest.mark.parametrize("content", [None, b"", b"ply\nformat ascii 1.0\nelement vertex 2\n"])
def test_a_start_that_cannot_be_read_is_one_line(tmp_path, content):
    file = tmp_path / "bad.ply"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.ply") as error:
        cloud(start=str(file))
    assert "\n" not in str(error.value)


# Meshes


def test_the_mesh_of_a_ball_is_a_sphere_with_its_colour():
    made = solid()
    mesh = made.to_mesh(64)
    radii = mesh.vertices.norm(dim=-1)
    assert 0.55 < radii.min() < radii.max() < 0.8
    assert trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False).is_watertight
    torch.testing.assert_close(made.albedo(mesh.vertices), torch.tensor([1.0, 0.0, 0.0]).expand(len(radii), 3), rtol=0, atol=1e-3)


def test_a_mesh_has_the_colours_that_are_seen_and_not_those_inside():
    """A shell of two colours around a core of a third one; points on either side have its colour."""
    made = solid(3000, 0.5)
    with torch.no_grad():
        inside = made.means.norm(dim=-1) < 0.35
        upper = made.means[:, 2] > 0
        made.base[:, 0] = (torch.where(upper[:, None], torch.tensor([1.0, 0, 0]), torch.tensor([0, 0, 1.0])) - 0.5) / ZERO
        made.base[inside, 0] = (torch.tensor([0, 1.0, 0]) - 0.5) / ZERO
    points = torch.tensor([[0.2, 0.1, 0.5], [-0.3, 0.2, 0.4], [0.1, -0.3, -0.45]])
    want = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 0, 1.0]])
    torch.testing.assert_close(made.albedo(points), want, rtol=0, atol=0.15)
    assert made.albedo(points[:0]).shape == (0, 3)


@pytest.mark.parametrize("background", ["white", "black"])
def test_the_background_does_not_colour_a_mesh(background: str):
    """Not even half-transparent Gaussians."""
    made = cloud(count=300, capacity=300, start_radius=0.3, opacity=0.05, background=background)
    with torch.no_grad():
        made.base[:] = torch.tensor([0.5, -0.5, -0.5]) / ZERO
    torch.testing.assert_close(made.albedo(torch.tensor([[0.2, 0.0, 0.1]])), torch.tensor([[1.0, 0.0, 0.0]]), rtol=0, atol=0.02)


def test_a_sheet_thinner_than_the_grid_stays_whole():
    made = cloud(count=2000, capacity=2000, opacity=0.3)
    with torch.no_grad():
        made.means[:] = torch.rand(2000, 3, generator=torch.Generator().manual_seed(0)) - 0.5
        made.means[:, 2] = 0.011
        made.log_scales[:] = torch.tensor([0.03, 0.03, 0.001]).log()
    mesh = made.to_mesh(48)
    assert (mesh.vertices[:, :2].aminmax(dim=0).max > 0.45).all()
    assert trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy()).area > 1.9


def test_an_empty_cloud_has_no_mesh():
    made = cloud()
    with torch.no_grad():
        made.logits[:] = -20
    with pytest.raises(UserError, match="the scene is empty"):
        made.to_mesh(32)


def test_a_cloud_is_fitted_to_images():
    """Sixty steps bring a grey ball near to the barrel."""
    with torch.no_grad():
        target = render_mesh(load_mesh(BARREL, fit_radius=0.85), CAMERAS, supersample=2)
    made = cloud(count=400, capacity=400, start_radius=0.7)
    optimizer = torch.optim.Adam(made.param_groups(0.02, 0.001), betas=(0.9, 0.99), eps=1e-15)
    for _ in range(60):
        optimizer.zero_grad()
        render = made.render(CAMERAS)
        loss = (render.rgb - target.rgb).abs().mean() + (render.alpha - target.alpha).abs().mean()
        loss.backward()
        optimizer.step()
    a, b = render.alpha > 0.5, target.alpha > 0.5
    assert (a & b).sum() / (a | b).sum() > 0.9
    assert (render.rgb - target.rgb)[b.expand_as(render.rgb)].abs().mean() < 0.12
