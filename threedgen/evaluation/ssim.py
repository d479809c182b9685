"""Structural similarity of images (Wang et al. 2004), differentiable."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2


def ssim(image: Tensor, reference: Tensor) -> Tensor:
    """[B] mean structural similarity, 1 where two images are equal; Gaussian windows of 11 pixels that lie in the image as a whole.

    Args:
        image, reference: [B,H,W,C] in [0,1], at least 11 pixels along each side.

    Raises:
        ValueError: shapes differ, or an image is smaller than a window.
    """
    if image.shape != reference.shape or image.dim() != 4 or min(image.shape[1:3]) < WINDOW:
        raise ValueError(f"expected two images [B,H,W,C] of one shape with H, W >= {WINDOW}, got {image.shape} and {reference.shape}")
    x, y = (v.permute(0, 3, 1, 2).flatten(0, 1)[:, None] for v in (image, reference))
    mean_x, mean_y, xx, yy, xy = _blurred(torch.cat([x, y, x * x, y * y, x * y])).chunk(5)
    variance_x, variance_y, covariance = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    structure = (2 * covariance + C2) / (variance_x + variance_y + C2)
    return (luminance * structure).flatten(1).mean(1).unflatten(0, (len(image), -1)).mean(1)


def _blurred(x: Tensor) -> Tensor:
    """Weighted means of [N,1,H,W] under the window, wherever all of it lies in the image."""
    distance = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    weight = torch.exp(-(distance**2) / (2 * SIGMA**2))
    weight = weight / weight.sum()
    return F.conv2d(F.conv2d(x, weight.view(1, 1, -1, 1)), weight.view(1, 1, 1, -1))
