"""Structure, geometry and repeatability of the GLB writer; the Khronos validator's verdict where it can be run."""

import json
import os
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from tests.export.shapes import box, joined, noise, sphere, waves
from threedgen.errors import UserError
from threedgen.export import bake_texture, unwrap_mesh, write_glb
from threedgen.export.gltf import asset_positions, scene_from_asset, vertex_tangents
from threedgen.ops.texture import sample_texture
from threedgen.representations.base import Mesh
from threedgen.representations.mesh import vertex_normals

ROOT = Path(__file__).parents[2]
WIDTH = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
KIND = {5123: "<u2", 5125: "<u4", 5126: "<f4"}
FLAT_NORMAL_MAP = torch.tensor([0.5, 0.5, 1.0]).expand(64, 64, 3)


@pytest.fixture(scope="module")
def charts() -> Mesh:
    return unwrap_mesh(sphere(level=2), 64)


def read_glb(path: Path) -> tuple[dict, bytes]:
    content = path.read_bytes()
    magic, version, length = struct.unpack_from("<4sII", content)
    assert (magic, version, length) == (b"glTF", 2, len(content))
    size, kind = struct.unpack_from("<I4s", content, 12)
    assert kind == b"JSON"
    document = json.loads(content[20 : 20 + size])
    binary_size, kind = struct.unpack_from("<I4s", content, 20 + size)
    assert kind == b"BIN\0"
    assert 28 + size + binary_size == len(content)
    return document, content[28 + size :]


def accessor(document: dict, binary: bytes, index: int) -> np.ndarray:
    entry = document["accessors"][index]
    view = document["bufferViews"][entry["bufferView"]]
    data = np.frombuffer(binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]], KIND[entry["componentType"]])
    assert data.size == entry["count"] * WIDTH[entry["type"]]
    return data.reshape(entry["count"], -1)


def attributes(path: Path) -> tuple[dict[str, np.ndarray], np.ndarray, dict]:
    document, binary = read_glb(path)
    primitive = document["meshes"][0]["primitives"][0]
    named = {name: accessor(document, binary, k) for name, k in primitive["attributes"].items()}
    return named, accessor(document, binary, primitive["indices"])[:, 0], document


@pytest.mark.parametrize("normal_map", [None, FLAT_NORMAL_MAP], ids=["plain", "normal map"])
def test_structure(tmp_path: Path, charts: Mesh, normal_map: torch.Tensor | None):
    write_glb(tmp_path / "ball.glb", charts, noise(64), normal_map, metallic=0.25, roughness=0.5, name="ball")
    named, indices, document = attributes(tmp_path / "ball.glb")
    assert set(named) == {"POSITION", "NORMAL", "TEXCOORD_0"} | ({"TANGENT"} if normal_map is not None else set())
    assert len({len(values) for values in named.values()}) == 1
    assert all(np.isfinite(values).all() for values in named.values())
    assert indices.max() == len(named["POSITION"]) - 1
    assert len(indices) == 3 * len(charts.faces)
    bounds = document["accessors"][document["meshes"][0]["primitives"][0]["attributes"]["POSITION"]]
    assert np.array_equal(np.float32(bounds["min"]), named["POSITION"].min(0))
    assert np.array_equal(np.float32(bounds["max"]), named["POSITION"].max(0))
    assert np.abs(np.linalg.norm(named["NORMAL"], axis=1) - 1).max() < 1e-5
    material = document["materials"][0]
    assert material["doubleSided"] is False
    assert material["pbrMetallicRoughness"] == {"baseColorTexture": {"index": 0}, "metallicFactor": 0.25, "roughnessFactor": 0.5}
    assert ("normalTexture" in material) == (normal_map is not None)
    assert all("target" in view for view in document["bufferViews"][: len(named) + 1])
    assert all(view["byteOffset"] % 4 == 0 for view in document["bufferViews"])
    assert document["asset"]["generator"].startswith("threedgen ")
    assert document["nodes"] == [{"mesh": 0, "name": "ball"}]


def test_tangents_are_unit_orthogonal_and_right_handed(tmp_path: Path, charts: Mesh):
    write_glb(tmp_path / "ball.glb", charts, noise(64), FLAT_NORMAL_MAP)
    named, _, _ = attributes(tmp_path / "ball.glb")
    tangent, sign = named["TANGENT"][:, :3], named["TANGENT"][:, 3]
    assert np.abs(np.linalg.norm(tangent, axis=1) - 1).max() < 1e-5
    assert np.abs((tangent * named["NORMAL"]).sum(1)).max() < 1e-5
    assert set(np.unique(sign)) <= {-1.0, 1.0}


def test_tangents_of_an_upright_and_of_a_mirrored_picture():
    """On a wall facing +z, u to the right and v down: the tangent is +x and cross(n, t) = +y is up in the picture, so w = 1."""
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    uv = torch.tensor([[0.0, 1], [1, 1], [1, 0], [0, 0]])
    normals = vertex_normals(vertices, faces)
    assert torch.allclose(vertex_tangents(vertices, faces, uv, normals), torch.tensor([1.0, 0, 0, 1]).expand(4, 4))
    mirrored = torch.stack([1 - uv[:, 0], uv[:, 1]], -1)
    assert torch.allclose(vertex_tangents(vertices, faces, mirrored, normals), torch.tensor([-1.0, 0, 0, -1]).expand(4, 4))
    degenerate = vertex_tangents(vertices, faces, uv * 0, normals)
    assert torch.allclose(degenerate[:, :3].norm(dim=-1), torch.ones(4))


def test_an_arrow_to_the_front_points_along_z_and_up_is_y(tmp_path: Path):
    """A long box along world +x with its tip there, and a knob on top (+z)."""
    arrow = joined(box((2.0, 0.2, 0.2)), box((0.2, 0.2, 0.6), (0.9, 0.0, 0.3)))
    charts = unwrap_mesh(arrow, 64)
    write_glb(tmp_path / "arrow.glb", charts, noise(64), size_m=4.0)
    named, _, _ = attributes(tmp_path / "arrow.glb")
    position = named["POSITION"]
    assert np.ptp(position, axis=0).tolist() == pytest.approx([0.4, 1.4, 4.0], abs=1e-5)
    assert position[:, 1].min() == pytest.approx(0.0, abs=1e-6)
    assert (position.min(0) + position.max(0))[[0, 2]].tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    assert position[position[:, 1].argmax(), 2] > 1.5


def test_left_stays_left(tmp_path: Path):
    """World +y is the object's left, glTF +x: a turn of the axes, not a mirror."""
    charts = unwrap_mesh(joined(box(), box((0.2, 0.2, 0.2), (0.0, 0.6, 0.0))), 64)
    write_glb(tmp_path / "left.glb", charts, noise(64), size_m=1.2)
    shape = trimesh.load_scene(tmp_path / "left.glb").to_geometry()
    assert isinstance(shape, trimesh.Trimesh)
    assert shape.center_mass[0] < 0  # the bounding box's centre has moved left
    assert shape.volume > 0


def test_round_trip_through_trimesh(tmp_path: Path):
    charts = unwrap_mesh(box(), 256)
    texture = bake_texture(charts, waves, 256)
    write_glb(tmp_path / "cube.glb", charts, texture)
    loaded = trimesh.load_scene(tmp_path / "cube.glb").to_geometry()
    assert isinstance(loaded, trimesh.Trimesh)
    world = torch.tensor(loaded.vertices)[:, [2, 0, 1]].float() - torch.tensor([0.0, 0.0, 0.5])
    image = torch.tensor(np.asarray(loaded.visual.material.baseColorTexture.convert("RGB"))) / 255
    uv = torch.tensor(loaded.visual.uv).float()
    uv[:, 1] = 1 - uv[:, 1]
    assert torch.allclose(sample_texture(image, uv), waves(world), atol=3 / 255)
    assert loaded.is_winding_consistent


def test_the_same_bytes_twice(tmp_path: Path, charts: Mesh):
    texture = noise(64)
    for name in ("a", "b"):
        write_glb(tmp_path / name, charts, texture, FLAT_NORMAL_MAP)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_many_vertices_get_wide_indices(tmp_path: Path):
    count = 22_000
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(3 * count, 5, generator=generator)
    mesh = Mesh(points[:, :3], torch.arange(3 * count).view(-1, 3), uv=points[:, 3:])
    write_glb(tmp_path / "many.glb", mesh, noise(4))
    _, indices, _ = attributes(tmp_path / "many.glb")
    assert indices.dtype == np.uint32
    assert np.array_equal(indices, np.arange(3 * count))


def test_texture_values_are_stored_as_they_are(tmp_path: Path, charts: Mesh):
    write_glb(tmp_path / "grey.glb", charts, torch.full((8, 8, 3), 100 / 255))
    loaded = trimesh.load_scene(tmp_path / "grey.glb").to_geometry()
    assert isinstance(loaded, trimesh.Trimesh)
    assert np.asarray(loaded.visual.material.baseColorTexture).max() == 100


def test_bad_input(tmp_path: Path, charts: Mesh):
    nothing = Mesh(charts.vertices, torch.zeros(0, 3, dtype=torch.long), uv=charts.uv)
    with pytest.raises(UserError, match="no surface"):
        write_glb(tmp_path / "x.glb", nothing, noise(8))
    with pytest.raises(ValueError, match="powers of two"):
        write_glb(tmp_path / "x.glb", charts, torch.zeros(8, 10, 3))
    with pytest.raises(ValueError, match="no uv"):
        write_glb(tmp_path / "x.glb", sphere(level=1), noise(8))
    assert list(tmp_path.iterdir()) == []


def validator_home() -> str | None:
    """Folder whose node_modules holds gltf-validator."""
    candidates = [os.environ.get("GLTF_VALIDATOR"), str(ROOT)]
    return next((home for home in candidates if home and (Path(home) / "node_modules" / "gltf-validator").is_dir()), None)


@pytest.mark.skipif(shutil.which("node") is None or validator_home() is None, reason="needs node and the npm package gltf-validator")
def test_the_khronos_validator_has_no_complaint(tmp_path: Path, charts: Mesh):
    files = [tmp_path / "plain.glb", tmp_path / "normal_map.glb"]
    write_glb(files[0], charts, noise(64))
    write_glb(files[1], charts, noise(64), FLAT_NORMAL_MAP)
    command = ["node", str(ROOT / "benchmarks" / "validate_glb.mjs"), *map(str, files)]
    environment = os.environ | {"GLTF_VALIDATOR": str(validator_home())}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    for line, file in zip(done.stdout.splitlines(), files, strict=True):
        assert json.loads(line) == {"file": str(file), "errors": 0, "warnings": 0, "infos": 0, "hints": 0}


def test_an_asset_can_be_brought_back_to_where_it_was():
    """The matrix undoes the turn, the shift and the scale, whatever they were."""
    vertices = torch.rand(20, 3, generator=torch.Generator().manual_seed(5)) * torch.tensor([0.3, 1.0, 0.5]) + torch.tensor(
        [2.0, -1.0, 4.0]
    )
    asset = asset_positions(vertices, 7.0).double()
    back = torch.nn.functional.pad(asset, (0, 1), value=1.0) @ scene_from_asset(vertices, 7.0).T
    assert torch.allclose(back[:, :3], vertices.double(), atol=1e-5)
    assert torch.allclose(back[:, 3], torch.ones(20, dtype=torch.float64))
