"""Where the outlines of a surface pass between neighbouring pixels, as a differentiable function of the vertices.

The idea of analytic antialiasing (Laine et al. 2020, arXiv 2011.03277), by following the surface: from the face that covers a pixel, the
segment to the centre of the next pixel is traced from face to face. It arrives, or it meets an edge beyond which the surface ends or
folds back: an outline, however small the faces are. Edge functions are linear along the segment, so with the pixel centres a and b an
edge is crossed at the share E(a) / (E(a) - E(b)) of the way, E(p) = d_i(p) x d_j(p) as in `barycentric`. An edge counts in one direction
alone: where it runs more upright than level, between pixels of a row, else between pixels of a column; then the covered area is the sum of
lengths over rows or columns, and its derivative is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from threedgen.ops import _library
from threedgen.ops._checks import check_device, check_dtype, check_faces, check_floating, check_shape
from threedgen.ops.barycentric import barycentric_reference, cross, pixel_centres

LONGEST_WALK = 32  # faces between two pixel centres
SHORTEST_OUTLINE = 1 / 256  # pixels that an edge must extend across the segment, as far as `rasterize` tells positions apart


def silhouettes(clip: Tensor, faces: Tensor, face: Tensor, adjacency: Tensor) -> Tensor:
    """How far an outline lies from the border between two pixels.

    Where both pixels show surfaces, the one nearer at its own pixel is followed first, and the other one if that leads
    elsewhere. Differentiable once, in `clip`, where z plays no part; on CUDA the order of sums varies from run to run.

    Args:
        clip: [B,V,4] float32 or float64, positions in clip space.
        faces: [F,3] int64 vertex indices, either winding.
        face: [B,H,W] int64 as from `rasterize`, -1 where there is none.
        adjacency: [F,3] int64 as from `adjacent_edges`.

    Returns:
        [B,H,W,2] in the dtype of `clip`: in [-1/2,1/2] pixels, towards the next pixel to the right (0) and below (1), how far the outline
        lies beyond the border to it; 0 where there is none.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or an index points nowhere.
    """
    check_shape("clip", clip, None, None, 4)
    check_floating(clip=clip)
    check_device(clip=clip, faces=faces, face=face, adjacency=adjacency)
    check_faces(faces, clip.shape[1], face, clip.shape[0])
    check_shape("adjacency", adjacency, len(faces), 3)
    check_dtype("adjacency", adjacency, torch.int64)
    _library.warn_if_reference(clip)
    return torch.ops.threedgen.silhouettes(clip, faces, face, adjacency)


@dataclass(frozen=True)
class Segments:
    """Segments [N] between pixel centres: image and face they start from, ends [N,2], whether they are level."""

    image: Tensor
    face: Tensor
    start: Tensor
    end: Tensor
    level: Tensor

    def at(self, chosen: Tensor) -> Segments:
        """Some of the segments."""
        return Segments(self.image[chosen], self.face[chosen], self.start[chosen], self.end[chosen], self.level[chosen])


def silhouettes_reference(clip: Tensor, faces: Tensor, face: Tensor, adjacency: Tensor) -> Tensor:
    """The twin of `silhouettes` in torch, differentiable by autograd; computes in float64 as the kernels do."""
    position = clip.double()
    depth = _depth(position.detach(), faces, face)
    shift = position.new_zeros(*face.shape, 2)
    for axis in (0, 1):
        here = torch.ones_like(face, dtype=torch.bool)
        here[:, -1 if axis else slice(None), slice(None) if axis else -1] = False
        there = here.roll(1, 1 if axis else 2)
        differs = face[here] != face[there]
        pair, other = (torch.stack(torch.nonzero(mask, as_tuple=True))[:, differs] for mask in (here, there))
        first = depth[here][differs] <= depth[there][differs]
        start, end = torch.where(first, pair, other), torch.where(first, other, pair)
        near, done = _shifts(position, faces, face, adjacency, start, end)
        far, _ = _shifts(position, faces, face, adjacency, end[:, ~done], start[:, ~done])
        both = near.index_put((torch.nonzero(~done)[:, 0],), -far)
        shift = shift.index_put((*pair, pair.new_tensor(axis)), both * torch.where(first, 1.0, -1.0))
    return shift.to(clip.dtype)


def _depth(clip: Tensor, faces: Tensor, face: Tensor) -> Tensor:
    """[B,H,W] z/w of the surface at pixel centres, infinite where there is none."""
    covered = torch.nonzero(face >= 0, as_tuple=True)
    corners = clip[covered[0][:, None], faces[face[covered]]]
    z, w = (barycentric_reference(clip, faces, face)[covered][..., None] * corners[..., 2:]).sum(1).unbind(-1)
    return torch.full_like(face, torch.inf, dtype=clip.dtype).index_put(covered, z / w)


def _shifts(clip: Tensor, faces: Tensor, face: Tensor, adjacency: Tensor, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Signed distances [N] of outlines from the middle between pixels (image, row, column) [3,N], and where nothing is left to find [N].

    That is where an outline was met, or the end was reached on the face that is seen there.
    """
    centres = pixel_centres(face)
    segments = Segments(start[0], face[tuple(start)], centres[tuple(start[1:])], centres[tuple(end[1:])], start[1] == end[1])
    edge, met, arrived = _outlines(clip.detach(), faces, adjacency, segments)
    low, high = (clip[segments.image[met], edge[met, k]] for k in (0, 1))
    at_start, at_end = (_edge_function(low, high, point[met]) for point in (segments.start, segments.end))
    along = at_start / (at_start - at_end)
    along = along + (along.clamp(0, 1) - along).detach()
    size = clip.new_tensor([face.shape[2], face.shape[1]]) / 2
    extent = ((low[:, :2] / low[:, 3:] - high[:, :2] / high[:, 3:]).abs() * size).detach()
    across, level = torch.where(segments.level[met, None], extent.flip(-1), extent), segments.level[met]
    counts = ((across[:, 0] > across[:, 1]) | (level & (across[:, 0] == across[:, 1]))) & (across[:, 0] >= SHORTEST_OUTLINE)
    return clip.new_zeros(len(met)).index_put((met.nonzero()[:, 0],), torch.where(counts, along - 0.5, 0.0)), met | (
        (arrived == face[tuple(end)]) & (arrived >= 0)
    )


def _outlines(clip: Tensor, faces: Tensor, adjacency: Tensor, segments: Segments) -> tuple[Tensor, Tensor, Tensor]:
    """Vertices [N,2] of the edges at which the surface ends along segments, whether it does [N], else the last face [N] or -1."""
    edge, met = faces.new_zeros(len(segments.face), 2), torch.zeros_like(segments.face, dtype=torch.bool)
    alive = torch.nonzero(segments.face >= 0)[:, 0]
    current, entry, arrived = segments.face.clone(), torch.full_like(segments.face, -1), torch.full_like(segments.face, -1)
    for _ in range(LONGEST_WALK):
        if not len(alive):
            break
        here = segments.at(alive)
        corners = faces[current[alive]]
        leave = _exits(clip[here.image[:, None], corners], here, entry[alive])
        going = leave >= 0
        arrived[alive[~going]] = current[alive[~going]]
        alive, corners, leave, here = alive[going], corners[going], leave[going], here.at(going)
        i, j, own = (corners.gather(1, (leave[:, None] + k) % 3)[:, 0] for k in (1, 2, 0))
        beyond = adjacency[current[alive], leave]
        ends = (beyond < 0) | _folds_back(clip, faces.flatten()[beyond.clamp_min(0)], i, j, own, here.image)
        edge[alive[ends]], met[alive[ends]] = torch.stack([i, j], -1)[ends], True
        alive, beyond = alive[~ends], beyond[~ends]
        current[alive], entry[alive] = torch.div(beyond, 3, rounding_mode="floor"), beyond % 3
    return edge, met, arrived


def _exits(corners: Tensor, segments: Segments, entry: Tensor) -> Tensor:
    """Number [N] of the edge through which segments leave faces with corners [N,3,4], -1 where they end inside."""
    low, high = corners.roll(-1, 1), corners.roll(-2, 1)
    at_start = _edge_function(low, high, segments.start[:, None])
    sign = torch.where((at_start * corners[..., 3]).sum(-1, keepdim=True) < 0, -1.0, 1.0)
    at_start, at_end = at_start * sign, _edge_function(low, high, segments.end[:, None]) * sign
    leaves = (at_end < 0) & (at_start > at_end) & (torch.arange(3, device=entry.device) != entry[:, None])
    along = torch.where(leaves, at_start / torch.where(leaves, at_start - at_end, 1.0), torch.inf)
    return torch.where(leaves.any(-1), along.argmin(-1), -1)


def _folds_back(clip: Tensor, opposite: Tensor, i: Tensor, j: Tensor, own: Tensor, image: Tensor) -> Tensor:
    """[N] whether the far vertex of the face beyond edge (i,j) lies on the side of the face's own vertex, or is behind the eye."""
    far, low, high, near = (clip[image, vertex] for vertex in (opposite, i, j, own))
    sides = (_edge_function(low, high, vertex[:, :2] / vertex[:, 3:]) for vertex in (far, near))
    return (far[:, 3] <= 0) | (next(sides) * next(sides).sign() >= 0)


def _edge_function(low: Tensor, high: Tensor, point: Tensor) -> Tensor:
    """[...] of the edges from clip positions low to high [...,4] at points [...,2] in [-1,1]^2."""
    return cross(low[..., :2] - point * low[..., 3:], high[..., :2] - point * high[..., 3:])


def _backward_reference(grad: Tensor, clip: Tensor, faces: Tensor, face: Tensor, adjacency: Tensor) -> Tensor:
    """Gradient [B,V,4] of `silhouettes_reference` to clip."""
    with torch.enable_grad():
        position = clip.detach().requires_grad_()
        return torch.autograd.grad(silhouettes_reference(position, faces, face, adjacency), position, grad)[0]


def _setup_context(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad: Tensor):
    return torch.ops.threedgen.silhouettes_backward(grad, *ctx.saved_tensors), None, None, None


def _fake(clip: Tensor, faces: Tensor, face: Tensor, adjacency: Tensor) -> Tensor:
    return clip.new_empty(*face.shape, 2)


def _fake_backward(grad: Tensor, clip: Tensor, faces: Tensor, face: Tensor, adjacency: Tensor) -> Tensor:
    return clip.new_empty(clip.shape)


_library.register("silhouettes", silhouettes_reference, _fake)
_library.register("silhouettes_backward", _backward_reference, _fake_backward)
_library.register_autograd("silhouettes", _backward, _setup_context)
