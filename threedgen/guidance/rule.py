"""What a guidance rule declares: which predictions it needs, and the residual it makes of them. Never imports torch at load.

A rule is a frozen dataclass of its own settings, registered under its published name; its file lies in this folder and is found
by name. Its methods receive tensors and use their methods, so that configs are checked without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from threedgen.config.schema import setting

if TYPE_CHECKING:
    from torch import Tensor

    from threedgen.guidance.core import Noisy


@dataclass(frozen=True)
class Term:
    """One network evaluation: `cond` names the conditioning ("text", "null", ...), `state` the noisy state it looks at."""

    cond: str
    state: str = "t"


@dataclass
class Rule:
    """Base of the residual rules; settings that every rule has."""

    t_min: Any = setting(0.02, "smallest timestep, as a share of the schedule", low=0.0, high=1.0, scheduled=True)
    t_max: Any = setting(0.98, "largest timestep, as a share of the schedule", low=0.0, high=1.0, scheduled=True)
    cfg: Any = setting(7.5, "guidance scale s in eps_null + s (eps_text - eps_null); 1 is none", low=-100.0, high=1000.0, scheduled=True)
    grad_clip: Any = setting(0.0, "largest absolute value of a gradient entry in the latent; 0 is none", low=0.0, scheduled=True)

    terms: ClassVar[tuple[Term, ...]] = (Term("text"), Term("null"))

    def residual(self, eps: dict[Term, Tensor], state: Noisy, step: int) -> Tensor:
        """Gradient with respect to the clean latent, [B,C,h,w], before clipping."""
        raise NotImplementedError
