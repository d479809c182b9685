"""Score Distillation via Inversion (arXiv 2405.15891)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from threedgen.config.schema import setting
from threedgen.guidance.rule import T_SAMPLERS, WEIGHTS
from threedgen.guidance.sds import SDS
from threedgen.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from threedgen.guidance.core import Step
    from threedgen.guidance.noisers import Noisy
    from threedgen.guidance.rule import Term


@register("guidance", "sdi")
@dataclass
class SDI(SDS):
    """G = z - z0_hat(eps_s), z_t made by DDIM inversion guided against the prompt; the noise is kappa = (z_t - alpha z) / sigma."""

    weight: str = setting("sigma_over_alpha", "w(t); see sds", choices=WEIGHTS)
    t_min: Any = setting(0.25, "smallest timestep, as a share of the schedule", low=0.0, high=1.0, scheduled=True)
    t_sampler: str = setting("linear", "timestep of a step; see sds", choices=T_SAMPLERS)
    inversion_cfg: float = setting(-7.5, "guidance scale of the inversion", low=-100.0, high=100.0)
    moves: int = setting(10, "moves of the inversion over the whole schedule", low=1, high=1000)
    eta: float = setting(0.3, "share of fresh noise in the inverted state", low=0.0, high=1.0)

    def check(self) -> None:
        super().check()
        if self.cfg_mode != "two_branch" and self.inversion_cfg != 1:
            raise ValueError("the inversion of sdi is guided by two predictions: it needs cfg_mode two_branch, or inversion_cfg 1")

    def states(self, step: Step) -> tuple[dict[str, Noisy], dict[Term, Tensor]]:
        from threedgen.guidance.noisers import inverted

        count = len(step.alphas_cumprod)
        state = inverted(step, stride=max(count // self.moves, 1), most=self.moves, cond="text", cfg=self.inversion_cfg)
        kappa = (state.z_t - state.alpha * state.z) / state.sigma
        fresh = step.draws.normal("eta", step.z.shape[1:]).to(step.z)
        noise = (1 - self.eta**2) ** 0.5 * kappa + self.eta * fresh
        return {"t": replace(state, noise=noise, z_t=state.alpha * state.z + state.sigma * noise)}, {}
