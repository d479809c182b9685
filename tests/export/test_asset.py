"""The whole export, from a raw mesh to files."""

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from tests.export.shapes import joined, noise, sphere, waves
from threedgen.config.schema import ExportSettings
from threedgen.errors import UserError
from threedgen.export import export_asset, write_obj, write_ply
from threedgen.representations.base import Mesh


@pytest.fixture(autouse=True)
def no_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threedgen.export.turntable.shutil.which", lambda _: None)


def settings(**changes) -> ExportSettings:
    small = {"formats": ["glb", "obj", "ply"], "faces": 400, "texture": 128, "turntable_frames": 2, "turntable_resolution": 32}
    return ExportSettings(**(small | changes))


def raw_mesh() -> Mesh:
    """A sphere with a speck, a stray vertex and a face of nothing, as marching cubes may leave them."""
    mesh = joined(sphere(0.7, level=4), sphere(0.02, (0.9, 0.9, 0.9)))
    mesh.vertices = torch.cat([mesh.vertices, torch.full((1, 3), torch.nan)])
    last = len(mesh.vertices) - 1
    mesh.faces = torch.cat([mesh.faces, torch.tensor([[0, 0, 1], [0, 1, last]])])
    return mesh


def test_all_formats(tmp_path: Path):
    written = export_asset(raw_mesh(), waves, settings(size_m=2.0), tmp_path, "ball")
    assert {key: path.name for key, path in written.items()} == {
        "glb": "ball.glb",
        "obj": "ball.obj",
        "mtl": "ball.mtl",
        "texture": "ball.png",
        "ply": "ball.ply",
        "gif": "turntable.gif",
        "sheet": "turntable.png",
    }
    assert set(tmp_path.iterdir()) == set(written.values())
    for key in ("glb", "obj", "ply"):
        shape = trimesh.load_scene(written[key]).to_geometry()
        assert isinstance(shape, trimesh.Trimesh)
        assert len(shape.faces) <= 400
        assert shape.extents.max() == pytest.approx(2.0, rel=1e-4)
        assert shape.bounds[0, 1] == pytest.approx(0.0, abs=1e-5)
        assert shape.volume == pytest.approx(4 / 3 * np.pi, rel=0.05)


def test_colours_reach_every_format(tmp_path: Path):
    """In the front quarter (world +x, exported +z) the field is red."""

    def field(points: torch.Tensor) -> torch.Tensor:
        return torch.where(points[:, :1] > 0, points.new_tensor([0.8, 0.2, 0.2]), points.new_tensor([0.2, 0.2, 0.8]))

    written = export_asset(raw_mesh(), field, settings(), tmp_path, "ball")
    for key in ("glb", "obj", "ply"):
        shape = trimesh.load_scene(written[key]).to_geometry()
        assert isinstance(shape, trimesh.Trimesh)
        colours = shape.visual.vertex_colors if key == "ply" else shape.visual.to_color().vertex_colors
        front, back = shape.vertices[:, 2] > 0.1, shape.vertices[:, 2] < -0.1
        assert np.abs(np.asarray(colours)[front, :3].astype(int) - [204, 51, 51]).max() <= 2
        assert np.abs(np.asarray(colours)[back, :3].astype(int) - [51, 51, 204]).max() <= 2


def test_the_same_bytes_on_repeat_and_for_any_number_of_threads(tmp_path: Path):
    threads = torch.get_num_threads()
    contents = []
    try:
        for k, count in enumerate((1, 2, 2)):
            torch.set_num_threads(count)
            written = export_asset(raw_mesh(), waves, settings(), tmp_path / str(k), "ball")
            contents.append({key: path.read_bytes() for key, path in written.items()})
    finally:
        torch.set_num_threads(threads)
    assert contents[0] == contents[1] == contents[2]


def test_no_turntable_when_not_asked(tmp_path: Path):
    assert set(export_asset(raw_mesh(), waves, settings(formats=["glb"], turntable_frames=0), tmp_path, "ball")) == {"glb"}


@pytest.mark.parametrize(
    ("mesh", "changes", "message"),
    [
        (Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long)), {}, "no surface"),
        (raw_mesh(), {"texture": 100}, "power of two, got 100: try 128"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path: Path, mesh: Mesh, changes: dict, message: str):
    with pytest.raises(UserError, match=message) as caught:
        export_asset(mesh, waves, settings(**changes), tmp_path, "ball")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_writers_need_what_they_write(tmp_path: Path):
    with pytest.raises(ValueError, match="no uv"):
        write_obj(tmp_path / "x.obj", sphere(), noise(8))
    with pytest.raises(ValueError, match="no vertex colours"):
        write_ply(tmp_path / "x.ply", sphere())
