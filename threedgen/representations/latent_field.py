"""A volume of a prior's latents in place of colours (Latent-NeRF, arXiv 2211.07600; refinement of ED-NeRF, arXiv 2310.02712)."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from threedgen.cameras import Cameras
from threedgen.config.schema import LatentFieldSettings
from threedgen.draws import Draws
from threedgen.materials.background import LatentBackground
from threedgen.representations.base import Render
from threedgen.representations.hashgrid import HashGridField

NETWORK_SHARE = 0.1  # learning rate of what stands behind the field, as a share of the field's


class LatentField(HashGridField):
    """Density and latents over the cube of half side `radius`, with a learned background of latents.

    It shows the prior its latents, which then need no encoder, or colours that an affine map makes of them, which learns along. That is
    the order of Latent-NeRF: latents first, then the same field with colours. Meshes, previews and later stages have the colours.

    Parameters: those of HashVolume; `colours`, and `refinement` where the settings ask for it.
    """

    settings: LatentFieldSettings  # type: ignore[assignment]
    background: LatentBackground  # type: ignore[assignment]

    def __init__(self, settings: LatentFieldSettings, seed: int = 0) -> None:
        super().__init__(settings, seed, settings.channels)
        self.background = LatentBackground(settings.background, settings.channels)
        self.colours = LatentColours(settings.channels)
        rng = torch.Generator().manual_seed(seed)
        self.refinement = Refinement(settings.channels, settings.refinement, rng) if settings.refinement else None

    def take_prior(self, weight: Tensor, bias: Tensor, white: Tensor) -> None:
        """Begin with a prior's colours of latents, by an affine map [3,C] and [3], before the latent [C] that it has of white."""
        self.colours.take(weight, bias)
        self.background.become(white)

    def composited(self, out: Tensor) -> Tensor:
        """Latents [N,C]: any numbers."""
        return out

    def shown(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density [N] and the colour [N,3] of the latents at world points [N,3]; no gradient to the map that makes it."""
        sigma, latent = self.query(points)
        return sigma, self.colours.fixed(latent)

    def field_groups(self) -> list[dict]:
        """Groups of the field, and of the one layer behind it that what is shown goes through."""
        behind = self.colours if self.settings.shows == "rgb" else self.refinement
        learned = [] if behind is None else [{"params": list(behind.parameters()), "share": NETWORK_SHARE, "name": "behind"}]
        return super().field_groups() + learned

    def render(self, cameras: Cameras, *, draws: Draws | None = None, normals: bool = False) -> Render:
        """Images of all views; latents have passed the refinement, which looks at neighbours, and colours have not."""
        seen = super().render(cameras, draws=draws, normals=normals)
        return seen if self.refinement is None or seen.latent is None else replace(seen, latent=self.refinement(seen.latent))

    def render_rays(
        self, origins: Tensor, directions: Tensor, jitter: Tensor, random_rgb: Tensor | None = None, normals: bool = False
    ) -> Render:
        """What R single rays see; see Volume."""
        seen = super().render_rays(origins, directions, jitter, random_rgb, normals)
        return replace(seen, rgb=self.colours(seen.rgb), latent=seen.rgb if self.settings.shows == "latent" else None)

    def albedo(self, points: Tensor) -> Tensor:
        """Colour [N,3] in [0,1] of the surface at world points [N,3]: of the latents a short ray sees, see HashGridField."""
        with torch.no_grad():
            return self.colours(super().albedo(points))


class LatentColours(nn.Module):
    """Colours of latents by an affine map (Latent-NeRF's layer): rgb = weight z + bias. Grey, until it `take`s a prior's."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, channels))
        self.bias = nn.Parameter(torch.full((3,), 0.5))

    @torch.no_grad()
    def take(self, weight: Tensor, bias: Tensor) -> None:
        """Become the map of a weight [3,C] and a bias [3]."""
        self.weight.copy_(weight)
        self.bias.copy_(bias)

    def forward(self, latent: Tensor) -> Tensor:
        """Colours [...,3] in [0,1] of latents [...,C]."""
        return bounded(F.linear(latent, self.weight, self.bias))

    def fixed(self, latent: Tensor) -> Tensor:
        """The same colours, with gradient to the latents alone."""
        return bounded(F.linear(latent, self.weight.detach(), self.bias.detach()))


def bounded(rgb: Tensor) -> Tensor:
    """Colours clamped to [0,1]; gradients pass, so that what is saturated can come back."""
    return rgb + (rgb.clamp(0, 1) - rgb).detach()


class Refinement(nn.Module):
    """What an encoder adds to latents that lie on pixels: a residual network on the map of a view (ED-NeRF). The identity at first.

    Two residual blocks of 3x3 convolutions between one that widens and one that narrows. ED-NeRF has self-attention as well; without it
    a map of any size costs what its pixels do.
    """

    def __init__(self, channels: int, width: int, rng: torch.Generator) -> None:
        super().__init__()
        self.widen, self.narrow = Convolution(channels, width, rng), Convolution(width, channels, rng)
        layers = [nn.Sequential(nn.SiLU(), Convolution(width, width, rng)) for _ in range(4)]
        self.blocks = nn.ModuleList([nn.Sequential(*layers[:2]), nn.Sequential(*layers[2:])])
        nn.init.zeros_(self.narrow.weight)

    def forward(self, latent: Tensor) -> Tensor:
        """Maps [B,h,w,C] to maps of the same shape."""
        x = self.widen(latent.permute(0, 3, 1, 2))
        for block in self.blocks:
            x = x + block(x)
        return latent + self.narrow(F.silu(x)).permute(0, 2, 3, 1)


class Convolution(nn.Module):
    """A convolution of 3x3 pixels: weights normal with variance 1 / fan-in, biases 0."""

    def __init__(self, inputs: int, outputs: int, rng: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3, generator=rng) / math.sqrt(9 * inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[B,inputs,h,w] to [B,outputs,h,w]."""
        return F.conv2d(x, self.weight, self.bias, padding=1)
