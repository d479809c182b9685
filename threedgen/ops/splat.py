"""Splatting of projected Gaussians, composited from front to back (3D Gaussian Splatting, arXiv 2308.04079).

Letters: B views, N Gaussians, C channels. At a pixel centre p (x to the right, y down, in pixels, the first centre at 0.5) Gaussian i
has alpha_i = min(0.999, o_i exp(-d^T Q_i d / 2)), d = p - mean_i, and counts as absent where that is below 1/255. In the order of
depth, equal depths in the order of the index, it adds w_i = T_i alpha_i of its features, T_i = prod_{j<i} (1 - alpha_j). A pixel ends
in front of the Gaussian that would take T to 1e-4 or below. Every backend follows these rules, so results do not depend on tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from threedgen.ops import _library
from threedgen.ops._checks import check_device, check_floating, check_shape

LEAST_ALPHA = 1 / 255
MOST_ALPHA = 0.999
LEAST_TRANSMITTANCE = 1e-4
TILE = 16  # side of a tile in pixels; kernels also take 8
MARGIN = 0.01  # pixels added to the box of a Gaussian, so that rounding does not cut what shows
CUDA_CHANNELS = 32  # channels a CUDA kernel takes at a time
TWIN_VALUES = 2**22  # values (entry, pixel) the twin holds at a time


def splat(mean: Tensor, conic: Tensor, opacity: Tensor, features: Tensor, depth: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Features of Gaussians as images see them.

    Differentiable in mean, conic, opacity and features (not in depth, which only orders), once. One thread and many give the same bits.

    Args:
        mean: [B,N,2] centres in pixels, float32 or float64.
        conic: [B,N,3] entries xx, xy, yy of the inverse covariance Q, per squared pixel. Not drawn unless positive definite.
        opacity: [B,N] in [0,1].
        features: [B,N,C].
        depth: [B,N]; what is not positive and finite is not drawn.
        height, width: size of the images in pixels.

    Returns:
        out [B,H,W,C] sums of w_i features_i; transmittance [B,H,W] behind the last Gaussian (1 where there is none).

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or the image has no pixel.
    """
    views, count = mean.shape[:2] if mean.dim() == 3 else (None, None)
    check_shape("mean", mean, views, count, 2)
    check_shape("conic", conic, views, count, 3)
    check_shape("opacity", opacity, views, count)
    check_shape("features", features, views, count, None)
    check_shape("depth", depth, views, count)
    check_floating(mean=mean, conic=conic, opacity=opacity, features=features, depth=depth)
    check_device(mean=mean, conic=conic, opacity=opacity, features=features, depth=depth)
    if height < 1 or width < 1:
        raise ValueError(f"the image must have at least one pixel, got {height} x {width}")
    _library.warn_if_reference(mean)
    extent = box_extent(conic.detach(), opacity.detach())
    entries, offsets = torch.ops.threedgen.splat_bins(mean.detach(), extent, depth.detach(), height, width, TILE)
    parts = features.split(CUDA_CHANNELS, -1) if mean.is_cuda and features.shape[-1] > CUDA_CHANNELS else (features,)
    drawn = [torch.ops.threedgen.splat(mean, conic, opacity, part, extent, entries, offsets, height, width, TILE) for part in parts]
    return torch.cat([out for out, *_ in drawn], -1) if len(drawn) > 1 else drawn[0][0], drawn[0][1]


def box_extent(conic: Tensor, opacity: Tensor) -> Tensor:
    """[...,2] half width and height in pixels of the box outside of which alpha is below 1/255; 0 where the Gaussian shows nowhere.

    On the ellipse d^T Q d = 2 ln(255 o), whose extreme points are at sqrt(2 ln(255 o) Q^-1_xx) and sqrt(2 ln(255 o) Q^-1_yy).

    Args:
        conic: [...,3] as in `splat`.
        opacity: [...].
    """
    xx, xy, yy = conic.unbind(-1)
    determinant = xx * yy - xy * xy
    reach = 2 * (opacity / LEAST_ALPHA).clamp(min=1).log()
    shown = (opacity > LEAST_ALPHA) & (determinant > 0) & (xx > 0)
    extent = (reach / determinant)[..., None].mul(torch.stack([yy, xx], -1)).sqrt() + MARGIN
    return torch.where(shown[..., None] & extent.isfinite(), extent, 0)


def splat_bins_reference(mean: Tensor, extent: Tensor, depth: Tensor, height: int, width: int, tile: int) -> tuple[Tensor, Tensor]:
    """Which Gaussians each tile shows.

    Args:
        mean, extent: [B,N,2] centre and half size of the Gaussians' boxes in pixels; depth: [B,N].
        tile: side of the tiles in pixels.

    Returns:
        entries [E] int32, b N + n by view, tile (row by row) and depth; offsets [B tiles + 1] int64: where the tiles' entries begin.
    """
    views, count = depth.shape
    rows, columns = tiles_of(height, width, tile)
    order = (torch.argsort(depth, dim=1, stable=True) + torch.arange(views, device=depth.device)[:, None] * count).flatten()
    drawn = ((depth > 0) & depth.isfinite()).flatten()[order]
    low, high = _pixel_box(mean.flatten(0, 1)[order].double(), extent.flatten(0, 1)[order].double(), height, width)
    drawn &= (high >= low).all(-1)
    order, low, high = order[drawn], low[drawn] // tile, high[drawn] // tile
    size = high - low + 1
    ends = size.prod(-1).cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    which = torch.repeat_interleave(torch.arange(len(order), device=depth.device), size.prod(-1), output_size=total)
    within = torch.arange(total, device=depth.device) - (ends - size.prod(-1))[which]
    column = low[which, 0] + within % size[which, 0]
    row = low[which, 1] + within // size[which, 0]
    place = (order[which] // count * rows + row) * columns + column
    offsets = torch.bincount(place, minlength=views * rows * columns).cumsum(0)
    return order[which][torch.argsort(place, stable=True)].int(), torch.cat([offsets.new_zeros(1), offsets])


def tiles_of(height: int, width: int, tile: int) -> tuple[int, int]:
    """Rows and columns of tiles of an image."""
    return -(-height // tile), -(-width // tile)


def _pixel_box(mean: Tensor, extent: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """First and last (column, row) [N,2] int64 whose centres lie in the boxes, cut to the image; last < first where there are none."""
    size = mean.new_tensor([width, height])
    low, high = (mean - extent - 0.5).ceil().clamp(min=0), torch.minimum((mean + extent - 0.5).floor(), size - 1)
    # A box between two centres is not empty: it reaches a pixel, though no centre.
    there = ((extent > 0) & (mean + extent > 0) & (mean - extent < size)).all(-1, keepdim=True)
    return torch.where(there, low, 0).long(), torch.where(there, high, -1).long()


def splat_reference(
    mean: Tensor,
    conic: Tensor,
    opacity: Tensor,
    features: Tensor,
    extent: Tensor,
    entries: Tensor,
    offsets: Tensor,
    height: int,
    width: int,
    tile: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The twin of the operator in torch, differentiable by autograd: all entries of a tile against all of its pixels.

    Returns:
        out [B,H,W,C], transmittance [B,H,W], last [B,H,W] int32: how many of the tile's entries there are up to the last that shows.
    """
    rows, columns = tiles_of(height, width, tile)
    flat = _with_blank(mean, conic, opacity, features)
    tiles = []
    for group, entry in _tile_entries(entries, offsets, len(flat[0]) - 1, tile):
        m, q, o, f = (value[entry] for value in flat)
        seen = _look(m, q, o, group % (rows * columns), columns, tile)
        position = torch.arange(1, entry.shape[1] + 1, device=mean.device)[:, None]
        out = torch.einsum("tkp,tkc->tpc", seen.alpha * seen.front, f)
        tiles.append((out, seen.end, ((seen.alpha > 0) * position).amax(1).int()))
    parts = (torch.cat(part) for part in zip(*tiles, strict=True))
    out, transmittance, last = (_images(part, height, width, tile) for part in parts)
    return out, transmittance, last


def _with_blank(*values: Tensor) -> list[Tensor]:
    """[B N + 1, ...] of values [B,N,...]: one more Gaussian, of opacity 0, stands where a tile's list is shorter than the longest."""
    return [torch.cat([value.flatten(0, 1), value.new_zeros(1, *value.shape[2:])]) for value in values]


def _tile_entries(entries: Tensor, offsets: Tensor, blank: int, tile: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Groups of tiles [T] with their Gaussians [T,K], K the longest list, shorter ones filled with `blank`."""
    begins, counts = offsets[:-1], offsets.diff()
    padded = torch.cat([entries.long(), offsets.new_full((1,), blank)])
    for group in _groups(counts.tolist(), tile * tile):
        longest = max(1, int(counts[group].max())) if len(group) else 1
        slot = torch.arange(longest, device=entries.device)
        yield group.to(entries.device), padded[torch.where(slot < counts[group, None], begins[group, None] + slot, len(entries))]


def _groups(counts: list[int], pixels: int) -> list[Tensor]:
    """Consecutive tiles that are drawn together, such that padded to the longest list they hold at most TWIN_VALUES, or one tile."""
    groups, start, longest = [], 0, 0
    for i, count in enumerate(counts):
        longest = max(longest, count)
        if i > start and longest * (i - start + 1) * pixels > TWIN_VALUES:
            groups.append(torch.arange(start, i))
            start, longest = i, count
    return [*groups, torch.arange(start, len(counts))]


class _Seen(NamedTuple):
    """What T tiles of P pixels see of K Gaussians each: [T,K,P], and [T,P] for `end`.

    Attributes:
        dx, dy: from the means to the pixels.
        uncut: alpha before it is cut to the greatest; alpha: after it, 0 where the Gaussian does not show.
        front, end: transmittance in front of a Gaussian, and behind all.
    """

    dx: Tensor
    dy: Tensor
    uncut: Tensor
    alpha: Tensor
    front: Tensor
    end: Tensor


def _look(mean: Tensor, conic: Tensor, opacity: Tensor, number: Tensor, columns: int, tile: int) -> _Seen:
    """Tiles, by their number [T] in the image, on their Gaussians: mean [T,K,2], conic [T,K,3], opacity [T,K]."""
    index = torch.arange(tile, device=mean.device)
    corner = torch.stack([number % columns, number // columns], -1) * tile
    centre = corner[:, None] + torch.stack(torch.meshgrid(index, index, indexing="xy"), -1).reshape(-1, 2) + 0.5
    dx, dy = (centre[:, None] - mean[:, :, None]).unbind(-1)
    xx, xy, yy = conic[:, :, None].unbind(-1)
    exponent = (xx * dx * dx + yy * dy * dy) / 2 + xy * dx * dy
    uncut = opacity[:, :, None] * torch.exp(-exponent)
    shows = (uncut >= LEAST_ALPHA) & (exponent >= 0)
    alpha = torch.where(shows, uncut.clamp(max=MOST_ALPHA), 0)
    # Once this falls to the least transmittance it stays there, also behind entries that do not show.
    alpha = torch.where((1 - alpha).cumprod(1) > LEAST_TRANSMITTANCE, alpha, 0)
    light = torch.cat([torch.ones_like(alpha[:, :1]), (1 - alpha).cumprod(1)], 1)
    return _Seen(dx, dy, uncut, alpha, light[:, :-1], light[:, -1])


def _images(tiles: Tensor, height: int, width: int, tile: int) -> Tensor:
    """[B,H,W,...] of tiles [B rows columns, tile^2, ...]."""
    rows, columns = tiles_of(height, width, tile)
    rest = tiles.shape[2:]
    grid = tiles.view(-1, rows, columns, tile, tile, *rest).transpose(2, 3)
    return grid.reshape(-1, rows * tile, columns * tile, *rest)[:, :height, :width].contiguous()


def _tiles(images: Tensor, tile: int) -> Tensor:
    """[B rows columns, tile^2, ...] of images [B,H,W,...], zeros beside them; the inverse of `_images`."""
    views, height, width, *rest = images.shape
    rows, columns = tiles_of(height, width, tile)
    grid = images.new_zeros(views, rows * tile, columns * tile, *rest)
    grid[:, :height, :width] = images
    return grid.view(views, rows, tile, columns, tile, *rest).transpose(2, 3).reshape(-1, tile * tile, *rest)


def _backward_reference(
    grad_out: Tensor,
    grad_transmittance: Tensor,
    mean: Tensor,
    conic: Tensor,
    opacity: Tensor,
    features: Tensor,
    extent: Tensor,
    entries: Tensor,
    offsets: Tensor,
    transmittance: Tensor,
    last: Tensor,
    height: int,
    width: int,
    tile: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `splat_reference` to mean, conic, opacity and features.

    With g the gradient that reaches a pixel, and G that of its transmittance, alpha_i gets
    T_i f_i . g - (sum_{j>i} w_j f_j . g + T_end G) / (1 - alpha_i).
    """
    rows, columns = tiles_of(height, width, tile)
    flat = _with_blank(mean, conic, opacity, features)
    sums = [torch.zeros_like(value) for value in flat]
    to_out, to_end = _tiles(grad_out, tile), _tiles(grad_transmittance, tile)
    for group, entry in _tile_entries(entries, offsets, len(flat[0]) - 1, tile):
        m, q, o, f = (value[entry] for value in flat)
        seen = _look(m, q, o, group % (rows * columns), columns, tile)
        weight, dot = seen.alpha * seen.front, torch.einsum("tkc,tpc->tkp", f, to_out[group])
        behind = (weight * dot).flip(1).cumsum(1).flip(1) - weight * dot + (seen.end * to_end[group])[:, None]
        to_alpha = seen.front * dot - behind / (1 - seen.alpha)
        to_exponent = torch.where((seen.alpha > 0) & (seen.uncut <= MOST_ALPHA), -seen.alpha * to_alpha, 0)
        along_x, along_y = to_exponent * seen.dx, to_exponent * seen.dy
        x, y = along_x.sum(-1), along_y.sum(-1)
        xx, xy, yy = q.unbind(-1)
        squares = [(along_x * seen.dx).sum(-1) / 2, (along_x * seen.dy).sum(-1), (along_y * seen.dy).sum(-1) / 2]
        to_opacity = torch.where(o > 0, -to_exponent.sum(-1) / o, 0)
        to_features = torch.einsum("tkp,tpc->tkc", weight, to_out[group])
        parts = [torch.stack([-xx * x - xy * y, -xy * x - yy * y], -1), torch.stack(squares, -1), to_opacity, to_features]
        for total, part in zip(sums, parts, strict=True):
            total.index_add_(0, entry.flatten(), part.flatten(0, 1))
    to_mean, to_conic, to_opacity, to_features = (
        total[:-1].view_as(value) for total, value in zip(sums, (mean, conic, opacity, features), strict=True)
    )
    return to_mean, to_conic, to_opacity, to_features


def _setup_context(ctx, inputs, output) -> None:
    *tensors, ctx.height, ctx.width, ctx.tile = inputs
    _, transmittance, last = output
    ctx.mark_non_differentiable(last)
    ctx.save_for_backward(*tensors, transmittance, last)


def _backward(ctx, grad_out: Tensor, grad_transmittance: Tensor, grad_last: None):
    gradients = torch.ops.threedgen.splat_backward(grad_out, grad_transmittance, *ctx.saved_tensors, ctx.height, ctx.width, ctx.tile)
    return *gradients, None, None, None, None, None, None


def _no_double_backward(ctx, *grads: Tensor):
    raise NotImplementedError("splat has no second derivative: take the gradient without create_graph")


def _fake_bins(mean: Tensor, extent: Tensor, depth: Tensor, height: int, width: int, tile: int) -> tuple[Tensor, Tensor]:
    rows, columns = tiles_of(height, width, tile)
    entries = torch.library.get_ctx().new_dynamic_size()
    return mean.new_empty(entries, dtype=torch.int32), mean.new_empty(mean.shape[0] * rows * columns + 1, dtype=torch.int64)


def _fake(
    mean: Tensor,
    conic: Tensor,
    opacity: Tensor,
    features: Tensor,
    extent: Tensor,
    entries: Tensor,
    offsets: Tensor,
    height: int,
    width: int,
    tile: int,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (mean.shape[0], height, width)
    return mean.new_empty(*shape, features.shape[-1]), mean.new_empty(shape), mean.new_empty(shape, dtype=torch.int32)


def _fake_backward(
    grad_out: Tensor,
    grad_transmittance: Tensor,
    mean: Tensor,
    conic: Tensor,
    opacity: Tensor,
    features: Tensor,
    extent: Tensor,
    entries: Tensor,
    offsets: Tensor,
    transmittance: Tensor,
    last: Tensor,
    height: int,
    width: int,
    tile: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return mean.new_empty(mean.shape), conic.new_empty(conic.shape), opacity.new_empty(opacity.shape), features.new_empty(features.shape)


_library.register("splat_bins", splat_bins_reference, _fake_bins)
_library.register("splat", splat_reference, _fake)
_library.register("splat_backward", _backward_reference, _fake_backward)
_library.register_autograd("splat", _backward, _setup_context)
_library.register_autograd("splat_backward", _no_double_backward, lambda ctx, inputs, output: None)
