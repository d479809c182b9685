"""The part of a surface that can be seen: models of asset packs have inner walls, buried parts and undersides that no picture shows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from threedgen.cameras import Cameras
from threedgen.evaluation.shapes import Points, Surface, surface_points
from threedgen.ops.interpolate import interpolate
from threedgen.ops.rasterize import rasterize


def visible_points(surface: Surface, cameras: Cameras, samples: int, tolerance: float, seed: int, purpose: str) -> Points:
    """Of points drawn uniformly by area, those that a camera sees.

    Args:
        surface: the mesh, both sides of its faces block the view.
        cameras: many views; their pixels should be finer than the tolerance.
        samples: points drawn; fewer are seen.
        tolerance: how far a point may lie from what its pixel shows, world units.
        seed, purpose: of the points.

    Raises:
        UserError: the surface has no area.
    """
    points = surface_points(surface, samples, seed, purpose)
    return points[seen_by(surface, points.position, cameras, tolerance)]


@torch.no_grad()
def seen_by(surface: Surface, points: Tensor, cameras: Cameras, tolerance: float) -> Tensor:
    """[N] bool, which of the points [N,3] of a surface a camera sees: what the point's pixel shows lies within the tolerance."""
    vertices, faces, points = surface.vertices.detach().cpu(), surface.faces.cpu(), points.float()
    matrices = cameras.view_projection()
    seen = torch.zeros(len(points), dtype=torch.bool)
    for view in range(len(cameras)):
        clip = F.pad(vertices, (0, 1), value=1.0) @ matrices[view].T
        face, weights = rasterize(clip[None], faces, cameras.height, cameras.width)
        shown = interpolate(vertices, faces, face, weights)[0]
        (pixel,), (depth,) = cameras[[view]].project(points)
        column, row = pixel.unbind(-1)
        inside = (depth > 0) & (row >= 0) & (row < cameras.height) & (column >= 0) & (column < cameras.width)
        at = row[inside].long(), column[inside].long()
        near = (shown[at] - points[inside]).norm(dim=-1) <= tolerance
        seen[inside] |= near & (face[0][at] >= 0)
    return seen
