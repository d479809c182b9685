"""Pictures of meshes against closed forms; loading of mesh files."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from threedgen.cameras import orbit_cameras
from threedgen.errors import UserError
from threedgen.representations.base import Mesh
from threedgen.representations.mesh import load_mesh, render_mesh, vertex_normals


def sphere(radius: float = 0.8, level: int = 4) -> Mesh:
    ball = trimesh.creation.icosphere(level, radius)
    return Mesh(torch.tensor(ball.vertices).float(), torch.tensor(ball.faces))


def cube_with_colour(rgb: torch.Tensor) -> Mesh:
    box = trimesh.creation.box()
    return Mesh(torch.tensor(box.vertices).float(), torch.tensor(box.faces), vertex_rgb=rgb.expand(8, 3))


def test_a_sphere_is_a_disk_of_the_right_area_depth_and_normals():
    """From distance d a sphere of radius r fills the cone tan a = r / sqrt(d^2 - r^2); its front point is d - r away."""
    distance, radius, fovy, size = 2.6, 0.8, 40.0, 128
    cameras = orbit_cameras([0.0, 130.0], 25.0, distance, fovy, size, size)
    render = render_mesh(sphere(radius), cameras, supersample=2)
    on_screen = radius / math.sqrt(distance**2 - radius**2) / math.tan(math.radians(fovy / 2)) * size / 2
    assert render.alpha.sum((1, 2, 3)).tolist() == pytest.approx([math.pi * on_screen**2] * 2, rel=4e-3)
    assert render.depth[:, size // 2, size // 2, 0].tolist() == pytest.approx([distance - radius] * 2, abs=5e-3)
    origins, directions = cameras.rays()
    solid = render.alpha[..., 0] == 1
    surface = (origins + directions * render.depth)[solid]
    assert (surface.norm(dim=-1) - radius).abs().max() < 0.01
    assert render.normal is not None
    assert (render.normal[solid] * surface / radius).sum(-1).min() > 0.97


def test_background_shows_where_nothing_covers_and_mixes_at_the_edge():
    cameras = orbit_cameras([0.0], 0.0, 2.6, 40.0, 32, 32)
    mesh = cube_with_colour(torch.tensor([1.0, 0.0, 0.0]))
    render = render_mesh(mesh, cameras, background=(0.0, 1.0, 0.0), supersample=3)
    expected = render.alpha * torch.tensor([1.0, 0.0, 0.0]) + (1 - render.alpha) * torch.tensor([0.0, 1.0, 0.0])
    assert torch.allclose(render.rgb, expected, atol=1e-6)
    assert ((render.alpha > 0.1) & (render.alpha < 0.9)).any()
    varying = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(render_mesh(mesh, cameras, background=varying).rgb[0, 0, 0], varying[0, 0, 0])


def test_the_front_is_seen_from_azimuth_zero_and_z_is_up():
    vertices = torch.tensor([[0.5, -0.3, -0.3], [0.5, 0.3, -0.3], [0.5, 0.0, 0.5]])
    marked = Mesh(vertices, torch.tensor([[0, 1, 2]]), vertex_rgb=torch.eye(3))
    render = render_mesh(marked, orbit_cameras([0.0], 0.0, 2.6, 40.0, 64, 64))
    row, column = torch.nonzero(render.alpha[0, ..., 0], as_tuple=True)
    blue = render.rgb[0, row.min(), column[row.argmin()]]
    assert blue.argmax() == 2
    bottom = row == row.max()
    left, right = column[bottom].min(), column[bottom].max()
    assert render.rgb[0, row.max(), left].argmax() == 0
    assert render.rgb[0, row.max(), right].argmax() == 1


def test_shadings():
    cameras = orbit_cameras([0.0], 0.0, 2.6, 40.0, 33, 33)
    ball = sphere()
    normal = render_mesh(ball, cameras, shading="normal").rgb[0, 16, 16]
    assert normal.tolist() == pytest.approx([1.0, 0.5, 0.5], abs=0.03)
    albedo, lambert = render_mesh(ball, cameras), render_mesh(ball, cameras, shading="lambert")
    assert lambert.rgb[0, 16, 16].tolist() == pytest.approx(albedo.rgb[0, 16, 16].tolist(), abs=0.01)
    inside = albedo.alpha[0, ..., 0] > 0
    assert (lambert.rgb[0][inside] <= albedo.rgb[0][inside] + 1e-6).all()
    assert lambert.rgb[0][inside].min() < 0.85 * albedo.rgb[0][inside].min()


def test_a_face_seen_from_behind_is_lit_as_from_the_front():
    cameras = orbit_cameras([20.0], 30.0, 2.6, 40.0, 48, 48)
    ball = sphere()
    turned = Mesh(ball.vertices, ball.faces.flip(-1))
    assert torch.allclose(render_mesh(ball, cameras, shading="lambert").rgb, render_mesh(turned, cameras, shading="lambert").rgb, atol=1e-5)


def test_normals_of_a_sphere_are_radial_also_across_split_vertices():
    ball = sphere(1.0, 3)
    assert (vertex_normals(ball.vertices, ball.faces) * ball.vertices).sum(-1).min() > 0.999
    split = ball.vertices[ball.faces.flatten()]
    normals = vertex_normals(split, torch.arange(len(split)).view(-1, 3))
    assert (normals * split).sum(-1).min() > 0.999


def test_normals_of_degenerate_faces_are_unit():
    normals = vertex_normals(torch.zeros(4, 3), torch.tensor([[0, 1, 2]]))
    assert torch.equal(normals, torch.tensor([0.0, 0.0, 1.0]).expand(4, 3))


def test_loading_turns_the_axes_and_fits(tmp_path: Path):
    box = trimesh.creation.box(extents=(1.0, 2.0, 4.0))
    box.apply_translation([10.0, 20.0, 30.0])
    box.export(tmp_path / "box.glb")
    mesh = load_mesh(tmp_path / "box.glb")
    low, high = mesh.vertices.amin(0), mesh.vertices.amax(0)
    assert ((low + high) / 2).tolist() == pytest.approx([30.0, 10.0, 20.0])
    assert (high - low).tolist() == pytest.approx([4.0, 1.0, 2.0])
    fitted = load_mesh(tmp_path / "box.glb", fit_radius=0.85)
    assert fitted.vertices.norm(dim=-1).tolist() == pytest.approx([0.85] * len(fitted.vertices), rel=1e-5)
    assert (fitted.vertices.amax(0) + fitted.vertices.amin(0)).abs().max() < 1e-5


def test_loading_merges_geometries_and_applies_their_placement(tmp_path: Path):
    scene = trimesh.Scene()
    for shift, factor in ((-2.0, [1.0, 0.0, 0.0, 1.0]), (2.0, [0.0, 0.0, 0.25, 1.0])):
        box = trimesh.creation.box()
        material = trimesh.visual.material.PBRMaterial(baseColorFactor=factor)
        box.visual = trimesh.visual.TextureVisuals(uv=np.zeros((8, 2)), material=material)
        scene.add_geometry(box, transform=trimesh.transformations.translation_matrix([shift, 0, 0]))
    scene.export(tmp_path / "two.glb")
    mesh = load_mesh(tmp_path / "two.glb")
    assert mesh.vertex_rgb is not None
    red = mesh.vertices[:, 1] < 0
    assert len(mesh.faces) == 24
    assert mesh.vertices[red, 1].mean() == pytest.approx(-2.0)
    assert mesh.vertex_rgb[red].unique(dim=0).tolist() == [[1.0, 0.0, 0.0]]
    assert mesh.vertex_rgb[~red, 2].mean() == pytest.approx(0.537, abs=3e-3)  # sRGB of a linear 0.25


def test_loading_keeps_the_detail_of_a_texture(tmp_path: Path):
    """One square with a four by four checkerboard: its vertices alone would miss it."""
    checks = np.kron(np.indices((4, 4)).sum(0) % 2, np.ones((16, 16))).astype(np.uint8) * 255
    square = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]], process=False)
    uv = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]) * 0.998 + 0.001
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.fromarray(checks).convert("RGB"))
    square.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    square.export(tmp_path / "checks.glb")
    mesh = load_mesh(tmp_path / "checks.glb")
    assert mesh.vertex_rgb is not None
    across, up = mesh.vertices[:, 1], mesh.vertices[:, 2]
    inside = ((across * 4 % 1 - 0.5).abs() < 0.4) & ((up * 4 % 1 - 0.5).abs() < 0.4)
    expected = ((across * 4).floor() + ((1 - up) * 4).floor()) % 2
    assert inside.sum() > 100
    assert torch.equal(mesh.vertex_rgb[inside, 0], expected[inside])


def test_loading_display_colours_of_a_ply(tmp_path: Path):
    box = trimesh.creation.box()
    box.visual.vertex_colors = np.tile([51, 102, 204, 255], (8, 1))
    box.export(tmp_path / "box.ply")
    mesh = load_mesh(tmp_path / "box.ply")
    assert mesh.vertex_rgb is not None
    assert mesh.vertex_rgb[0].tolist() == pytest.approx([0.2, 0.4, 0.8])


def test_files_that_are_no_meshes(tmp_path: Path):
    with pytest.raises(UserError, match="there is no mesh file"):
        load_mesh(tmp_path / "absent.glb")
    for name, content in (("noise.glb", b"\x00" * 50), ("text.obj", b"hello\n"), ("empty.ply", b""), ("mesh.xyzzy", b"1")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name) as caught:
            load_mesh(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_points_without_triangles(tmp_path: Path):
    trimesh.PointCloud(np.eye(3)).export(tmp_path / "points.ply")
    with pytest.raises(UserError, match="no triangle"):
        load_mesh(tmp_path / "points.ply")


def test_shipped_meshes_load_into_the_scene():
    folder = Path(__file__).parents[2] / "assets" / "meshes"
    for name in ("barrel", "pine_tree", "house"):
        mesh = load_mesh(folder / f"{name}.glb", fit_radius=0.85)
        assert mesh.vertices.norm(dim=-1).max().item() == pytest.approx(0.85, rel=1e-5)
        assert mesh.vertex_rgb is not None
        assert len(mesh.vertex_rgb.mul(8).round().unique(dim=0)) >= 2
