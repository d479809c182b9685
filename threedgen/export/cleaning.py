"""Repairs and simplification of meshes. Deterministic; what comes out has no degenerate, duplicate or floating parts."""

from __future__ import annotations

import fast_simplification
import numpy as np
import torch
import trimesh

from threedgen.errors import UserError
from threedgen.representations.base import Mesh

SLIVER = 1e-12  # area of a face, as a share of the squared diagonal, below which it is degenerate


def clean_mesh(mesh: Mesh, min_share: float = 0.02) -> Mesh:
    """Drop what a renderer or a printer would stumble over.

    Removed: faces with vertices that are not finite, vertices at the same place, faces without area, faces that repeat
    another's vertices, connected parts with less than `min_share` of the largest part's area, closed cavities inside another
    part (nobody can see them), unused vertices. Closed parts that are inside out are turned.

    Args:
        mesh: any triangles; uv and texture are dropped, vertex_rgb is kept.
        min_share: in [0,1]; 0 keeps every part.

    Raises:
        UserError: nothing is left.
    """
    points = mesh.vertices.detach().cpu().double().numpy()
    faces = mesh.faces.cpu().numpy()
    faces = faces[np.isfinite(points)[faces].all(axis=(1, 2))]
    points, faces, first = _weld(points, faces)
    faces = _proper(points, faces)
    if not len(faces):
        raise UserError("the mesh has no surface: lower export.threshold, or optimize for more steps")
    faces = _visible_parts(points, faces, min_share)
    used, faces = np.unique(faces, return_inverse=True)
    rgb = mesh.vertex_rgb.detach().cpu()[torch.from_numpy(first[used])] if mesh.vertex_rgb is not None else None
    return Mesh(torch.from_numpy(points[used]).float(), torch.from_numpy(faces.reshape(-1, 3)).long(), rgb)


def simplify_mesh(mesh: Mesh, faces: int) -> Mesh:
    """Collapse edges by quadric error until at most `faces` triangles remain; the result is clean. Drops colours and uv.

    Raises:
        UserError: nothing is left.
    """
    if len(mesh.faces) > faces:
        points, triangles = fast_simplification.simplify(
            mesh.vertices.detach().cpu().float().numpy(), mesh.faces.cpu().numpy().astype(np.int32), target_count=faces
        )[:2]
        mesh = Mesh(torch.from_numpy(np.asarray(points, np.float32)), torch.from_numpy(np.asarray(triangles, np.int64)))
    return clean_mesh(Mesh(mesh.vertices, mesh.faces))


def _weld(points: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices at one float32 position become one; also the index of the first original of each."""
    used, faces = np.unique(faces, return_inverse=True)
    unique, first, inverse = np.unique(points[used].astype(np.float32), axis=0, return_index=True, return_inverse=True)
    return unique.astype(float), inverse.reshape(-1)[faces.reshape(-1, 3)], used[first]


def _proper(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Faces with an area, each set of three vertices once (the first)."""
    if not len(faces):
        return faces
    faces = faces[_areas(points, faces) > SLIVER * np.square(np.ptp(points, axis=0)).sum()]
    _, first = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
    return faces[np.sort(first)]


def _visible_parts(points: np.ndarray, faces: np.ndarray, min_share: float) -> np.ndarray:
    """Faces of the parts worth keeping, closed ones facing outward. Parts are connected through vertices."""
    edges = np.concatenate([faces[:, :2], faces[:, 1:]])
    label = trimesh.graph.connected_component_labels(edges, node_count=len(points))[faces[:, 0]]
    area = np.bincount(label, weights=_areas(points, faces))
    large = np.flatnonzero((area > 0) & (area >= min_share * area.max()))
    parts = [faces[label == k] for k in large]
    volume = np.array([_volume(points, part) for part in parts])
    if volume[area[large].argmax()] < 0:
        parts, volume = [part[:, ::-1] for part in parts], -volume
    shells = [part for part, v in zip(parts, volume, strict=True) if v > 0]
    kept = []
    for part, v in zip(parts, volume, strict=True):
        if v >= 0:
            kept.append(part)
        elif not any(_encloses(points, shell, part) for shell in shells):
            kept.append(part[:, ::-1])
    return np.concatenate(kept)


def _areas(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """[F] area of each face."""
    a, b, c = points[faces].transpose(1, 0, 2)
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2


def _volume(points: np.ndarray, faces: np.ndarray) -> float:
    """Signed volume of a closed surface, positive where its faces look outward; 0 for an open one."""
    edges = np.concatenate([faces, np.roll(faces, -1, axis=1), np.roll(faces, -2, axis=1)])[:, :2]
    forward, backward = edges[np.lexsort(edges.T)], edges[:, ::-1][np.lexsort(edges[:, ::-1].T)]
    if not np.array_equal(forward, backward):
        return 0.0
    a, b, c = (points - points[faces].mean(axis=(0, 1)))[faces].transpose(1, 0, 2)
    return float((np.cross(a, b) * c).sum() / 6)


def _encloses(points: np.ndarray, shell: np.ndarray, part: np.ndarray) -> bool:
    """Whether the bounding box of a part lies within the shell's."""
    inner, outer = points[part].reshape(-1, 3), points[shell].reshape(-1, 3)
    return bool((inner.min(0) >= outer.min(0)).all() and (inner.max(0) <= outer.max(0)).all())
