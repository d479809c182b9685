"""Which timestep a step looks at: drawn between bounds, or given by the progress of the stage."""

from __future__ import annotations

import torch
from torch import Tensor

from threedgen.draws import Draws
from threedgen.guidance.rule import Rule

# DreamTime (arXiv 2306.12422), Gaussian shoulders of the weights beside a plateau, in timesteps of a schedule of 1,000.
PLATEAU, SHOULDERS = (500.0, 800.0), (100.0, 300.0)
# iCT (arXiv 2310.14189): log(sigma/alpha) is normal with this mean and standard deviation.
LOG_MEAN, LOG_STD = -1.1, 2.0


def sample_timestep(rule: Rule, alphas_cumprod: Tensor, draws: Draws, total: int) -> Tensor:
    """[V] one timestep by the rule's sampler, between its t_min and t_max at this step, the same for all views."""
    count = len(alphas_cumprod)
    low = min(round(rule.scheduled("t_min", draws.step) * count), count - 1)
    high = min(max(round(rule.scheduled("t_max", draws.step) * count), low), count - 1)
    progress = min(draws.step / max(total - 1, 1), 1.0)
    drawn = SAMPLERS[rule.t_sampler](low, high, progress, alphas_cumprod, draws)
    return drawn.clamp(low, high).expand(len(draws.views)).to(draws.device)


def uniform(low: int, high: int, progress: float, alphas_cumprod: Tensor, draws: Draws) -> Tensor:
    """Uniform in [low, high]."""
    return torch.randint(low, high + 1, (), generator=draws.shared("timestep"))


def linear(low: int, high: int, progress: float, alphas_cumprod: Tensor, draws: Draws) -> Tensor:
    """From high to low in a line."""
    return torch.tensor(round(high - (high - low) * progress))


def hifa(low: int, high: int, progress: float, alphas_cumprod: Tensor, draws: Draws) -> Tensor:
    """high - (high - low) sqrt(progress) (HiFA, arXiv 2305.18766): long at small noise."""
    return torch.tensor(round(high - (high - low) * progress**0.5))


def dreamtime(low: int, high: int, progress: float, alphas_cumprod: Tensor, draws: Draws) -> Tensor:
    """Falls at a speed inverse to W(t) = sqrt((1 - abar)/abar) times a plateau with Gaussian shoulders (DreamTime, arXiv 2306.12422).

    The timestep at which the share of W above it is the progress.
    """
    abar = alphas_cumprod.detach().double().cpu()[low : high + 1]
    t = torch.arange(low, low + len(abar), dtype=torch.float64) * (1000 / len(alphas_cumprod))
    below, above = (PLATEAU[0] - t).clamp(min=0), (t - PLATEAU[1]).clamp(min=0)
    bell = (-below.square() / (2 * SHOULDERS[0] ** 2) - above.square() / (2 * SHOULDERS[1] ** 2)).exp()
    w = ((1 - abar) / abar).sqrt() * bell
    share_above = w.flip(0).cumsum(0).flip(0) / w.sum().clamp(min=1e-30)
    return low + (share_above - progress).abs().argmin()


def log_normal(low: int, high: int, progress: float, alphas_cumprod: Tensor, draws: Draws) -> Tensor:
    """The timestep whose log(sigma/alpha) is nearest to a normal draw, truncated to [low, high] (iCT)."""
    abar = alphas_cumprod.detach().double().cpu().clamp(1e-12, 1 - 1e-12)
    ratio = 0.5 * ((1 - abar) / abar).log()
    normal = torch.distributions.Normal(LOG_MEAN, LOG_STD)
    bounds = normal.cdf(ratio[[low, high]])
    share = bounds[0] + torch.rand((), generator=draws.shared("timestep"), dtype=torch.float64) * (bounds[1] - bounds[0])
    return (ratio - normal.icdf(share.clamp(1e-9, 1 - 1e-9))).abs().argmin()


SAMPLERS = {"uniform": uniform, "linear": linear, "hifa": hifa, "dreamtime": dreamtime, "log_normal": log_normal}
