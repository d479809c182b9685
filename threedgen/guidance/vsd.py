"""Variational Score Distillation (ProlificDreamer, arXiv 2305.16213), with the options of its distribution-matching relatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from threedgen.config.schema import setting
from threedgen.guidance.rule import Rule, Term
from threedgen.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from threedgen.guidance.core import Step
    from threedgen.guidance.noisers import Noisy

CRITIC, START = Term("plain", net="critic"), Term("plain", net="start")
DIVERGENCES = ("reverse_kl", "forward_kl", "jeffreys", "jensen_shannon", "softened_kl", "hellinger", "neyman")


@register("guidance", "vsd")
@dataclass
class VSD(Rule):
    """G = w(t) (eps_s - eps_phi): eps_phi is the score of the renderings themselves, a LoRA of the prior trained along.

    Options that compose: several critic steps (DMD2, arXiv 2405.14867), a normalised gap (DMD, or the pseudo-Huber of SIM,
    arXiv 2410.16794), a weight by f-divergence (f-distill, arXiv 2502.15681), a critic per camera bucket (arXiv 2410.23274), a path
    from the first renderings to the prior (DisBack, arXiv 2408.16991), and several particles that share the critic.
    """

    critic: ClassVar[bool] = True
    rank: int = setting(4, "rank of the critic's LoRA on all attention projections", low=1, high=256)
    critic_lr: Any = setting(1e-4, "learning rate of the critic (AdamW)", low=0.0, high=1.0, scheduled=True)
    critic_steps: int = setting(1, "critic steps after a step of the particles", low=0, high=100)
    critic_cfg: Any = setting(
        1.0, "guidance scale on the critic's camera: 1 believes it, 0 is the score over all cameras", low=-100.0, high=100.0, scheduled=True
    )
    camera_dropout: float = setting(0.1, "share of critic steps without a camera", low=0.0, high=1.0)
    checkpointing: bool = setting(False, "recompute the critic's activations: less memory, slower", affects_result=False)
    buckets: int = setting(1, "critics by azimuth of the camera", low=1, high=16)
    particles: int = setting(
        1,
        "scenes that share the critic; they are stepped in turn, so each gets 1/particles of the steps, and schedules count all steps",
        low=1,
        high=64,
    )
    norm: str = setting("none", "normaliser of a view's gap: none, dmd, or huber (SIM)", choices=("none", "dmd", "huber"))
    huber: float = setting(0.00054, "c of the pseudo-Huber norm, times the root of the number of entries", low=0.0)
    divergence: str = setting("reverse_kl", "f-divergence that is descended; reverse_kl is VSD", choices=DIVERGENCES)
    ratio: str = setting(
        "heuristic",
        "source of the density ratio: the sizes of the two predictions, a ranking within the step and no true ratio",
        choices=("heuristic",),
    )
    path: Any = setting(
        0.0,
        "share of the score fitted to the first renderings in the prior's (DisBack)",
        low=0.0,
        high=1.0,
        scheduled=True,
    )
    path_steps: int = setting(0, "critic steps on the first renderings before the run (DisBack)", low=0, high=100_000)

    def check(self) -> None:
        super().check()
        if self.path != 0 and not self.path_steps:
            raise ValueError("path needs path_steps: without them there is no score of the first renderings")

    def prior_weight(self) -> float:
        """Weight of the critic's distance to the prior in its loss; 0 for a critic that learns the renderings alone."""
        return 0.0

    def terms(self) -> tuple[Term, ...]:
        withheld = () if self.critic_cfg == 1 else (Term(CRITIC.cond, net="critic", camera=False),)
        return (*self.branches(), CRITIC, *withheld, *(() if self.path == 0 else (START,)))

    def residual(self, eps: dict[Term, Tensor], state: dict[str, Noisy], step: Step) -> Tensor:
        real, fake = self.real(eps, state, step), self.fake(eps, step)
        gap = (real - fake) * self.divergence_weight(real, fake, step)
        if self.norm == "dmd":
            noisy = state["t"]
            return gap / mean_of_rows((noisy.z - noisy.estimate(real)).abs()).clamp(min=1e-8)
        if self.norm == "huber":
            square = gap.flatten(1).square().sum(1)[:, None, None, None]
            return gap / (square + self.huber**2 * gap[0].numel()).sqrt()
        return gap

    def real(self, eps: dict[Term, Tensor], state: dict[str, Noisy], step: Step) -> Tensor:
        """The guided prior, on the way from the first renderings where there is a path."""
        real = self.guided(eps, state, step)
        return real + self.scheduled("path", step.index) * (eps[START] - real) if START in eps else real

    def fake(self, eps: dict[Term, Tensor], step: Step) -> Tensor:
        """The critic: eps_phi(none) + s (eps_phi(camera) - eps_phi(none))."""
        withheld = eps.get(Term(CRITIC.cond, net="critic", camera=False), eps[CRITIC])
        return withheld + self.scheduled("critic_cfg", step.index) * (eps[CRITIC] - withheld)

    def divergence_weight(self, real: Tensor, fake: Tensor, step: Step) -> Tensor | float:
        """h(r) = f''(r) r^2 of the rows' density ratios r = p/q, divided by its mean over the step."""
        if self.divergence == "reverse_kl":
            return 1.0
        h = divergence_weight(self.divergence, self.log_ratio(real, fake, step))
        return (h / h.mean())[:, None, None, None]

    def log_ratio(self, real: Tensor, fake: Tensor, step: Step) -> Tensor:
        """[B] log of p/q up to a constant, in [-10, 10]: where the prior sees less noise than the critic, it finds the view likelier."""
        size = 0.5 * (fake.square() - real.square()).flatten(1).mean(1)
        return (size - size.mean()).clamp(-10, 10)


def divergence_weight(name: str, log_ratio: Tensor) -> Tensor:
    """h(r) = f''(r) r^2 of an f-divergence at density ratios r = p/q (f-distill, table 1)."""
    r = log_ratio.exp()
    if name == "reverse_kl":
        return r * 0 + 1
    if name == "forward_kl":
        return r
    if name == "jeffreys":
        return 1 + r
    if name == "jensen_shannon":
        return r / (1 + r)
    if name == "softened_kl":
        return 1 / (1 + r)
    return r.sqrt() if name == "hellinger" else 1 / r


def mean_of_rows(x: Tensor) -> Tensor:
    """[B,1,1,1] mean of each row of [B,C,h,w]."""
    return x.flatten(1).mean(1)[:, None, None, None]
