"""What is optimized in the plane: free points, or a linear generator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from threedgen.draws import Draws
from threedgen.playground.critics import KernelMarginal, Marginal
from threedgen.playground.prior import Mixture


class PlaneDraws(Draws):
    """Draws with one generator for all rows: one for each of hundreds of points would take most of the time."""

    def uniform(self, purpose: str, shape: Sequence[int] = (), low: float = 0.0, high: float = 1.0) -> Tensor:
        """[V, *shape] uniform in [low, high)."""
        return torch.rand((len(self.views), *shape), generator=self.shared(purpose)) * (high - low) + low

    def normal(self, purpose: str, shape: Sequence[int] = ()) -> Tensor:
        """[V, *shape] standard normal."""
        return torch.randn((len(self.views), *shape), generator=self.shared(purpose))


class Student(nn.Module):
    """What is optimized; `forward(draws)` gives the points [N,2] of a step with gradient."""

    def marginal(self) -> Marginal:
        """The distribution that all points of all steps come from, without gradient."""
        raise NotImplementedError


class FreePoints(Student):
    """N points, each a scene of its own."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.z = nn.Parameter(start.clone())

    def forward(self, draws: Draws) -> Tensor:
        return self.z

    def marginal(self) -> Marginal:
        return KernelMarginal(self.z.detach())


class LinearGenerator(Student):
    """x = m + A u, u standard normal: one scene whose views are a Gaussian, N(m, A A^T)."""

    def __init__(self, start: Tensor) -> None:
        """start: [N,2] points whose mean and covariance the generator begins with."""
        super().__init__()
        self.m = nn.Parameter(start.mean(0))
        self.A = nn.Parameter(torch.linalg.cholesky(start.T.cov()))

    def forward(self, draws: Draws) -> Tensor:
        return self.m + draws.normal("latent", (2,)).to(self.m) @ self.A.T

    def marginal(self) -> Marginal:
        m, A = self.m.detach(), self.A.detach()
        return Mixture(m[None], (A @ A.T)[None], m.new_zeros(1))
