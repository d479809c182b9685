"""What a prior's latents look like: the affine map to colours that its own decoder is nearest to (Latent-NeRF, arXiv 2211.07600)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from threedgen.draws import generator
from threedgen.priors.base import Prior

PICTURES = 12
DISCS = 6  # in a picture


@torch.no_grad()
def linear_colours(prior: Prior) -> tuple[Tensor, Tensor]:
    """Weight [3,C] and bias [3] for which weight z + bias is nearest to the decoded colours of latents z, by least squares.

    The latents are those of pictures of coloured discs on white, as objects are shown to the prior (what a small prior never saw, it
    decodes to other colours); decoded colours are means over the area of a latent. The same in every run, up to rounding.
    """
    latents, colours = [], []
    for number in range(PICTURES):
        z = prior.encode(picture(number, prior.native_resolution).to(prior.device))
        rgb = F.interpolate(prior.decode(z), z.shape[-2:], mode="area")
        latents.append(z[0].flatten(1).T)
        colours.append(rgb[0].flatten(1).T)
    known, wanted = torch.cat(latents).double().cpu(), torch.cat(colours).double().cpu()
    found = torch.linalg.lstsq(F.pad(known, (0, 1), value=1.0), wanted, driver="gelsd").solution
    return found[:-1].T.float(), found[-1].float()


@torch.no_grad()
def white_latent(prior: Prior) -> Tensor:
    """[C] what the prior encodes a white picture to, the mean over its pixels."""
    side = prior.native_resolution
    return prior.encode(torch.ones(1, 3, side, side, device=prior.device)).mean((0, 2, 3))


def picture(number: int, size: int) -> Tensor:
    """[1,3,size,size] in [0,1]: discs of random colours, sizes and places before white."""
    rng = generator(0, 0, number, "latent_colours")
    place, radius, colour = (torch.rand(DISCS, width, generator=rng) for width in (2, 1, 3))
    axis = torch.linspace(-1, 1, size)
    seen = torch.ones(3, size, size)
    for centre, reach, rgb in zip(1.2 * place - 0.6, 0.15 + 0.35 * radius, colour, strict=True):
        inside = (axis - centre[0]).square() + (axis - centre[1]).square()[:, None] < reach.square()
        seen = torch.where(inside, rgb[:, None, None], seen)
    return seen[None]
