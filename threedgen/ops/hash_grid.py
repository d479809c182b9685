"""Multiresolution hash-grid encoding (Müller et al. 2022, arXiv 2201.05989), trilinear.

Letters: N points, L levels, F features a level, r cells per axis of a level. A level has (r+1)^3 vertices over the unit cube. Where
they fit into 2^log2_table rows they are stored densely, x fastest; otherwise vertex (x, y, z) has row
(x ^ 2654435761 y ^ 805459861 z) mod 2^log2_table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from threedgen.ops import _library
from threedgen.ops._checks import check_device, check_floating, check_shape

PRIMES = (1, 2654435761, 805459861)


@dataclass(frozen=True)
class HashGridSpec:
    """Sizes of a hash grid.

    Attributes:
        levels: L, from the coarsest to the finest.
        features: F, values per vertex: 1, 2, 4 or 8.
        log2_table: a level has at most 2^log2_table rows.
        base_resolution, max_resolution: cells per axis of the first and the last level; those between grow geometrically.
    """

    levels: int = 16
    features: int = 2
    log2_table: int = 15
    base_resolution: int = 16
    max_resolution: int = 512

    def __post_init__(self) -> None:
        if self.levels < 1:
            raise ValueError(f"levels must be at least 1, got {self.levels}")
        if self.features not in (1, 2, 4, 8):
            raise ValueError(f"features must be 1, 2, 4 or 8, got {self.features}")
        if not 0 <= self.log2_table <= 28:
            raise ValueError(f"log2_table must be in 0 ... 28, got {self.log2_table}")
        if not 1 <= self.base_resolution <= self.max_resolution < 2**20:
            sizes = f"{self.base_resolution} and {self.max_resolution}"
            raise ValueError(f"1 <= base_resolution <= max_resolution < 2^20 is needed, got {sizes}")

    @cached_property
    def resolutions(self) -> list[int]:
        """Cells per axis of each level."""
        if self.levels == 1:
            return [self.base_resolution]
        growth = (self.max_resolution / self.base_resolution) ** (1 / (self.levels - 1))
        return [round(self.base_resolution * growth**level) for level in range(self.levels)]

    @cached_property
    def offsets(self) -> list[int]:
        """First row of each level, and the number of rows at the end."""
        offsets = [0]
        for resolution in self.resolutions:
            offsets.append(offsets[-1] + min((resolution + 1) ** 3, 2**self.log2_table))
        return offsets

    @property
    def rows(self) -> int:
        """Rows of the table of all levels."""
        return self.offsets[-1]

    @property
    def width(self) -> int:
        """L*F, values of one encoding."""
        return self.levels * self.features


def hash_grid(x: Tensor, table: Tensor, spec: HashGridSpec) -> Tensor:
    """Encodes points: per level the trilinear interpolation of the eight vertices around the point.

    Differentiable in `x` and `table`, twice (the second derivative runs as pure torch). At a cell's border, where the gradient to
    `x` jumps, it is that of the cell above.

    Args:
        x: [N,3] in [0,1], float32 or float64. A coordinate outside is moved to the border and has no gradient; NaN gives NaN.
        table: [spec.rows, F], dtype of `x`.

    Returns:
        [N, L*F], level by level.

    Raises:
        ValueError: shape, dtype or device do not fit.
    """
    check_shape("x", x, None, 3)
    check_shape("table", table, spec.rows, spec.features)
    check_floating(x=x, table=table)
    check_device(x=x, table=table)
    _library.warn_if_reference(x)
    return torch.ops.threedgen.hash_grid(x, table, spec.resolutions, spec.offsets)


def hash_grid_reference(x: Tensor, table: Tensor, resolutions: Sequence[int], offsets: Sequence[int]) -> Tensor:
    """The twin of `hash_grid` in torch, differentiable by autograd; level l owns rows offsets[l]:offsets[l+1] of the table."""
    encodings = []
    for resolution, begin, end in zip(resolutions, offsets[:-1], offsets[1:], strict=True):
        cell, fraction = _cells(x, resolution)
        entries = table[begin:end][_corner_rows(cell, resolution, end - begin)]
        encodings.append((_corner_weights(fraction)[..., None] * entries).sum(1))
    return torch.cat(encodings, 1)


def _cells(x: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
    """Cell [N,3] int64 and position inside it [N,3] in [0,1]."""
    position = x.clamp(0, 1) * resolution
    cell = position.detach().nan_to_num().floor().long().clamp(max=resolution - 1)
    return cell, position - cell


def _corner_rows(cell: Tensor, resolution: int, rows: int) -> Tensor:
    """[N,8] rows, in the level, of a cell's vertices; corner c is at (c & 1, c >> 1 & 1, c >> 2)."""
    corner = torch.arange(8, device=cell.device)
    x, y, z = (cell[:, None, axis] + (corner >> axis & 1) for axis in range(3))
    side = resolution + 1
    if side**3 <= rows:
        return (z * side + y) * side + x
    return (x * PRIMES[0] ^ y * PRIMES[1] ^ z * PRIMES[2]) & (rows - 1)


def _corner_weights(fraction: Tensor) -> Tensor:
    """[N,8] trilinear weights of a cell's vertices."""
    along = torch.stack([1 - fraction, fraction], 1)  # [N,2,3]
    return (along[:, :, None, None, 2] * along[:, None, :, None, 1] * along[:, None, None, :, 0]).flatten(1)


def _corner_slopes(fraction: Tensor) -> Tensor:
    """[N,8,3] derivatives of the vertices' weights to the position inside the cell."""
    along = torch.stack([1 - fraction, fraction], 1)
    slope = torch.stack([-torch.ones_like(fraction), torch.ones_like(fraction)], 1)
    slopes = []
    for axis in range(3):
        x, y, z = (slope[..., a] if a == axis else along[..., a] for a in range(3))
        slopes.append((z[:, :, None, None] * y[:, None, :, None] * x[:, None, None, :]).flatten(1))
    return torch.stack(slopes, -1)


def _backward_reference(
    grad: Tensor, x: Tensor, table: Tensor, resolutions: Sequence[int], offsets: Sequence[int], need_x: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of `hash_grid_reference` to x ([0,3] unless needed) and to the table, themselves differentiable by autograd."""
    features = table.shape[1]
    inside = (x >= 0) & (x <= 1)
    grad_x, grad_levels = torch.zeros_like(x) if need_x else x.new_empty(0, 3), []
    for level, resolution in enumerate(resolutions):
        rows = offsets[level + 1] - offsets[level]
        cell, fraction = _cells(x, resolution)
        row = _corner_rows(cell, resolution, rows)
        grad_level = grad[:, None, level * features : (level + 1) * features]
        shares = _corner_weights(fraction)[..., None] * grad_level
        grad_levels.append(table.new_zeros(rows, features).index_add(0, row.flatten(), shares.flatten(0, 1)))
        if need_x:
            pull = (grad_level * table[offsets[level] : offsets[level + 1]][row]).sum(-1, keepdim=True)
            grad_x = grad_x + resolution * (_corner_slopes(fraction) * pull).sum(1)
    return torch.where(inside, grad_x, 0) if need_x else grad_x, torch.cat(grad_levels)


def _setup_context(ctx, inputs, output) -> None:
    x, table, ctx.resolutions, ctx.offsets = inputs
    ctx.save_for_backward(x, table)


def _backward(ctx, grad: Tensor):
    x, table = ctx.saved_tensors
    need_x = ctx.needs_input_grad[0]
    grad_x, grad_table = torch.ops.threedgen.hash_grid_backward(grad, x, table, ctx.resolutions, ctx.offsets, need_x)
    return grad_x if need_x else None, grad_table, None, None


def _setup_double_context(ctx, inputs, output) -> None:
    grad, x, table, ctx.resolutions, ctx.offsets, ctx.need_x = inputs
    ctx.save_for_backward(grad, x, table)


def _double_backward(ctx, grad_grad_x: Tensor, grad_grad_table: Tensor):
    with torch.enable_grad():
        grad, x, table = inputs = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
        grad_x, grad_table = _backward_reference(grad, x, table, ctx.resolutions, ctx.offsets, ctx.need_x)
        outputs, cotangents = ((grad_x, grad_table), (grad_grad_x, grad_grad_table)) if ctx.need_x else ((grad_table,), (grad_grad_table,))
        gradients = torch.autograd.grad(outputs, inputs, cotangents, allow_unused=True)
    return *gradients, None, None, None


def _fake(x: Tensor, table: Tensor, resolutions: Sequence[int], offsets: Sequence[int]) -> Tensor:
    return x.new_empty(x.shape[0], table.shape[1] * len(resolutions))


def _fake_backward(grad: Tensor, x: Tensor, table: Tensor, resolutions: Sequence[int], offsets: Sequence[int], need_x: bool):
    return x.new_empty(x.shape[0] if need_x else 0, 3), torch.empty_like(table, memory_format=torch.contiguous_format)


_library.register("hash_grid", hash_grid_reference, _fake)
_library.register("hash_grid_backward", _backward_reference, _fake_backward)
_library.register_autograd("hash_grid", _backward, _setup_context)
_library.register_autograd("hash_grid_backward", _double_backward, _setup_double_context)
