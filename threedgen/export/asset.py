"""From an extracted mesh and a colour field to the files of an asset."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from threedgen.config.schema import ExportSettings
from threedgen.errors import UserError
from threedgen.export.cleaning import clean_mesh, simplify_mesh
from threedgen.export.exchange import write_obj, write_ply
from threedgen.export.gltf import write_glb
from threedgen.export.texturing import CHUNK, ColorField, bake_texture, unwrap_mesh
from threedgen.export.turntable import write_turntable
from threedgen.representations.base import Mesh


def export_asset(
    mesh: Mesh, color_fn: ColorField, settings: ExportSettings, folder: Path, name: str, turntable: str = "turntable"
) -> dict[str, Path]:
    """Clean, simplify, unwrap and bake a mesh, and write it.

    Every file is written as a whole or not at all; the same input gives the same bytes.

    Args:
        mesh: world axes, as it was extracted.
        color_fn: points [N,3] in the world -> colours [N,3] in [0,1], on the mesh's device.
        settings: formats, budget of faces, texture, size, turntable.
        folder: gets `<name>.glb` and so on, and the turntable.
        name: file name without extension.
        turntable: file name of the turntable without extension.

    Returns:
        The files written: glb; obj, mtl and texture; ply; gif, sheet and mp4.

    Raises:
        UserError: the mesh is empty or degenerate, the texture is not a power of two, a colour is not finite, or the folder
            cannot be written.
    """
    if settings.texture & (settings.texture - 1):
        raise UserError(f"export.texture must be a power of two, got {settings.texture}: try {1 << settings.texture.bit_length()}")
    folder, device = Path(folder), mesh.vertices.device
    solid = simplify_mesh(clean_mesh(mesh), settings.faces).to(device)
    charts = unwrap_mesh(solid, settings.texture)
    texture = bake_texture(charts, color_fn, settings.texture)
    written: dict[str, Path] = {}
    if "glb" in settings.formats:
        written["glb"] = folder / f"{name}.glb"
        write_glb(written["glb"], charts, texture, size_m=settings.size_m, name=name)
    if "obj" in settings.formats:
        written |= write_obj(folder / f"{name}.obj", charts, texture, settings.size_m)
    if "ply" in settings.formats:
        with torch.no_grad():
            rgb = torch.cat([color_fn(chunk) for chunk in solid.vertices.split(CHUNK)])
        written["ply"] = folder / f"{name}.ply"
        write_ply(written["ply"], dataclasses.replace(solid, vertex_rgb=rgb), settings.size_m)
    if settings.turntable_frames:
        written |= write_turntable(charts, texture, folder, settings.turntable_frames, settings.turntable_resolution, turntable)
    return written
