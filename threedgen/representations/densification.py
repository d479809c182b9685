"""Where a cloud of Gaussians gets more of them, and where it loses some. Strategies work on the places of a cloud in place."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from threedgen.schedule import at

if TYPE_CHECKING:
    from threedgen.representations.gaussians import GaussianCloud

FAINT = 0.005  # opacity below which a Gaussian is as good as none
SPLIT_SHRINK = 1.6
STEEPNESS = 100.0  # of the fall of the noise with the opacity, around FAINT (3DGS-MCMC)
GROWTH = 1.05  # of the number of Gaussians, every time (3DGS-MCMC)
LARGEST_SHARE = 51  # of one Gaussian among how many it may be divided


@torch.no_grad()
def adc(cloud: GaussianCloud, step: int, rng: torch.Generator) -> Tensor:
    """Adaptive density control (3DGS, arXiv 2308.04079).

    Faint Gaussians go. Of those whose projected centre is pulled harder than `grad_threshold` on average, small ones get a copy and
    large ones are cut in two, the hardest pulled first while places are free. Every `reset_every` steps all become nearly transparent.

    Returns:
        [n] places that hold another Gaussian than before.
    """
    s = cloud.settings
    cloud.alive &= cloud.opacity > s.prune_opacity
    pull = torch.where(cloud.alive, cloud.grad_sum / cloud.grad_count.clamp(min=1), 0)
    sources = pull.argsort(descending=True, stable=True)[: int((pull > s.grad_threshold).sum())]
    free = (~cloud.alive).nonzero()[:, 0]
    sources = sources[: len(free)]
    places = free[: len(sources)]
    _copy(cloud, sources, places)
    large = cloud.log_scales[sources].exp().amax(-1) > s.split_size
    for rows in (sources[large], places[large]):
        noise = torch.randn(len(rows), 3, generator=rng).to(cloud.device)
        cloud.means[rows] += (cloud.axes()[rows] @ noise[..., None])[..., 0]
    cloud.log_scales[sources[large]] -= math.log(SPLIT_SHRINK)
    cloud.log_scales[places[large]] -= math.log(SPLIT_SHRINK)
    cloud.grad_sum.zero_()
    cloud.grad_count.zero_()
    if s.reset_every and (step + 1) % s.reset_every == 0:
        cloud.logits.clamp_(max=math.log(2 * s.prune_opacity / (1 - 2 * s.prune_opacity)))
    return torch.cat([sources[large], places])


@torch.no_grad()
def mcmc(cloud: GaussianCloud, step: int, rng: torch.Generator) -> Tensor:
    """Relocation (3DGS-MCMC, arXiv 2404.09591): dead Gaussians, and one in twenty new ones, join visible ones without changing the image.

    Which ones is drawn by opacity. Those that share a place are given opacities and sizes such that together they look like the one.

    Returns:
        [n] places that hold another Gaussian than before.
    """
    alive = cloud.opacity > FAINT
    if not alive.any():
        return alive.nonzero()[:, 0]
    wanted = min(len(alive), math.ceil(GROWTH * int(cloud.alive.sum())))
    places = (~alive).nonzero()[:, 0][: max(0, wanted - int(alive.sum()))]
    chances = torch.where(alive, cloud.opacity, 0).double().cpu()
    sources = torch.multinomial(chances, len(places), replacement=True, generator=rng).to(cloud.device) if len(places) else places
    shares = torch.bincount(sources, minlength=len(alive)) + 1
    shared = sources.unique()
    opacity, shrink = divided(cloud.opacity[shared], shares[shared])
    cloud.logits[shared] = torch.logit(opacity)
    cloud.log_scales[shared] += shrink.log()[:, None]
    _copy(cloud, sources, places)
    return torch.cat([shared, places])


@torch.no_grad()
def explore(cloud: GaussianCloud, step: int, rng: torch.Generator) -> None:
    """Noise on the positions, which makes the steps of 3DGS-MCMC (arXiv 2404.09591, equation 8) those of a Langevin sampler.

    By `noise` covariance eta, eta standard normal, times 1 / (1 + exp(100 (opacity - 0.005))): Gaussians that show stay where they are.
    """
    strength = at(cloud.settings.noise, step)
    if strength == 0:
        return
    eta = torch.randn(cloud.means.shape, generator=rng).to(cloud.means)
    axes = cloud.axes()
    hidden = torch.sigmoid(STEEPNESS * (FAINT - cloud.opacity)) * cloud.alive
    cloud.means.data += strength * hidden[:, None] * (axes @ (axes.mT @ eta[..., None]))[..., 0]


def divided(opacity: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Opacity and factor on the size of `count` equal Gaussians in one place that together look like one of an opacity [N].

    (1 - o')^n = 1 - o, and the size makes the integral over the image equal (equation 9 of arXiv 2404.09591).
    """
    n = count.clamp(max=LARGEST_SHARE).double()
    each = 1 - (1 - opacity.double().clamp(max=1 - 1e-6)) ** (1 / n)
    total = torch.zeros_like(each)
    for i in range(1, int(n.max()) + 1 if len(n) else 1):
        for k in range(i):
            term = math.comb(i - 1, k) * (-1) ** k / math.sqrt(k + 1) * each ** (k + 1)
            total += torch.where(i <= n, term, 0)
    return each.clamp(min=FAINT).to(opacity), (opacity.double() / total).to(opacity)


def _copy(cloud: GaussianCloud, sources: Tensor, places: Tensor) -> None:
    """Put copies of Gaussians in free places."""
    for value in (cloud.means, cloud.log_scales, cloud.quaternions, cloud.logits, cloud.base, cloud.rest):
        value[places] = value[sources]
    cloud.alive[places] = True


STRATEGIES: dict[str, Callable[[GaussianCloud, int, torch.Generator], Tensor]] = {"adc": adc, "mcmc": mcmc}
