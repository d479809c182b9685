"""Critics in closed form: the exact score of the particles, where a real run trains a network to it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from threedgen.guidance.core import Step
from threedgen.guidance.noisers import Noisy, levels
from threedgen.guidance.rule import Term
from threedgen.guidance.vsd import VSD
from threedgen.playground.prior import PlanePrior
from threedgen.priors.base import Conditioning


class Marginal(Protocol):
    """A distribution of clean points that can be noised exactly; z_t [B,2], levels alpha and sigma [B,1]."""

    def noise(self, z_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """[B,2] exact noise prediction."""
        ...

    def log_density(self, z_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """[B] of the noisy points."""
        ...


@dataclass(frozen=True)
class KernelMarginal:
    """N points [N,2], equally likely: noised, exactly a mixture of N Gaussians of standard deviation sigma around alpha x_i."""

    points: Tensor

    def noise(self, z_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """(z_t - alpha E[x | z_t]) / sigma; see `Marginal`."""
        # In place, and the sum with the mean in one product: the [B,N] matrix is most of a step's time.
        likely = self._evidence(z_t, alpha, sigma)
        likely = likely.sub_(likely.amax(1, keepdim=True)).exp_()
        total = likely @ torch.cat([self.points, torch.ones_like(self.points[:, :1])], 1)
        return (z_t - alpha * total[:, :2] / total[:, 2:]) / sigma

    def log_density(self, z_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """See `Marginal`."""
        alike = -0.5 * (z_t / sigma).square().sum(1) - 2 * sigma[:, 0].log() - math.log(2 * math.pi * len(self.points))
        return self._evidence(z_t, alpha, sigma).logsumexp(1) + alike

    def _evidence(self, z_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """[B,N] log-density of z_t around each point, up to what does not depend on the point: (a z_t x - a² |x|² / 2) / s²."""
        scale = alpha / sigma**2
        squares = self.points.square().sum(1, keepdim=True)
        return torch.cat([scale * z_t, -0.5 * alpha * scale], 1) @ torch.cat([self.points, squares], 1).T


class ExactCritic(nn.Module):
    """The optimum of a critic's training at the present particles, in place of the training.

    A row whose camera is withheld (zeros) is answered with the score of all particles. With a camera it is answered with the score of
    its own particle alone, a point, unless the particles share the critic and it cannot tell them apart.
    """

    def __init__(self, prior: PlanePrior, shared: bool, prior_weight: float = 0.0) -> None:
        """prior_weight: gamma of Adversarial SD; the optimum is then (eps* + gamma eps_text) / (1 + gamma)."""
        super().__init__()
        self.prior, self.shared, self.prior_weight = prior, shared, prior_weight
        self.points: Tensor
        self.marginal: Marginal

    def look(self, points: Tensor, marginal: Marginal) -> None:
        """Take note of the present particles [N,2] and of the distribution they stand for."""
        self.points, self.marginal = points.detach(), marginal

    def predict_noise(self, z_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """[B,2,1,1]; row i looks at particle i modulo N."""
        alpha, sigma = levels(t, z_t, self.prior.alphas_cumprod)
        own = self.points.repeat(len(z_t) // len(self.points), 1)[:, :, None, None]
        eps = (z_t - alpha * own) / sigma
        withheld = torch.ones(len(z_t), dtype=torch.bool) if self.shared or cond.c2w is None else ~cond.c2w.flatten(1).any(1)
        if withheld.any():
            of_all = self.marginal.noise(z_t[withheld, :, 0, 0], alpha[withheld, :, 0, 0], sigma[withheld, :, 0, 0])
            eps[withheld] = of_all[:, :, None, None]
        if self.prior_weight:
            eps = (eps + self.prior_weight * self.prior.exact_noise(z_t, t, cond.text)) / (1 + self.prior_weight)
        return eps

    def close(self) -> None:
        """Nothing of it lies on the prior."""

    def log_density(self, z_t: Tensor, t: Tensor) -> Tensor:
        """[B] log-density of all particles together at z_t [B,2,1,1]."""
        alpha, sigma = levels(t, z_t, self.prior.alphas_cumprod)
        return self.marginal.log_density(z_t[:, :, 0, 0], alpha[:, :, 0, 0], sigma[:, :, 0, 0])


@dataclass
class ExactRatioVSD(VSD):
    """VSD whose f-divergence is weighted by the true density ratio p/q of the noisy points, which only closed forms know."""

    def ratio_states(self) -> tuple[str, ...]:
        """None: nothing has to be estimated."""
        return ()

    def log_ratio(self, eps: dict[Term, Tensor], state: dict[str, Noisy], step: Step) -> Tensor:
        """[B] log p_t(z_t | text) - log q_t(z_t)."""
        prior, critic = cast(PlanePrior, step.teacher.prior), cast(ExactCritic, step.teacher.network("critic"))
        z_t = state["t"].z_t
        return prior.log_density(z_t, step.t, step.text("text")) - critic.log_density(z_t, step.t)
