"""Texture atlas and texture baking."""

from __future__ import annotations

from collections.abc import Callable

import torch
import xatlas
from torch import Tensor
from torch.nn import functional as F

from threedgen.errors import UserError
from threedgen.ops.interpolate import interpolate
from threedgen.ops.rasterize import rasterize
from threedgen.representations.base import Mesh

ColorField = Callable[[Tensor], Tensor]

CHUNK = 2**18  # points a call of the colour field
GUTTER = 4  # texels between charts at the atlas' own resolution
DILATION = 4  # texels around a chart that repeat its border; further out the filling is a blur


def unwrap_mesh(mesh: Mesh, size: int) -> Mesh:
    """Cut the surface into charts and pack them (xatlas); vertices on a cut are doubled. Deterministic.

    Args:
        mesh: clean triangles; vertex_rgb follows its vertices.
        size: side in pixels of the texture the charts are packed for.

    Returns:
        The mesh with `uv` in [0,1]: charts keep their proportions and do not overlap.
    """
    atlas = xatlas.Atlas()
    atlas.add_mesh(mesh.vertices.cpu().float().numpy(), mesh.faces.cpu().numpy().astype("uint32"))
    packing = xatlas.PackOptions()
    packing.resolution, packing.padding, packing.bilinear, packing.rotate_charts = size, GUTTER, True, True
    atlas.generate(xatlas.ChartOptions(), packing)
    original, faces, uv = atlas[0]
    original, faces = torch.from_numpy(original.astype("int64")), torch.from_numpy(faces.astype("int64"))
    extent = torch.tensor([atlas.width, atlas.height], dtype=torch.float32)
    uv = torch.from_numpy(uv).float() * extent / extent.max()
    rgb = None if mesh.vertex_rgb is None else mesh.vertex_rgb.cpu()[original]
    return Mesh(mesh.vertices.cpu()[original], faces, rgb, uv).to(mesh.vertices.device)


def bake_texture(mesh: Mesh, color_fn: ColorField, size: int, supersample: int = 2) -> Tensor:
    """Evaluate a colour field on the surface, texel by texel.

    The charts are rasterized in texture space, the field is evaluated at the surface points under the samples, and a texel is
    the mean of its samples. Texels outside the charts are filled from their neighbours, so that bilinear lookups and smaller
    mip levels see no foreign colour.

    Args:
        mesh: with `uv`.
        color_fn: points [N,3] -> colours [N,3] in [0,1], called without gradient, at most 2^18 points at a time.
        size: side of the texture in pixels.
        supersample: samples along each side of a texel.

    Returns:
        [size,size,3] in [0,1].

    Raises:
        UserError: a colour is not finite, or the charts cover nothing.
    """
    if mesh.uv is None:
        raise ValueError("the mesh has no uv: unwrap it first")
    side = size * supersample
    flat = torch.stack([2 * mesh.uv[:, 0] - 1, 1 - 2 * mesh.uv[:, 1]], -1)
    clip = torch.cat([flat, flat.new_tensor([0.0, 1.0]).expand(len(flat), 2)], -1)[None]
    face, barycentric = rasterize(clip, mesh.faces, side, side)
    row, column = torch.nonzero(face[0] >= 0, as_tuple=True)
    if not len(row):
        raise UserError("the texture charts cover no pixel: raise export.texture or check the mesh")
    points = interpolate(mesh.vertices, mesh.faces, face, barycentric)[0, row, column]
    with torch.no_grad():
        colour = torch.cat([color_fn(chunk) for chunk in points.split(CHUNK)]).to(points.dtype)
    if not torch.isfinite(colour).all():
        raise UserError("the colours of the surface are not finite: the optimization has diverged, lower the learning rate")
    samples = points.new_zeros(1, 4, side, side)
    samples[0, :3, row, column] = colour.clamp(0, 1).T
    samples[0, 3, row, column] = 1
    return _fill(F.avg_pool2d(samples, supersample))[0].permute(1, 2, 0)


def _fill(image: Tensor) -> Tensor:
    """[1,4,H,W] colour times weight, and weight -> [1,3,H,W]: empty texels take the mean of the nearest covered ones."""
    image = _normalised(image)
    for _ in range(DILATION):
        grown = _normalised(F.avg_pool2d(F.pad(image, (1, 1, 1, 1)), 3, stride=1))
        image = torch.where(image[:, 3:] > 0, image, grown)
    return _pull(image)[:, :3]


def _pull(image: Tensor) -> Tensor:
    """Fill what is still empty from a half-size image, recursively."""
    if bool((image[:, 3] > 0).all()):
        return image
    half = _pull(_normalised(F.avg_pool2d(image, 2, ceil_mode=True)))
    enlarged = F.interpolate(half, size=image.shape[-2:], mode="bilinear", align_corners=False)
    return torch.where(image[:, 3:] > 0, image, enlarged)


def _normalised(image: Tensor) -> Tensor:
    """Colours divided by their weights; the weight becomes 1 where it was positive."""
    weight = image[:, 3:]
    return torch.where(weight > 0, image / weight.clamp_min(1e-12), 0.0)
