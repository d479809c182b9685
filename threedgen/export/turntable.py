"""Moving and still pictures of a finished asset."""

from __future__ import annotations

import dataclasses
import io
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

from PIL import Image
from torch import Tensor

from threedgen.cameras import orbit_cameras
from threedgen.export.pictures import to_image
from threedgen.representations.base import Mesh
from threedgen.representations.mesh import render_mesh
from threedgen.storage import write_bytes

RADIUS, DISTANCE, FOVY, ELEVATION = 0.85, 2.6, 40.0, 20.0
DURATION = 3.6  # seconds of a turn
SHEET_VIEWS, SHEET_COLUMNS = 8, 4
SUPERSAMPLE = 2
BATCH = 4


def write_turntable(
    mesh: Mesh, texture: Tensor | None, folder: Path, frames: int, resolution: int, name: str = "turntable"
) -> dict[str, Path]:
    """Render a full turn under a soft light from the camera, on white.

    Args:
        mesh: world axes; scaled to fill the picture.
        texture: [H,W,3] looked up at the mesh's `uv`, or None to show its vertex colours.
        folder: gets <name>.gif, <name>.png (eight views side by side) and, where the program ffmpeg is found, <name>.mp4.
        frames: of a turn, at least 1.
        resolution: height and width in pixels.
        name: of the files.

    Returns:
        The files written, under gif, sheet and mp4.
    """
    folder = Path(folder)
    centred = _centred(dataclasses.replace(mesh, texture=texture))
    pictures = _views(centred, frames, resolution)
    written = {"gif": folder / f"{name}.gif", "sheet": folder / f"{name}.png"}
    write_bytes(written["gif"], _gif(pictures))
    write_bytes(written["sheet"], _sheet(_views(centred, SHEET_VIEWS, resolution)))
    encoder = shutil.which("ffmpeg")
    if encoder is not None and (content := _mp4(encoder, pictures)) is not None:
        written["mp4"] = folder / f"{name}.mp4"
        write_bytes(written["mp4"], content)
    return written


def _centred(mesh: Mesh) -> Mesh:
    low, high = mesh.vertices.amin(0), mesh.vertices.amax(0)
    points = mesh.vertices - (low + high) / 2
    return dataclasses.replace(mesh, vertices=points * (RADIUS / points.norm(dim=-1).max().clamp_min(1e-12)))


def _views(mesh: Mesh, count: int, resolution: int) -> list[Image.Image]:
    """Pictures from azimuths 0, 360/count, ...; a few at a time, so that memory does not grow with their number."""
    azimuths = [360.0 * k / count for k in range(count)]
    pictures = []
    for start in range(0, count, BATCH):
        cameras = orbit_cameras(azimuths[start : start + BATCH], ELEVATION, DISTANCE, FOVY, resolution, resolution)
        views = render_mesh(mesh, cameras.to(mesh.vertices.device), shading="lambert", supersample=SUPERSAMPLE).rgb
        pictures += [to_image(view) for view in views]
    return pictures


def _gif(pictures: list[Image.Image]) -> bytes:
    """One palette for all frames and no dithering: colours neither flicker nor crawl."""
    palette = _mosaic(pictures, len(pictures)).quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    frames = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    stream = io.BytesIO()
    pause = round(1000 * DURATION / len(frames))
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:], duration=pause, loop=0, optimize=False)
    return stream.getvalue()


def _sheet(pictures: list[Image.Image]) -> bytes:
    stream = io.BytesIO()
    _mosaic(pictures, SHEET_COLUMNS).save(stream, "PNG")
    return stream.getvalue()


def _mosaic(pictures: list[Image.Image], columns: int) -> Image.Image:
    width, height = pictures[0].size
    mosaic = Image.new("RGB", (width * min(columns, len(pictures)), height * -(-len(pictures) // columns)), "white")
    for k, picture in enumerate(pictures):
        mosaic.paste(picture, (width * (k % columns), height * (k // columns)))
    return mosaic


def _mp4(encoder: str, pictures: list[Image.Image]) -> bytes | None:
    """H.264 by ffmpeg; None, with a warning, where this ffmpeg cannot make it."""
    width, height = pictures[0].size
    rate = f"{len(pictures)}/{DURATION}"
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "turntable.mp4"
        command = [encoder, "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", rate, "-i", "-"]
        command += ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2:color=white", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "18"]
        command += ["-movflags", "+faststart", "-fflags", "+bitexact", "-threads", "1", str(target)]
        done = subprocess.run(command, input=b"".join(p.tobytes() for p in pictures), capture_output=True, check=False)
        if done.returncode == 0:
            return target.read_bytes()
    reason = (done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    warnings.warn(f"no turntable.mp4: ffmpeg failed ({reason}); the GIF is complete", stacklevel=3)
    return None
