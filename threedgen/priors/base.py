"""The contract between a frozen diffusion model and everything that distils it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """What a prediction is conditioned on, row by row with the noisy latents.

    Attributes:
        text: [B,T,D] prompt embeddings (a closed-form prior may use any other meaning of the last axes).
        c2w: [B,4,4] camera-to-world matrices of the views, or None where the prior takes no camera.
        fovy: [B] in radians, or None.
        views: how many consecutive rows are views of one object (joint attention); B is a multiple of it.
    """

    text: Tensor
    c2w: Tensor | None = None
    fovy: Tensor | None = None
    views: int = 1


class Prior(Protocol):
    """A frozen diffusion model. Images are [B,3,H,W] in [0,1]; latents [B,C,h,w]; noise predictions only."""

    alphas_cumprod: Tensor
    native_resolution: int
    latent_channels: int
    latent_size: int
    device: torch.device
    text_fingerprint: str  # changes when the same prompt would be embedded otherwise

    def encode_text(self, texts: list[str]) -> Tensor:
        """[N,T,D] embeddings of prompts; "" is the null prompt."""
        ...

    def encode(self, rgb: Tensor) -> Tensor:
        """Latents of images, with gradient to the images; resizes to the native resolution."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """Images of latents, with gradient to the latents."""
        ...

    def predict_noise(self, z_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """Noise in z_t at integer timesteps t [B]; one batched call, no gradient."""
        ...
