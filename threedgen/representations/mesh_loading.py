"""Mesh files (glTF, OBJ, PLY, ...) as one vertex-coloured mesh in world axes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import trimesh
from trimesh.visual import ColorVisuals

from threedgen.errors import UserError
from threedgen.representations.base import Mesh

PLAIN = 0.8  # grey of a geometry without colours
MAX_FACES = 200_000  # a textured geometry is not subdivided beyond
COLOUR_ERROR = 0.05  # a face is too large where its texture differs by more from what its vertices interpolate to


def load_mesh(path: str | Path, fit_radius: float | None = None) -> Mesh:
    """Read a mesh file, its geometries merged, its materials turned into vertex colours.

    glTF's axes (y up, front +z) become the world's (z up, front +x), and the same turn is applied to other formats. Textures
    are read at the vertices; a geometry whose texture has more detail than that is subdivided first (each split halves every edge).
    Colours are display-referred: the linear factors and vertex colours of glTF are encoded as sRGB.

    Args:
        path: file that trimesh can read.
        fit_radius: where given, centre the bounding box at the origin and scale the mesh to reach this distance from it.

    Raises:
        UserError: the file is missing, cannot be read, or holds no triangle.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no mesh file '{path}': check the path")
    try:
        scene = trimesh.load_scene(path)
    except Exception as error:  # trimesh's readers raise whatever their parsers do
        reason = str(error).split("\n")[0] or type(error).__name__
        raise UserError(f"cannot read the mesh file '{path}' ({reason}): give a valid GLB, OBJ or PLY file") from error
    parts = [part for part in scene.dump() if isinstance(part, trimesh.Trimesh) and len(part.faces)]
    if not parts:
        raise UserError(f"the mesh file '{path}' holds no triangle: give a file with a surface")
    linear_factors = path.suffix.lower() in (".glb", ".gltf")
    coloured = [_coloured(part, linear_factors) for part in parts]
    offsets = np.cumsum([0] + [len(points) for points, _, _ in coloured])
    points = np.concatenate([points for points, _, _ in coloured])[:, [2, 0, 1]]
    faces = np.concatenate([faces + offset for (_, faces, _), offset in zip(coloured, offsets, strict=False)])
    rgb = np.concatenate([rgb for _, _, rgb in coloured])
    if not np.isfinite(points).all():
        raise UserError(f"the mesh file '{path}' holds coordinates that are not finite: repair it")
    if fit_radius is not None:
        points = points - (points.min(0) + points.max(0)) / 2
        points = points * (fit_radius / max(np.linalg.norm(points, axis=1).max(), 1e-12))
    return Mesh(torch.from_numpy(points).float(), torch.from_numpy(faces).long(), torch.from_numpy(rgb).float())


def _coloured(part: trimesh.Trimesh, linear_factors: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices [V,3], faces [F,3] and display-referred colours [V,3] of one geometry."""
    points, faces = np.asarray(part.vertices, float), np.asarray(part.faces, np.int64)
    texture, factor = _material(part)
    tint = _tint(part, len(points)) * factor
    uv = getattr(part.visual, "uv", None)
    if texture is None or uv is None:
        return points, faces, _encode(tint) if linear_factors else tint
    attributes = np.concatenate([points, np.asarray(uv, float), tint], axis=1)

    def colour(values: np.ndarray) -> np.ndarray:
        sampled = _nearest(texture, values[..., 3:5])
        return _encode(_decode(sampled) * values[..., 5:]) if linear_factors else sampled * values[..., 5:]

    while len(faces) * 4 <= MAX_FACES and _detail(attributes, faces, colour) > COLOUR_ERROR:
        attributes, faces = _subdivide(attributes, faces)
    return attributes[:, :3], faces, colour(attributes)


def _material(part: trimesh.Trimesh) -> tuple[np.ndarray | None, np.ndarray]:
    """Base colour texture [H,W,3] or None, and the factor [3] that multiplies it."""
    material = getattr(part.visual, "material", None)
    image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    texture = None if image is None else np.asarray(image.convert("RGB"), float) / 255
    factor = getattr(material, "baseColorFactor", None)
    if factor is None and texture is None and material is not None:
        factor = getattr(material, "main_color", None)
    if factor is None:
        return texture, np.ones(3)
    factor = np.asarray(factor)
    return texture, factor[:3] / 255 if factor.dtype == np.uint8 else factor[:3].astype(float)


def _tint(part: trimesh.Trimesh, count: int) -> np.ndarray:
    """Vertex colours [V,3] in [0,1] as the file stores them; white where a material says the colour, else grey."""
    visual = part.visual
    if isinstance(visual, ColorVisuals):
        stored = visual.vertex_colors if visual.defined else None
    else:
        stored = getattr(visual, "vertex_attributes", {}).get("color")
    if stored is None:
        return np.full((count, 3), PLAIN if isinstance(visual, ColorVisuals) else 1.0)
    stored = np.asarray(stored)
    scale = np.iinfo(stored.dtype).max if np.issubdtype(stored.dtype, np.integer) else 1.0
    return stored[:, :3] / scale


def _nearest(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Texel at uv (origin at the bottom left, repeated), unfiltered: colours of a palette must not mix."""
    height, width = texture.shape[:2]
    column = np.floor(uv[..., 0] % 1 * width).astype(int).clip(0, width - 1)
    row = np.floor((1 - uv[..., 1] % 1) * height).astype(int).clip(0, height - 1)
    return texture[row, column]


def _detail(attributes: np.ndarray, faces: np.ndarray, colour) -> float:
    """Area-weighted mean difference between the colour at the faces' centres and the mean of their vertices' colours."""
    corners = attributes[faces]
    difference = np.abs(colour(corners.mean(1)) - colour(corners).mean(1)).max(-1)
    area = np.linalg.norm(np.cross(corners[:, 1, :3] - corners[:, 0, :3], corners[:, 2, :3] - corners[:, 0, :3]), axis=1)
    return float((difference * area).sum() / max(area.sum(), 1e-20))


def _subdivide(attributes: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every face cut into four at the middles of its edges."""
    edges = np.sort(np.stack([faces, np.roll(faces, -1, 1)], -1).reshape(-1, 2), axis=1)
    unique, inverse = np.unique(edges, axis=0, return_inverse=True)
    middle = inverse.reshape(-1, 3) + len(attributes)
    a, b, c = faces.T
    ab, bc, ca = middle.T
    cut = np.stack([a, ab, ca, ab, b, bc, ca, bc, c, ab, bc, ca], 1).reshape(-1, 3)
    return np.concatenate([attributes, attributes[unique].mean(1)]), cut


def _encode(linear: np.ndarray) -> np.ndarray:
    """Linear light to sRGB."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055)


def _decode(srgb: np.ndarray) -> np.ndarray:
    """sRGB to linear light."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((np.maximum(srgb, 0.04045) + 0.055) / 1.055) ** 2.4)
