"""HiFA's losses on the latent and on the image (arXiv 2305.18766)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from threedgen.config.schema import setting
from threedgen.guidance.rule import T_SAMPLERS, Rule, Term
from threedgen.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from threedgen.guidance.core import Step
    from threedgen.guidance.noisers import Noisy


@register("guidance", "hifa")
@dataclass
class HiFA(Rule):
    """L = c (|z - z0_hat|^2 + 0.1 |x - decode(z0_hat)|^2) / 2, z0_hat denoised in several steps, the timestep falling with a square root.

    The denoising is deterministic (DDIM), where the authors' code adds noise in every step (eta 1).
    Its variance of depth along a ray is the regularizer `z_variance`.
    """

    weight: str = setting("sigma_over_alpha", "w(t); sigma/alpha is what makes it a reconstruction", choices=("sigma_over_alpha",))
    space: str = setting("both", "where the gradient lands: latent, pixel, or both", choices=("latent", "pixel", "both"))
    pixel_scale: Any = setting(0.1, "factor on the pixel part of the loss", low=0.0, scheduled=True)
    scale: Any = setting(0.05, "factor on the loss", low=0.0, scheduled=True)
    cfg: Any = setting(100.0, "guidance scale; see sds", low=-100.0, high=1000.0, scheduled=True)
    t_min: Any = setting(0.3, "smallest timestep, as a share of the schedule", low=0.0, high=1.0, scheduled=True)
    t_sampler: str = setting("hifa", "timestep of a step; see sds", choices=T_SAMPLERS)
    denoise: int = setting(4, "denoising steps of the estimate", low=1, high=1000)

    def residual(self, eps: dict[Term, Tensor], state: dict[str, Noisy], step: Step) -> Tensor:
        from threedgen.guidance.noisers import moved

        noisy, start = state["t"], int(step.t.max())
        denoised, guided = noisy, self.guided(eps, state, step)
        for left in range(self.denoise - 1, 0, -1):
            t = step.t.new_full(step.t.shape, round(start * left / self.denoise))
            denoised = moved(denoised, guided, t, step.alphas_cumprod)
            guided = self.guided(step.predict(*self.branches(), t=denoised), {"t": denoised}, step)
        return noisy.alpha / noisy.sigma * (noisy.z - denoised.estimate(guided))
