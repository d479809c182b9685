"""Texture lookup with a mip pyramid, in torch on every device. The origin of texture coordinates is at the top left."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from threedgen.ops._checks import check_shape


def sample_texture(texture: Tensor, uv: Tensor, level: Tensor | None = None) -> Tensor:
    """Lookup of a texture at points, clamped at the border; differentiable in all arguments.

    Args:
        texture: [H,W,C].
        uv: [N,2] in [0,1], origin at the top left: texel (row r, column c) has its centre at ((c + 1/2) / W, (r + 1/2) / H).
        level: [N] level of the mip pyramid, 0 is the texture itself, each further one has half its size; between whole levels their
            lookups are mixed (trilinear). Clamped to the levels there are. None is bilinear in the texture itself.

    Returns:
        [N,C].

    Raises:
        ValueError: shapes do not fit.
    """
    check_shape("texture", texture, None, None, None)
    check_shape("uv", uv, None, 2)
    if level is None:
        return _bilinear(texture, uv)
    check_shape("level", level, len(uv))
    pyramid = mip_pyramid(texture)
    level = level.clamp(0, len(pyramid) - 1)
    weights = [(1 - (level - number).abs()).clamp_min(0)[:, None] for number in range(len(pyramid))]
    return torch.stack([weight * _bilinear(image, uv) for weight, image in zip(weights, pyramid, strict=True)]).sum(0)


def mip_pyramid(texture: Tensor) -> list[Tensor]:
    """The texture [H,W,C] and its halves, each the mean of 2 x 2 texels (fewer at an odd border), down to one texel."""
    pyramid = [texture]
    while max(pyramid[-1].shape[:2]) > 1:
        pyramid.append(F.avg_pool2d(pyramid[-1].permute(2, 0, 1)[None], 2, ceil_mode=True)[0].permute(1, 2, 0))
    return pyramid


def mip_level(slope: Tensor, height: int, width: int) -> Tensor:
    """The level at which a pixel's longer side on the texture is one texel.

    Args:
        slope: [N,2,2] derivatives of (u,v), rows, to the pixel's column and row, columns.
        height, width: of the texture in texels.

    Returns:
        [N] log2 of the longer side in texels, at least 0.
    """
    texels = slope * slope.new_tensor([width, height])[:, None]
    return torch.log2(texels.norm(dim=1).amax(-1).clamp_min(1))


def _bilinear(texture: Tensor, uv: Tensor) -> Tensor:
    looked_up = F.grid_sample(texture.permute(2, 0, 1)[None], (2 * uv - 1)[None, None], padding_mode="border", align_corners=False)
    return looked_up[0, :, 0].T
