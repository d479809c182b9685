"""What a guidance rule declares: its settings, the predictions it needs, and the residual it makes of them.

A rule is a dataclass of its own settings, registered under its published name; its file lies in this folder and is found by
name. No rule file imports torch at load (its methods receive tensors and use their methods), so that configs are checked fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from threedgen.config.schema import setting
from threedgen.schedule import at, knots_of

if TYPE_CHECKING:
    from torch import Tensor

    from threedgen.guidance.core import Noisy


@dataclass(frozen=True)
class Term:
    """One network evaluation: `cond` names the conditioning ("text", "null", ...), `state` the noisy state it looks at."""

    cond: str
    state: str = "t"


@dataclass
class GuidanceSettings:
    """What every guidance has: the range of timesteps and the guidance scale."""

    t_min: Any = setting(0.02, "smallest timestep, as a share of the schedule", low=0.0, high=1.0, scheduled=True)
    t_max: Any = setting(0.98, "largest timestep, as a share of the schedule", low=0.0, high=1.0, scheduled=True)
    cfg: Any = setting(7.5, "guidance scale s in eps_neg + s (eps_text - eps_neg); 1 is none", low=-100.0, high=1000.0, scheduled=True)

    def check(self) -> None:
        """ValueError where the range of timesteps is empty at some step."""
        for step, _ in knots_of(self.t_min) + knots_of(self.t_max):
            if at(self.t_min, int(step)) > at(self.t_max, int(step)) + 1e-9:
                raise ValueError(f"t_min must not exceed t_max, but does at step {int(step)}")

    def scheduled(self, name: str, step: int) -> float:
        """Value of a scheduled setting at a step."""
        return at(getattr(self, name), step)


@dataclass
class Rule(GuidanceSettings):
    """A rule that answers with a gradient on the clean latent z: G = weight(t) * residual."""

    weight: str = setting(
        "sigma2",
        "w(t): sigma^2, 1, alpha sigma^2, or sigma/alpha (the reconstruction form)",
        choices=("sigma2", "one", "alpha_sigma2", "sigma_over_alpha"),
    )
    space: str = setting(
        "latent",
        "where the gradient lands: on the latent (through the encoder), or on the pixels (render against the decoded estimate)",
        choices=("latent", "pixel", "both"),
    )
    grad_clip: Any = setting(0.0, "largest absolute value of an entry of the gradient; 0 is none", low=0.0, scheduled=True)
    scale: Any = setting(1.0, "factor on the loss", low=0.0, scheduled=True)

    terms: ClassVar[tuple[Term, ...]] = (Term("text"), Term("negative"))
    noiser: ClassVar[str] = "random"

    def residual(self, eps: dict[Term, Tensor], state: dict[str, Noisy], step: int) -> Tensor:
        """Sum of a_k e_k over the predictions `eps` (one a term) and the noise of the states, [B,C,h,w], before w(t)."""
        raise NotImplementedError(f"{type(self).__name__} declares no residual")
