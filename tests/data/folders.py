"""Folders of posed images, rendered from a known mesh and written in the formats of NeRF-synthetic and of nerfstudio."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from threedgen.cameras import Cameras, orbit
from threedgen.representations.mesh import load_mesh, render_mesh

ROOT = Path(__file__).parents[2]
FOVY = 40.0
Frames = tuple[Cameras, list[np.ndarray]]


def ring(views: int, width: int = 24, height: int = 24, distance: float = 2.6) -> Cameras:
    """Cameras all around at two elevations."""
    azimuth = torch.arange(views) * 360.0 / views
    elevation = torch.where(torch.arange(views) % 2 == 0, 10.0, 40.0)
    c2w = orbit(azimuth, elevation, torch.full((views,), distance))
    return Cameras(c2w, torch.full((views,), math.radians(FOVY)), height, width)


def barrel_views(cameras: Cameras, offset: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Frames:
    """Cameras moved by an offset, with the RGBA pictures [H,W,4] uint8 of a barrel that is moved alike."""
    mesh = load_mesh(ROOT / "assets" / "meshes" / "barrel.glb", fit_radius=0.8)
    render = render_mesh(mesh, cameras, background=(0.0, 0.0, 0.0), supersample=2)
    rgba = torch.cat([render.rgb / render.alpha.clamp_min(1e-6), render.alpha], -1)
    c2w = cameras.c2w.clone()
    c2w[:, :3, 3] += torch.tensor(offset)
    moved = Cameras(c2w, cameras.fovy, cameras.height, cameras.width)
    return moved, list((rgba.clamp(0, 1) * 255).round().byte().numpy())


def write_blender(folder: Path, splits: dict[str, Frames], change: Callable[[dict], Any] = lambda document: None) -> Path:
    """transforms_<split>.json with PNG files named without their ending; `change` edits the documents."""
    for split, (cameras, images) in splits.items():
        (folder / split).mkdir(parents=True)
        frames = []
        for number, image in enumerate(images):
            Image.fromarray(image).save(folder / split / f"r_{number}.png")
            frames.append({"file_path": f"./{split}/r_{number}", "rotation": 0.01, "transform_matrix": cameras.c2w[number].tolist()})
        half = math.tan(math.radians(FOVY) / 2) * cameras.width / cameras.height
        document = {"camera_angle_x": 2 * math.atan(half), "frames": frames}
        change(document)
        (folder / f"transforms_{split}.json").write_text(json.dumps(document))
    return folder


def write_nerfstudio(folder: Path, frames: Frames, change: Callable[[dict], Any] = lambda document: None) -> Path:
    """transforms.json with a camera for the whole file; `change` edits the document."""
    cameras, images = frames
    (folder / "images").mkdir(parents=True)
    focal = cameras.height / (2 * math.tan(math.radians(FOVY) / 2))
    lens = {"camera_model": "OPENCV", "fl_x": focal, "fl_y": focal, "k1": 0, "k2": 0.0, "p1": 0, "p2": 0}
    lens |= {"cx": cameras.width / 2, "cy": cameras.height / 2, "w": cameras.width, "h": cameras.height}
    document: dict[str, Any] = dict(lens)
    document["frames"] = []
    for number, image in enumerate(images):
        name = f"images/frame_{number:05d}.png"
        Image.fromarray(image).save(folder / name)
        document["frames"].append({"file_path": name, "transform_matrix": cameras.c2w[number].tolist()})
    change(document)
    (folder / "transforms.json").write_text(json.dumps(document))
    return folder
