"""What is seen behind the object: a colour for every ray."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from threedgen.config.schema import BACKGROUNDS, LEARNED_BACKGROUNDS
from threedgen.draws import Draws

WHITE = 4.0  # of a sigmoid
TEXTURE_ROWS = 64
FREQUENCIES = 4
WIDTH = 32
SOLID = {"white": 1.0, "grey": 0.5, "black": 0.0}


def direction_basis(directions: Tensor) -> Tensor:
    """[...,9] real polynomials of degree at most 2 of unit directions [...,3] (the span of spherical harmonics to degree 2)."""
    x, y, z = directions.unbind(-1)
    return torch.stack([torch.ones_like(x), x, y, z, x * y, y * z, x * z, x * x - y * y, 3 * z * z - 1], -1)


def sines(directions: Tensor) -> Tensor:
    """[...,27] unit directions [...,3] and sines and cosines of pi/2, pi, 2 pi, 4 pi times each of their coordinates."""
    waves = [math.pi / 2 * 2.0**k * directions for k in range(FREQUENCIES)]
    return torch.cat([directions, *(wave.sin() for wave in waves), *(wave.cos() for wave in waves)], -1)


def on_sphere(texture: Tensor, directions: Tensor) -> Tensor:
    """[...,C] values of an equirectangular texture [C,H,W] in unit directions [...,3], bilinear between texel centres.

    Row 0 is at the pole +z; the columns begin at azimuth -pi and close around the sphere.
    """
    width = texture.shape[-1]
    azimuth, inclination = torch.atan2(directions[..., 1], directions[..., 0]), torch.acos(directions[..., 2].clamp(-1, 1))
    column = (azimuth / (2 * math.pi) + 0.5) * width + 1  # in the texture with a column more on either side
    place = torch.stack([column * (2 / (width + 2)) - 1, inclination * (2 / math.pi) - 1], -1)
    wrapped = torch.cat([texture[..., -1:], texture, texture[..., :1]], -1)[None]
    values = F.grid_sample(wrapped, place.reshape(1, 1, -1, 2), mode="bilinear", padding_mode="border", align_corners=False)
    return values[0, :, 0].T.reshape(*directions.shape[:-1], len(texture))


class Background(nn.Module):
    """Colour [...,3] behind rays with unit directions [...,3].

    Kinds: "white", "grey", "black"; "random" is a new plain colour for every view and step while training (so that matter cannot hide
    as background) and white otherwise. Three are learned, all white at first: "learned" is a smooth colour over the directions, "neural"
    a small network of sines of the directions, "textured" a sphere with a texture of 64 x 128 texels (equirectangular, azimuth along x).
    """

    def __init__(self, kind: str, channels: int = 3, start: float = WHITE) -> None:
        """A background whose learned kinds begin with the same value everywhere, before the sigmoid that makes it a colour."""
        super().__init__()
        self.kind = kind
        if kind not in BACKGROUNDS:
            raise ValueError(f"unknown background '{kind}': {', '.join(BACKGROUNDS)}")
        if kind == "learned":
            self.weight = nn.Parameter(torch.zeros(9, channels))
            self.bias = nn.Parameter(torch.full((channels,), start))
        elif kind == "textured":
            self.texture = nn.Parameter(torch.full((channels, TEXTURE_ROWS, 2 * TEXTURE_ROWS), start))
        elif kind == "neural":
            inputs = 3 * (1 + 2 * FREQUENCIES)
            drawn = torch.randn(WIDTH, inputs, generator=torch.Generator().manual_seed(0))
            self.hidden = nn.Parameter(drawn * math.sqrt(2 / inputs))
            self.head = nn.Parameter(torch.zeros(channels, WIDTH))
            self.bias = nn.Parameter(torch.full((channels,), start))

    def forward(self, directions: Tensor, random_rgb: Tensor | None = None) -> Tensor:
        """Colours behind the rays; `random_rgb` [...,3] is what the kind "random" shows, None shows white."""
        if self.kind in LEARNED_BACKGROUNDS:
            return torch.sigmoid(self.learned(directions))
        if self.kind == "random" and random_rgb is not None:
            return random_rgb
        return torch.full_like(directions, SOLID.get(self.kind, 1.0))

    def learned(self, directions: Tensor) -> Tensor:
        """[...,channels] what a learned kind holds in the directions, any number."""
        if self.kind == "learned":
            return direction_basis(directions) @ self.weight + self.bias
        if self.kind == "textured":
            return on_sphere(self.texture, directions)
        return F.linear(F.relu(F.linear(sines(directions), self.hidden)), self.head, self.bias)

    def random_rgb(self, draws: Draws | None, height: int, width: int) -> Tensor | None:
        """[B,H,W,3] a plain colour for every view of the draws; None where nothing is random."""
        if draws is None or self.kind != "random":
            return None
        return draws.uniform("background", (3,))[:, None, None].expand(-1, height, width, -1)

    def behind(self, directions: Tensor, draws: Draws | None) -> Tensor:
        """[B,H,W,3] colours behind the rays [B,H,W,3] of the views of a step."""
        return self(directions, self.random_rgb(draws, *directions.shape[1:3]))


class LatentBackground(Background):
    """Latent values [...,C] behind rays, of a learned kind: any numbers, all 0 until it `become`s others."""

    def __init__(self, kind: str, channels: int) -> None:
        """ValueError for a kind that is not learned: the latents of a plain colour are the prior's to say."""
        if kind not in LEARNED_BACKGROUNDS:
            raise ValueError(f"a background of latents is learned: {', '.join(LEARNED_BACKGROUNDS)}, not {kind}")
        super().__init__(kind, channels, 0.0)

    @torch.no_grad()
    def become(self, latent: Tensor) -> None:
        """Hold the same latent [C] in all directions, where nothing is learned yet."""
        values = self.texture if self.kind == "textured" else self.bias
        values.copy_(latent.reshape(-1, *[1] * (values.dim() - 1)))

    def forward(self, directions: Tensor, random_rgb: Tensor | None = None) -> Tensor:
        """Latents behind the rays; nothing is random."""
        return self.learned(directions)
