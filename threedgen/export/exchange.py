"""OBJ with material and texture, and vertex-coloured PLY, in the same axes and units as the glTF."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import trimesh
from torch import Tensor
from trimesh.exchange.obj import export_obj
from trimesh.exchange.ply import export_ply
from trimesh.visual import TextureVisuals
from trimesh.visual.material import SimpleMaterial

from threedgen.export.gltf import asset_positions
from threedgen.export.pictures import to_image
from threedgen.representations.base import Mesh
from threedgen.representations.mesh import vertex_normals
from threedgen.storage import write_bytes


def write_obj(path: Path, mesh: Mesh, texture: Tensor, size_m: float = 1.0) -> dict[str, Path]:
    """Write `<name>.obj`, `<name>.mtl` and `<name>.png` and return them as obj, mtl and texture.

    Args:
        path: the .obj file; the others lie beside it.
        mesh: world axes, with `uv`.
        texture: [H,W,3] base colour in [0,1].
        size_m: longest side of the bounding box in metres.
    """
    if mesh.uv is None:
        raise ValueError("the mesh has no uv: unwrap it first")
    path = Path(path)
    files = {"obj": path, "mtl": path.with_suffix(".mtl"), "texture": path.with_suffix(".png")}
    positions = asset_positions(mesh.vertices, size_m)
    uv = np.stack([mesh.uv[:, 0].cpu().numpy(), 1 - mesh.uv[:, 1].cpu().numpy()], -1)
    visual = TextureVisuals(uv, material=SimpleMaterial(name="surface"))
    surface = _surface(positions, mesh.faces, visual=visual)
    text = export_obj(surface, header="", include_normals=True, include_texture=True, mtl_name=files["mtl"].name)
    stream = io.BytesIO()
    to_image(texture).save(stream, "PNG")
    write_bytes(files["texture"], stream.getvalue())
    material = f"newmtl surface\nKd 1 1 1\nKs 0 0 0\nillum 1\nmap_Kd {files['texture'].name}\n"
    write_bytes(files["mtl"], material.encode())
    write_bytes(files["obj"], (text[0] if isinstance(text, tuple) else text).encode())
    return files


def write_ply(path: Path, mesh: Mesh, size_m: float = 1.0) -> None:
    """Write a binary PLY with 8-bit vertex colours.

    Args:
        path: the file.
        mesh: world axes, with `vertex_rgb`.
        size_m: longest side of the bounding box in metres.
    """
    if mesh.vertex_rgb is None:
        raise ValueError("the mesh has no vertex colours")
    rgb = np.asarray(to_image(mesh.vertex_rgb[None]))[0]
    surface = _surface(asset_positions(mesh.vertices, size_m), mesh.faces, vertex_colors=rgb)
    write_bytes(Path(path), export_ply(surface, vertex_normal=True))


def _surface(positions: Tensor, faces: Tensor, **options) -> trimesh.Trimesh:
    normals = vertex_normals(positions, faces)
    return trimesh.Trimesh(
        positions.cpu().numpy(), faces.cpu().numpy(), vertex_normals=normals.cpu().numpy(), process=False, validate=False, **options
    )
