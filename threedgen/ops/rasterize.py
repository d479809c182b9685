"""Rasterization of triangles: which face covers a pixel, and where on the face the pixel lies. No gradient.

Every backend does the same exact arithmetic, so that coverage does not depend on the machine:

- Positions are projected and snapped to 1/256 of a pixel; edge functions are integers. A pixel centre on an edge belongs to the
  face for which the edge is a top or a left one, hence along a shared edge there is neither a hole nor a double hit.
- The depth z/w in [-1,1] is snapped to 2^-29. The least of `depth << 32 | face` wins: the nearest, then the lowest face index,
  in whatever order the faces are visited.
- Both sides of a face are drawn. Faces with a vertex at w <= 0, with a vertex that is not finite or further than 2^21 pixels
  away, and faces of no area after snapping are skipped whole. Elsewhere, depths outside [-1,1] are cut away pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from threedgen.ops import _library
from threedgen.ops._checks import check_device, check_dtype, check_floating, check_shape

SUBPIXEL = 256
DEPTH_STEPS = 2**29
FURTHEST = 2**29  # in sub-pixels: products of two differences stay within 64 bits
CANDIDATES = 2**21  # (face, pixel) pairs the reference holds at a time
EMPTY = 2**63 - 1


def rasterize(clip: Tensor, faces: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The nearest face at every pixel centre.

    Args:
        clip: [B,V,4] float32 or float64, positions in clip space (OpenGL: x right, y up, nearer is smaller z/w).
        faces: [F,3] int64 vertex indices, the same for all images; either winding.
        height, width: image size in pixels; row 0 is at the top.

    Returns:
        face: [B,H,W] int64, -1 where there is none.
        barycentric: [B,H,W,3] in the dtype of `clip`, perspective-correct weights of the face's vertices; zeros where there is none.

    Raises:
        ValueError: shapes or dtypes are wrong, or a face names a vertex that does not exist.
    """
    check_shape("clip", clip, None, None, 4)
    check_floating(clip=clip)
    check_shape("faces", faces, None, 3)
    check_dtype("faces", faces, torch.int64)
    check_device(clip=clip, faces=faces)
    if height < 1 or width < 1:
        raise ValueError(f"the image must have at least one pixel, got {height} x {width}")
    if len(faces) and (int(faces.min()) < 0 or int(faces.max()) >= clip.shape[1]):
        raise ValueError(f"faces name vertices outside 0..{clip.shape[1] - 1}")
    _library.warn_if_reference(clip)
    return torch.ops.threedgen.rasterize(clip.detach(), faces, height, width)


def rasterize_reference(clip: Tensor, faces: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The operator in plain torch; the compiled kernels agree with it bit for bit in `face`."""
    images = [_rasterize_image(positions.double(), faces, height, width) for positions in clip]
    face = torch.stack([f for f, _ in images]) if images else faces.new_empty(0, height, width)
    barycentric = torch.stack([b for _, b in images]) if images else clip.new_empty(0, height, width, 3)
    return face, barycentric.to(clip.dtype)


def _rasterize_image(clip: Tensor, faces: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """One image: clip [V,4] float64 -> face [H,W], barycentric [H,W,3] float64."""
    snapped, drawable = _snap(clip, height, width)
    index = torch.nonzero(drawable[faces].all(-1)).flatten()
    low, high = _pixel_box(snapped[faces[index]], height, width)
    index, low, size = index[(high >= low).all(-1)], low[(high >= low).all(-1)], (high - low + 1)[(high >= low).all(-1)]
    keys = torch.full((height * width,), EMPTY, dtype=torch.int64, device=clip.device)
    for face, pixel in _candidates(index, low, size, width):
        edge, area = _edges(snapped[faces[face]], pixel, width)
        depth = (edge.double() * (clip[:, 2] / clip[:, 3])[faces[face]]).sum(-1) / area.double()
        hit = _inside(edge, snapped[faces[face]], area) & (depth.abs() <= 1)
        key = (torch.round((depth[hit] + 1) * DEPTH_STEPS).long() << 32) | face[hit]
        keys.scatter_reduce_(0, pixel[hit], key, "amin")
    covered = torch.nonzero(keys != EMPTY).flatten()
    face = torch.full_like(keys, -1)
    face[covered] = keys[covered] & 0xFFFFFFFF
    barycentric = clip.new_zeros(height * width, 3)
    corners = faces[face[covered]]
    weight = _edges(snapped[corners], covered, width)[0].double().abs() / clip[:, 3][corners]
    barycentric[covered] = weight / weight.sum(-1, keepdim=True)
    return face.view(height, width), barycentric.view(height, width, 3)


def _snap(clip: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Sub-pixel positions [V,2] int64 (x right, y down) and which vertices may be drawn [V]."""
    x = (clip[:, 0] / clip[:, 3] + 1) * (width * SUBPIXEL / 2)
    y = (1 - clip[:, 1] / clip[:, 3]) * (height * SUBPIXEL / 2)
    position = torch.round(torch.stack([x, y], -1))
    drawable = (clip[:, 3] > 0) & torch.isfinite(clip).all(-1) & (position.abs() <= FURTHEST).all(-1)
    return torch.where(drawable[:, None], position, 0.0).long(), drawable


def _pixel_box(corners: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """First and last (column, row) [F,2] whose centres a triangle [F,3,2] may cover; last < first where there are none."""
    half = SUBPIXEL // 2
    low = torch.div(corners.amin(1) - half + SUBPIXEL - 1, SUBPIXEL, rounding_mode="floor").clamp_min(0)
    high = torch.div(corners.amax(1) - half, SUBPIXEL, rounding_mode="floor")
    return low, torch.minimum(high, high.new_tensor([width - 1, height - 1]))


def _candidates(index: Tensor, low: Tensor, size: Tensor, width: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs (face [N], flat pixel [N]) of every face with the pixels of its box, some faces at a time."""
    count = size.prod(-1)
    start = 0
    ends = count.cumsum(0)
    while start < len(index):
        taken = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(torch.searchsorted(ends, taken + CANDIDATES, right=True)))
        number = torch.repeat_interleave(torch.arange(start, stop, device=index.device), count[start:stop])
        within = torch.arange(len(number), device=index.device) - (ends - count)[number] + taken
        column = low[number, 0] + within % size[number, 0]
        row = low[number, 1] + torch.div(within, size[number, 0], rounding_mode="floor")
        yield index[number], row * width + column
        start = stop


def _edges(corners: Tensor, pixel: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Edge functions [N,3] (of the edge opposite to each vertex) at pixel centres, and their sum [N], twice the signed area."""
    row, column = torch.div(pixel, width, rounding_mode="floor"), pixel % width
    centre = torch.stack([column, row], -1) * SUBPIXEL + SUBPIXEL // 2
    start, end = corners.roll(-1, 1), corners.roll(-2, 1)
    along, to = end - start, centre[:, None] - start
    edge = along[..., 0] * to[..., 1] - along[..., 1] * to[..., 0]
    return edge, edge.sum(-1)


def _inside(edge: Tensor, corners: Tensor, area: Tensor) -> Tensor:
    """[N] whether the pixel belongs to the face: inside, or on an edge that the face owns."""
    sign = torch.sign(area)[:, None]
    along = (corners.roll(-2, 1) - corners.roll(-1, 1)) * sign[..., None]
    top_or_left = (along[..., 1] < 0) | ((along[..., 1] == 0) & (along[..., 0] > 0))
    return ((edge * sign > 0) | ((edge == 0) & top_or_left)).all(-1) & (area != 0)


def _fake(clip: Tensor, faces: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    images = clip.shape[0]
    return faces.new_empty(images, height, width), clip.new_empty(images, height, width, 3)


_library.register("rasterize", rasterize_reference, _fake)
