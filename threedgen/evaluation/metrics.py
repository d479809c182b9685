"""Distances between images."""

from __future__ import annotations

import torch
from torch import Tensor

from threedgen.errors import UserError


def psnr(image: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two images in [0,1] of the same shape; infinite where they are equal."""
    return _decibels((image.double() - reference.double()).square().mean())


def foreground_psnr(image: Tensor, alpha: Tensor, reference: Tensor, reference_alpha: Tensor) -> float:
    """PSNR in dB over the pixels that either image covers by more than half.

    Pixels that only one covers count with what the other shows there, so a wrong silhouette costs.

    Args:
        image, reference: [...,H,W,3] in [0,1], over the same background.
        alpha, reference_alpha: [...,H,W,1] coverage in [0,1].

    Raises:
        UserError: neither covers a pixel.
    """
    covered = (torch.maximum(alpha, reference_alpha) > 0.5)[..., 0]
    if not bool(covered.any()):
        raise UserError("neither image shows an object: the foreground PSNR has no pixel to compare")
    return _decibels((image.double() - reference.double()).square().mean(-1)[covered].mean())


def _decibels(mean_square: Tensor) -> float:
    return float(-10 * torch.log10(mean_square))
