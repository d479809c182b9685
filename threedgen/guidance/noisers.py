"""How the noisy state of a step is made from the clean latent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from threedgen.draws import Draws


@dataclass(frozen=True)
class Noisy:
    """A clean latent z [B,C,h,w] noised to the timesteps t [B]: z_t = alpha z + sigma noise.

    Attributes:
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


def noisy_state(z: Tensor, t: Tensor, noise: Tensor, alphas_cumprod: Tensor, views: int) -> Noisy:
    """z_t = sqrt(abar_t) z + sqrt(1 - abar_t) noise (DDPM, arXiv 2006.11239)."""
    abar = alphas_cumprod.to(z)[t][:, None, None, None]
    alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
    return Noisy(z, alpha * z + sigma * noise, t, noise, alpha, sigma, views)


def sample_timestep(t_min: float, t_max: float, steps: int, draws: Draws) -> Tensor:
    """[V] one timestep, uniform between the shares t_min and t_max of the schedule, the same for all views of the step."""
    low, high = round(t_min * steps), round(t_max * steps)
    drawn = torch.randint(low, max(low, high) + 1, (), generator=draws.shared("timestep"))
    return drawn.clamp(0, steps - 1).expand(len(draws.views)).to(draws.device)


def random_noise(z: Tensor, t: Tensor, alphas_cumprod: Tensor, draws: Draws) -> dict[str, Noisy]:
    """The state "t": independent noise a view."""
    noise = draws.normal("noise", z.shape[1:]).to(z.dtype)
    return {"t": noisy_state(z, t, noise, alphas_cumprod, len(draws.views))}


NOISERS = {"random": random_noise}
