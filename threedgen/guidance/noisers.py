"""How the noisy states of a step are made from the clean latent: by random noise, or deterministically by the prior itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from threedgen.draws import Draws

if TYPE_CHECKING:
    from threedgen.guidance.core import Step

# Of both levels: a schedule may end in pure noise (zero terminal SNR) or begin without any, and both are divided by.
LEVEL_MIN = 1e-4


@dataclass(frozen=True)
class Noisy:
    """A clean latent z [B,C,h,w] taken to the timesteps t [B].

    Attributes:
        z_t: [B,C,h,w] the noisy latent; alpha z + sigma noise where the noise was drawn.
        noise: what a residual subtracts: the noise that was drawn, or what plays its part where the state was made otherwise.
        alpha, sigma: [B,1,1,1], alpha^2 + sigma^2 = 1.
        views: consecutive rows that show one object; statistics over an object are taken over them.
    """

    z: Tensor
    z_t: Tensor
    t: Tensor
    noise: Tensor
    alpha: Tensor
    sigma: Tensor
    views: int = 1

    def estimate(self, eps: Tensor) -> Tensor:
        """One-step estimate of the clean latent, (z_t - sigma eps) / alpha."""
        return (self.z_t - self.sigma * eps) / self.alpha

    def rescaled(self, guided: Tensor, text: Tensor, share: float) -> Tensor:
        """Noise whose clean estimate has its standard deviation pulled to that of the text's estimate.

        z0 <- share f z0 + (1 - share) z0 with f = std(z0(text)) / std(z0(guided)) over the views of an object (MVDream).
        """
        if share == 0:
            return guided
        z0 = self.estimate(guided)
        factor = share * object_std(self.estimate(text), self.views) / object_std(z0, self.views) + (1 - share)
        return (self.z_t - self.alpha * factor * z0) / self.sigma


def object_std(z: Tensor, views: int) -> Tensor:
    """[B,1,1,1] standard deviation over all entries of the views of an object."""
    groups = z.reshape(len(z) // views, -1)
    return groups.std(1).repeat_interleave(views)[:, None, None, None]


def levels(t: Tensor, z: Tensor, alphas_cumprod: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma [B,1,1,1] at timesteps t [B], in the number format of z."""
    abar = alphas_cumprod.to(z)[t][:, None, None, None]
    return abar.sqrt().clamp(min=LEVEL_MIN), (1 - abar).sqrt().clamp(min=LEVEL_MIN)


def noisy_state(z: Tensor, t: Tensor, noise: Tensor, alphas_cumprod: Tensor, views: int) -> Noisy:
    """z_t = sqrt(abar_t) z + sqrt(1 - abar_t) noise (DDPM, arXiv 2006.11239)."""
    alpha, sigma = levels(t, z, alphas_cumprod)
    return Noisy(z, alpha * z + sigma * noise, t, noise, alpha, sigma, views)


def moved(state: Noisy, eps: Tensor, t: Tensor, alphas_cumprod: Tensor) -> Noisy:
    """The state taken to timesteps t along the prediction eps, in either direction (DDIM, arXiv 2010.02502); eps is its noise."""
    alpha, sigma = levels(t, state.z, alphas_cumprod)
    return Noisy(state.z, alpha * state.estimate(eps) + sigma * eps, t, eps, alpha, sigma, state.views)


def random_noise(step: Step) -> Noisy:
    """Independent noise a view, keyed on the step."""
    noise = step.draws.normal("noise", step.z.shape[1:]).to(step.z)
    return noisy_state(step.z, step.t, noise, step.alphas_cumprod, step.views)


def fixed_noise(step: Step) -> Noisy:
    """The same noise for all steps and views of a run."""
    noise = Draws(step.draws.seed, 0, (0,), step.draws.device).normal("fixed_noise", step.z.shape[1:]).to(step.z)
    return noisy_state(step.z, step.t, noise.expand_as(step.z), step.alphas_cumprod, step.views)


def inverted(step: Step, *, stride: int, most: int, cond: str = "null", cfg: float = 1.0, last: int = 0, spread: float = 0.0) -> Noisy:
    """The clean latent carried to `step.t` by DDIM inversion; the noise of the state is the prediction of its last move.

    Args:
        stride, most: length and largest number of the moves, in timesteps; the latent starts with the little noise of the timestep
            that so many moves lie below t.
        cond, cfg: prompt of the inverting predictions, and their guidance scale against the negative prompt (1: one branch).
        last: length of the last move (the delta of ISM); 0 makes all moves alike.
        spread: scale of a constant offset per channel, the same for all views, in the noise the latent starts with.
    """
    until = max(int(step.t.max()) - last, 0) if last else int(step.t.max())
    stops = [max(until - stride * i, 0) for i in range(most, -1, -1)]
    stops = sorted(set(stops)) + ([int(step.t.max())] if last else [])
    noise = step.draws.normal("inversion", step.z.shape[1:]).to(step.z)
    if spread:
        offset = torch.randn(step.z.shape[1], 1, 1, generator=step.draws.shared("inversion_offset"))
        noise = noise + spread * offset.to(step.z)
    at = torch.full_like(step.t, stops[0])
    state = noisy_state(step.z, at, noise, step.alphas_cumprod, step.views)
    for stop in stops[1:]:
        eps = step.guided(state, cond, cfg)
        state = moved(state, eps, torch.full_like(step.t, stop), step.alphas_cumprod)
    return state
