"""One case in the plane: optimize a student with the real `distill`, and measure what became of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from threedgen.cameras import Cameras
from threedgen.guidance.core import Teacher, distill
from threedgen.guidance.rule import Rule
from threedgen.guidance.vsd import VSD
from threedgen.playground.cases import Case
from threedgen.playground.critics import ExactCritic
from threedgen.playground.prior import REACH, Mixture, PlanePrior, PlanePrompts
from threedgen.playground.students import FreePoints, LinearGenerator, PlaneDraws

LR = 0.05  # of Adam at the first step; falls to zero in a line
PROMPT = "left"
STUDENTS = {"points": FreePoints, "generator": LinearGenerator}
TEXTS = {"text": PROMPT, "plain": PROMPT, "source": "right", "flaws": "flaws"}


@dataclass(frozen=True)
class Measures:
    """What became of the points.

    Attributes:
        distance: of their mean to that of the prompted class.
        spread: trace of their covariance over that of the class.
        within: the same within the modes: mean squared distance to the mean of those nearest to the same mode, over that of the class.
        shares: of the points within three standard deviations of each mode (of the class itself: 0.99 of its weight).
    """

    distance: float
    spread: float
    within: float
    shares: list[float]


@dataclass(frozen=True)
class Outcome:
    """A case after its run.

    Attributes:
        points: [N,2] in the end; of a generator, a new draw.
        variance: of a point's gradient over the noise at t = 0.5 from the start, over its squared mean.
        evaluations: rows that the prior answered per point and step.
    """

    case: Case
    points: Tensor
    measures: Measures
    variance: float
    evaluations: float
    seconds: float


class Plane:
    """A prior of the plane and one case: everything that a step needs."""

    def __init__(self, prior: PlanePrior, case: Case, count: int, seed: int, texts: Mapping[str, str] = TEXTS) -> None:
        """count: of points; texts: the class behind each name of a prompt that rules use (all others are the null prompt)."""
        self.prior, self.case, self.seed = prior, case, seed
        self.start = start_points(prior, case.start, count, seed)
        self.student = STUDENTS[case.student](self.start)
        self.critic = ExactCritic(prior, case.shared, case.rule.prior_weight() if isinstance(case.rule, VSD) else 0.0)
        self.teacher = Teacher(prior, PlanePrompts(prior, **texts), {"critic": self.critic})
        # The critic tells particles apart by their row; the cameras only have to be there, or withheld.
        self.cameras = Cameras(torch.eye(4).expand(count, 4, 4), torch.ones(count), 1, 1)
        self.inputs = {"source": image(self.start).permute(0, 3, 1, 2)}

    def draws(self, step: int) -> PlaneDraws:
        """The draws of a step."""
        return PlaneDraws(self.seed, step, range(len(self.start)))

    def loss(self, points: Tensor, draws: PlaneDraws, rule: Rule, steps: int) -> Tensor:
        """Distillation loss of points [N,2]; its gradient is the rule's over N."""
        self.critic.look(points, self.student.marginal())
        return distill(rule, self.teacher, image(points), self.cameras, draws, total=steps, inputs=self.inputs).loss

    def optimize(self, steps: int, lr: float = LR) -> None:
        """Adam, its learning rate falling to zero."""
        optimizer = torch.optim.Adam(self.student.parameters(), lr=lr, betas=(0.9, 0.99))
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
            draws = self.draws(step)
            optimizer.zero_grad()
            self.loss(self.student(draws), draws, self.case.rule, steps).backward()
            optimizer.step()

    def gradients(self, repeats: int, level: float = 0.5) -> Tensor:
        """[repeats,N,2] gradients of the start points in the first steps, all at one level of noise (share of the schedule)."""
        # A line that has hardly begun stays at t_max; t_min is left alone, because some rules measure from it.
        rule, steps = replace(self.case.rule, t_max=level, t_sampler="linear"), 10**6 * repeats
        points = self.start.clone().requires_grad_()
        losses = (self.loss(points, self.draws(step), rule, steps) for step in range(repeats))
        return torch.stack([torch.autograd.grad(loss, points)[0] * len(points) for loss in losses])


def run(prior: PlanePrior, case: Case, count: int, steps: int, seed: int) -> Outcome:
    """Optimize `count` points for some steps, and measure them."""
    began = time.perf_counter()
    plane = Plane(prior, case, count, seed)
    variance = relative_variance(plane.gradients(32))
    asked = prior.rows
    plane.optimize(steps)
    evaluations = (prior.rows - asked) / (count * steps)
    points = plane.student(plane.draws(steps)).detach()
    return Outcome(case, points, measure(points, prior.of_class(PROMPT)), variance, evaluations, time.perf_counter() - began)


def start_points(prior: PlanePrior, name: str, count: int, seed: int) -> Tensor:
    """[count,2] samples of a class, or of a round cloud in the middle."""
    rng = torch.Generator().manual_seed(seed)
    if name:
        return prior.of_class(name).sample(count, rng)
    return 0.8 * torch.randn(count, 2, generator=rng, dtype=prior.whole.means.dtype)


def image(points: Tensor) -> Tensor:
    """[N,1,1,2] "images" in [0,1] of points [N,2]."""
    return (0.5 + 0.5 * points / REACH)[:, None, None]


def relative_variance(gradients: Tensor) -> float:
    """Trace of the covariance of gradients [R,N,2] over R, divided by their squared mean (freed of the noise left in it)."""
    variance = gradients.var(0).sum()
    signal = gradients.mean(0).square().sum() - variance / len(gradients)
    return float(variance / signal.clamp(min=1e-12))


def measure(points: Tensor, target: Mixture) -> Measures:
    """Points [N,2] against the class they were prompted to."""
    near = target.distances(points).min(1)
    groups = [near.indices == k for k in range(len(target.means))]
    within = sum(float((points[g] - points[g].mean(0)).square().sum()) for g in groups if g.any())
    return Measures(
        distance=float((points.mean(0) - target.mean()).norm()),
        spread=float(points.T.cov().trace() / target.covariance().trace()),
        within=within / len(points) / float(target.within()),
        shares=[float((near.values[g] < 3).sum()) / len(points) for g in groups],
    )
