"""Turntables: frames, palette, contact sheet, and the video where ffmpeg works or fails."""

import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.export.shapes import box, waves
from threedgen.export import bake_texture, unwrap_mesh, write_turntable
from threedgen.representations.base import Mesh


@pytest.fixture(scope="module")
def textured() -> tuple[Mesh, torch.Tensor]:
    charts = unwrap_mesh(box((1.0, 0.2, 0.5), (5.0, 0.0, 0.0)), 64)
    return charts, bake_texture(charts, waves, 64)


@pytest.fixture
def no_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threedgen.export.turntable.shutil.which", lambda _: None)


def fake_ffmpeg(folder: Path, script: str) -> Path:
    program = folder / "ffmpeg"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


@pytest.mark.usefixtures("no_ffmpeg")
def test_gif_and_sheet(tmp_path: Path, textured: tuple[Mesh, torch.Tensor]):
    written = write_turntable(*textured, tmp_path, frames=6, resolution=48)
    assert set(written) == {"gif", "sheet"}
    with Image.open(written["gif"]) as gif:
        assert gif.n_frames == 6
        assert gif.size == (48, 48)
        assert gif.info["loop"] == 0
        frames = []
        for k in range(6):
            gif.seek(k)
            frames.append(np.asarray(gif.convert("RGB")).astype(int))
    covered = [(frame.min(-1) < 250).sum() for frame in frames]
    assert min(covered) > 100
    assert covered[0] < 0.7 * max(covered)  # the narrow side is seen from the front, the broad one later
    assert all((frame[0, 0] == 255).all() for frame in frames)
    with Image.open(written["sheet"]) as sheet:
        assert sheet.size == (4 * 48, 2 * 48)


@pytest.mark.usefixtures("no_ffmpeg")
def test_the_same_bytes_twice(tmp_path: Path, textured: tuple[Mesh, torch.Tensor]):
    first, second = (write_turntable(*textured, tmp_path / name, frames=3, resolution=32) for name in ("a", "b"))
    assert [path.read_bytes() for path in first.values()] == [path.read_bytes() for path in second.values()]


@pytest.mark.usefixtures("no_ffmpeg")
def test_frames_show_the_colours_without_noise(tmp_path: Path):
    """One plain colour on white: what is left of it after the palette is a smooth shade, no speckle."""
    plain = box()
    plain.vertex_rgb = torch.tensor([0.9, 0.2, 0.1]).expand(8, 3)
    written = write_turntable(plain, None, tmp_path, frames=1, resolution=64)
    with Image.open(written["gif"]) as gif:
        picture = np.asarray(gif.convert("RGB")).astype(int)
    inside = picture[24:40, 24:40]
    assert np.abs(np.diff(inside, axis=0)).max() < 24
    assert (inside[..., 0] > 3 * inside[..., 1]).all()


def test_video_where_ffmpeg_is_found(tmp_path: Path, textured: tuple[Mesh, torch.Tensor], monkeypatch: pytest.MonkeyPatch):
    """The encoder gets exactly the frames' bytes, and the file appears under its name."""
    program = fake_ffmpeg(tmp_path, 'for target; do :; done\nwc -c > "$target"')
    monkeypatch.setattr("threedgen.export.turntable.shutil.which", lambda _: str(program))
    written = write_turntable(*textured, tmp_path / "out", frames=3, resolution=32)
    assert int(written["mp4"].read_text()) == 3 * 32 * 32 * 3


def test_video_that_fails_is_said_and_not_left_behind(tmp_path: Path, textured: tuple[Mesh, torch.Tensor], monkeypatch: pytest.MonkeyPatch):
    program = fake_ffmpeg(tmp_path, "cat > /dev/null\necho 'Unknown encoder libx264' >&2\nexit 1")
    monkeypatch.setattr("threedgen.export.turntable.shutil.which", lambda _: str(program))
    with pytest.warns(UserWarning, match="Unknown encoder"):
        written = write_turntable(*textured, tmp_path / "out", frames=2, resolution=32)
    assert set(written) == {"gif", "sheet"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"turntable.gif", "turntable.png"}


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the program ffmpeg")
def test_a_real_video(tmp_path: Path, textured: tuple[Mesh, torch.Tensor]):
    written = write_turntable(*textured, tmp_path, frames=4, resolution=33)
    assert written["mp4"].read_bytes()[4:8] == b"ftyp"
