"""The contract between a frozen diffusion model and everything that distils it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Conditioning:
    """What a prediction is conditioned on, row by row with the noisy latents.

    Attributes:
        text: [B,T,D] prompt embeddings (a closed-form prior may use any other meaning of the last axes).
        c2w: [B,4,4] camera-to-world matrices of the views, zeros where the camera is withheld; None where there is none.
        fovy: [B] in radians, or None.
        views: how many consecutive rows are views of one object (joint attention); B is a multiple of it.
        concat: [B,K,h,w] further input channels beside the noisy latent (inpainting, image to view).
        control: [B,K,H,W] image of a control branch (depth, normals); a row of zeros has no control.
        image: [B,N,D] tokens of an image prompt; zeros are the null image.
        image_scale: [B] weight of the image prompt beside the text (IP-Adapter).
        guidance: [B] guidance scale, for networks distilled to take it as an input; 1 is none.
        negative: [B,T,D] text that cross-attention is pushed away from (NASA, arXiv 2412.02687).
        negative_scale: [B] how far.
    """

    text: Tensor
    c2w: Tensor | None = None
    fovy: Tensor | None = None
    views: int = 1
    concat: Tensor | None = None
    control: Tensor | None = None
    image: Tensor | None = None
    image_scale: Tensor | None = None
    guidance: Tensor | None = None
    negative: Tensor | None = None
    negative_scale: Tensor | None = None

    @staticmethod
    def stack(parts: Sequence[Conditioning]) -> Conditioning:
        """One batch of several; all must have the same `views`.

        What only some of them have is absent in the others: a guidance scale of 1, zeros for all else.
        """
        if len({part.views for part in parts}) != 1:
            raise ValueError("conditionings of different numbers of views do not stack")
        stacked = {}
        for field in fields(Conditioning):
            values = [getattr(part, field.name) for part in parts]
            given = next((v for v in values if isinstance(v, Tensor)), None)
            if given is not None:
                nothing = 1.0 if field.name == "guidance" else 0.0
                absent = [given.new_full((len(part.text), *given.shape[1:]), nothing) for part in parts]
                rows = [absence if value is None else value for value, absence in zip(values, absent, strict=True)]
                stacked[field.name] = torch.cat(rows)
        return Conditioning(**stacked, views=parts[0].views)

    def select(self, rows: Tensor) -> Conditioning:
        """The conditioning of some rows, by their indices [R]; rows of one object have to stay together."""
        given = {field.name: getattr(self, field.name) for field in fields(Conditioning)}
        return replace(self, **{name: value[rows.to(value.device)] for name, value in given.items() if isinstance(value, Tensor)})


class Critic(Protocol):
    """A trainable score of the particles, started from a prior; an `nn.Module` that holds its trainable parameters alone."""

    def predict_noise(self, z_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """Noise in z_t, with gradient to the critic's parameters where gradients are on."""
        ...

    def close(self) -> None:
        """Take off the prior what the critic has put there; it is not asked any more."""
        ...


class Prior(Protocol):
    """A frozen diffusion model. Images are [B,3,H,W] in [0,1]; latents [B,C,h,w]; noise predictions only."""

    alphas_cumprod: Tensor
    native_resolution: int
    latent_channels: int
    latent_size: int
    device: torch.device
    text_fingerprint: str  # changes when the same prompt would be embedded otherwise
    capabilities: frozenset[str]
    """What it can be told beside text: "camera", "multiview", "negative", "image", "guidance", "control", "concat:<channels>"."""

    def encode_text(self, texts: list[str]) -> Tensor:
        """[N,T,D] embeddings of prompts; "" is the null prompt."""
        ...

    def encode(self, rgb: Tensor) -> Tensor:
        """Latents of images, with gradient to the images; resizes to the native resolution."""
        ...

    def encode_beside(self, rgb: Tensor) -> Tensor:
        """Latents of a reference image in the form that image-to-view networks take beside the noisy ones: unscaled."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """Images of latents, with gradient to the latents."""
        ...

    def predict_noise(self, z_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """Noise in z_t at integer timesteps t [B]; one batched call, no gradient."""
        ...

    def critic(self, rank: int, checkpointing: bool = False, buckets: int = 1, seed: int = 0) -> nn.Module:
        """A `Critic` that shares this prior's weights (LoRA) and predicts what the prior does until it is trained.

        Args:
            rank: of the low-rank updates of all attention projections.
            checkpointing: recompute activations in the backward pass: less memory, a third more time.
            buckets: how many separate sets of updates; a row uses the one of its camera's azimuth.
            seed: of its first factors.
        """
        ...
