"""Variational Score Distillation (ProlificDreamer, arXiv 2305.16213), with the options of its distribution-matching relatives."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
        "likelihood",
        "source of a divergence's density ratio: likelihood estimates it by how well prior and critic denoise what is noised further; "
        "heuristic compares the sizes of the two predictions at no cost, a ranking within the step and no density ratio",
        choices=("likelihood", "heuristic"),
    )
    ratio_samples: int = setting(
        8, "further noisings of each view for ratio likelihood, an even number; each costs a prediction of both networks", low=2, high=1024
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
        if self.path == 0 and self.path_steps:
            raise ValueError("path_steps needs path: nothing looks at the score of the first renderings while its share is 0")
        if self.ratio_samples % 2:
            raise ValueError(f"ratio_samples must be even, got {self.ratio_samples}: every noise is taken with both signs")

    def check_stage(self, views: int, steps: int) -> None:
        if self.divergence != "reverse_kl" and views == 1:
            raise ValueError("divergence weighs the views of a step against each other: with cameras.views=1 it does nothing")

    def prior_weight(self) -> float:
        """Weight of the critic's distance to the prior in its loss; 0 for a critic that learns the renderings alone."""
        return 0.0

    def ratio_states(self) -> tuple[str, ...]:
        """Names of the states that the density ratio is estimated at; none where it is not."""
        sampled = self.ratio == "likelihood" and self.divergence != "reverse_kl"
        return tuple(f"ratio_{i}" for i in range(self.ratio_samples if sampled else 0))

    def states(self, step: Step) -> tuple[dict[str, Noisy], dict[Term, Tensor]]:
        from threedgen.guidance.likelihood import further_noised

        states, given = super().states(step)
        if names := self.ratio_states():
            states |= dict(zip(names, further_noised(step, states["t"].z_t, len(names)), strict=True))
        return states, given

    def terms(self) -> tuple[Term, ...]:
        ratio = (term for name in self.ratio_states() for term in (Term("text", name), *self.critics(name)))
        return (*self.branches(), *self.critics(), *(() if self.path == 0 else (START,)), *ratio)

    def critics(self, state: str = "t") -> tuple[Term, ...]:
        """Predictions that `fake` needs at a state: those whose weight is not zero."""
        told = replace(CRITIC, state=state)
        withheld = replace(told, camera=False)
        if self.critic_cfg == 1:
            return (told,)
        return (withheld,) if self.critic_cfg == 0 else (told, withheld)

    def residual(self, eps: dict[Term, Tensor], state: dict[str, Noisy], step: Step) -> Tensor:
        real, fake = self.real(eps, state, step), self.fake(eps, step)
        return self.normalised(real - fake, real, state["t"]) * self.divergence_weight(eps, state, step)

    def normalised(self, gap: Tensor, real: Tensor, noisy: Noisy) -> Tensor:
        """The gap of each view by the norm that is set."""
        if self.norm == "dmd":
            return gap / mean_of_rows((noisy.z - noisy.estimate(real)).abs()).clamp(min=1e-8)
        if self.norm == "huber":
            square = gap.flatten(1).square().sum(1)[:, None, None, None]
            return gap / (square + self.huber**2 * gap[0].numel()).sqrt()
        return gap

    def real(self, eps: dict[Term, Tensor], state: dict[str, Noisy], step: Step) -> Tensor:
        """The guided prior, on the way from the first renderings where there is a path."""
        real = self.guided(eps, state, step)
        return real + self.scheduled("path", step.index) * (eps[START] - real) if START in eps else real

    def fake(self, eps: dict[Term, Tensor], step: Step, at_state: str = "t") -> Tensor:
        """The critic: eps_phi(none) + s (eps_phi(camera) - eps_phi(none))."""
        first, *withheld = (eps[term] for term in self.critics(at_state))
        return withheld[0] + self.scheduled("critic_cfg", step.index) * (first - withheld[0]) if withheld else first

    def divergence_weight(self, eps: dict[Term, Tensor], state: dict[str, Noisy], step: Step) -> Tensor | float:
        """h(r) = f''(r) r^2 of the views' density ratios r = p/q in [e^-10, e^10], divided by its mean over them; 1 for a view alone."""
        if self.divergence == "reverse_kl":
            return 1.0
        h = divergence_weight(self.divergence, self.log_ratio(eps, state, step).clamp(-10, 10))
        return (h / h.mean())[:, None, None, None]

    def log_ratio(self, eps: dict[Term, Tensor], state: dict[str, Noisy], step: Step) -> Tensor:
        """[B] log of p/q at the noisy latents of the views.

        likelihood: an estimate from `ratio_samples` further predictions of each network (of the critic twice as many where `critic_cfg`
        is neither 0 nor 1), in the batched call that the step takes anyway. p is the text prediction without guidance, because a guided
        one is no density's score; q is the critic as in `fake`, a density's score only at `critic_cfg` 0 and 1. Value and error grow
        with the entries of a latent.

        heuristic: up to a constant; where the guided prior sees less noise than the critic, it finds the view likelier.
        """
        if names := self.ratio_states():
            from threedgen.guidance.likelihood import log_density_ratio

            gamma, real = self.prior_weight(), [eps[Term("text", name)] for name in names]
            # The score of the renderings, whatever weight the critic was trained away from the prior with.
            fake = [(1 + gamma) * self.fake(eps, step, name) - gamma * p for name, p in zip(names, real, strict=True)]
            return log_density_ratio([state[name] for name in names], real, fake, step)
        size = 0.5 * (self.fake(eps, step).square() - self.real(eps, state, step).square()).flatten(1).mean(1)
        return size - size.mean()


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
