"""A prior whose images are points of the plane: a mixture of Gaussians in 2-D with exact scores.

For z_t = a z0 + s eps with z0 from a mixture of N(mu_k, C_k), z_t comes from one of N(a mu_k, a² C_k + s² I) with the same weights,
and the exact noise prediction is eps = -s grad log p_t(z_t) (Tweedie's formula).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from threedgen.errors import UserError
from threedgen.guidance.noisers import levels
from threedgen.priors.analytic import scaled_linear
from threedgen.priors.base import Conditioning

REACH = 4.5  # half the side of the plane that an image's range [0,1] covers
_ABSENT = -1e9  # log-weight of a component that a prompt rules out: more than any point can speak for it, yet finite


@dataclass(frozen=True)
class Mixture:
    """Gaussians in the plane: means [K,2], covariances [K,2,2], log_weights [K] (normalised), all of one number format."""

    means: Tensor
    covariances: Tensor
    log_weights: Tensor

    @cached_property
    def axes(self) -> tuple[Tensor, Tensor]:
        """Variances [K,2] along the principal axes, and these as the columns of [K,2,2]."""
        return torch.linalg.eigh(self.covariances)

    def mean(self) -> Tensor:
        """[2] of the whole mixture."""
        return self.log_weights.exp() @ self.means

    def covariance(self) -> Tensor:
        """[2,2] of the whole mixture: within the components and between them."""
        offset = self.means - self.mean()
        return torch.einsum("k,kij->ij", self.log_weights.exp(), self.covariances + offset[:, :, None] * offset[:, None])

    def within(self) -> Tensor:
        """Trace of the covariance within the components alone, 0-dimensional."""
        return self.log_weights.exp() @ self.covariances.diagonal(dim1=1, dim2=2).sum(1)

    def distances(self, points: Tensor) -> Tensor:
        """[B,K] Mahalanobis distances of points [B,2] to the components."""
        variances, axes = self.axes
        return (torch.einsum("bki,kij->bkj", points[:, None] - self.means, axes).square() / variances).sum(2).sqrt()

    def noise(self, z_t: Tensor, alpha: Tensor, sigma: Tensor, log_weights: Tensor | None = None) -> Tensor:
        """[B,2] exact noise prediction at noisy points.

        Args:
            z_t: [B,2].
            alpha, sigma: [B,1] levels of the rows.
            log_weights: [B,K] of the components, in place of those of the mixture; normalised.
        """
        offset, spread = self._whitened(z_t, alpha, sigma)
        joint = _evidence(offset, spread) + (self.log_weights if log_weights is None else log_weights)
        return sigma * torch.einsum("bk,bkj,kij->bi", joint.softmax(1), offset / spread, self.axes[1])

    def log_density(self, z_t: Tensor, alpha: Tensor, sigma: Tensor, log_weights: Tensor | None = None) -> Tensor:
        """[B] log-density of noisy points; arguments as in `noise`."""
        offset, spread = self._whitened(z_t, alpha, sigma)
        return (_evidence(offset, spread) + (self.log_weights if log_weights is None else log_weights)).logsumexp(1)

    def _whitened(self, z_t: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets from the noised components along their axes and the variances there, [B,K,2] each."""
        variances, axes = self.axes
        offset = torch.einsum("bki,kij->bkj", z_t[:, None] - alpha[:, None] * self.means, axes)
        return offset, (alpha**2)[:, None] * variances + (sigma**2)[:, None]

    def density(self, points: Tensor) -> Tensor:
        """[B] density of clean points [B,2]."""
        one = points.new_ones(len(points), 1)
        return self.log_density(points, one, 0 * one).exp()

    def sample(self, count: int, rng: torch.Generator) -> Tensor:
        """[count,2] draws."""
        chosen = torch.multinomial(self.log_weights.exp(), count, replacement=True, generator=rng)
        normal = torch.randn(count, 2, generator=rng, dtype=self.means.dtype)
        variances, axes = self.axes
        return self.means[chosen] + torch.einsum("bij,bj->bi", axes[chosen], variances[chosen].sqrt() * normal)


def _evidence(offset: Tensor, spread: Tensor) -> Tensor:
    """[B,K] log-densities of Gaussians with variances `spread` at `offset`, both [B,K,2]."""
    return -0.5 * (offset.square() / spread + spread.log()).sum(2) - math.log(2 * math.pi)


def component(mean: tuple[float, float], stds: tuple[float, float], degrees: float = 0.0) -> tuple[list[float], list[list[float]]]:
    """Mean and covariance of a Gaussian with standard deviations along two axes, the first of them turned from +x to +y."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    a, b = stds[0] ** 2, stds[1] ** 2
    return list(mean), [[a * c * c + b * s * s, (a - b) * c * s], [(a - b) * c * s, a * s * s + b * c * c]]


class PlanePrior:
    """A `Prior` over the plane, latents [B,2,1,1]; images [B,2,1,1] in [0,1] cover the square [-REACH, REACH]².

    A prompt names one of the classes; the null prompt "" is the whole mixture. Every row is a point of its own, whatever `cond.views`,
    and the camera means nothing.

    Attributes:
        rows: how many predictions were asked for so far.
    """

    native_resolution = latent_size = 1
    latent_channels = 2
    capabilities: frozenset[str] = frozenset()

    def __init__(self, whole: Mixture, classes: dict[str, list[int]]) -> None:
        """classes: the components of `whole` that belong to a prompt."""
        self.whole, self.classes = whole, classes
        self.alphas_cumprod = scaled_linear()
        self.device = torch.device("cpu")
        self.text_fingerprint = "plane"
        self.rows = 0

    def of_class(self, text: str) -> Mixture:
        """The clean distribution of a prompt; UserError for an unknown one."""
        members = list(range(len(self.whole.means))) if text == "" else self.classes.get(text)
        if members is None:
            raise UserError(f"the plane knows no '{text}': choose one of {', '.join(self.classes)}")
        weights = self.whole.log_weights[members].log_softmax(0)
        return Mixture(self.whole.means[members], self.whole.covariances[members], weights)

    def encode_text(self, texts: list[str]) -> Tensor:
        """[N,1,K] log-weights of the components; UserError for an unknown class."""
        rows = torch.full((len(texts), 1, len(self.whole.means)), _ABSENT, dtype=self.whole.means.dtype)
        for row, text in zip(rows, texts, strict=True):
            members = self.classes.get(text, slice(None))
            row[0, members] = self.of_class(text).log_weights
        return rows

    def encode(self, rgb: Tensor) -> Tensor:
        """Points [B,2,1,1] of images [B,2,1,1] in [0,1]."""
        return REACH * (2 * rgb - 1)

    def encode_beside(self, rgb: Tensor) -> Tensor:
        """The same as `encode`: points have no scale of their own."""
        return self.encode(rgb)

    def decode(self, z: Tensor) -> Tensor:
        """Images of points; the inverse of `encode`."""
        return 0.5 * z / REACH + 0.5

    def critic(self, rank: int, checkpointing: bool = False, buckets: int = 1, seed: int = 0) -> nn.Module:
        """UserError: the critics of the plane are closed forms (`ExactCritic`)."""
        raise UserError("the prior of the plane trains no critic")

    def predict_noise(self, z_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """[B,2,1,1] exact noise in z_t at timesteps t [B]."""
        self.rows += len(z_t)
        return self.exact_noise(z_t, t, cond.text)

    def exact_noise(self, z_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """The prediction for log-weights `text` [B,1,K], uncounted."""
        alpha, sigma = levels(t, z_t, self.alphas_cumprod)
        eps = self.whole.noise(z_t[:, :, 0, 0], alpha[:, :, 0, 0], sigma[:, :, 0, 0], text[:, 0])
        return eps[:, :, None, None]

    def log_density(self, z_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """[B] log p_t of z_t [B,2,1,1] at timesteps t [B], for log-weights `text` [B,1,K]."""
        alpha, sigma = levels(t, z_t, self.alphas_cumprod)
        return self.whole.log_density(z_t[:, :, 0, 0], alpha[:, :, 0, 0], sigma[:, :, 0, 0], text[:, 0])


class PlanePrompts:
    """Embeddings by the names that rules use: "text" and "plain" are the prompted class, unknown names the null prompt."""

    def __init__(self, prior: PlanePrior, **texts: str) -> None:
        self.null = prior.encode_text([""])
        self.embeddings = {name: prior.encode_text([text]) for name, text in texts.items()}

    def rows(self, name: str, c2w: Tensor) -> Tensor:
        return self.embeddings.get(name, self.null).expand(len(c2w), -1, -1)

    def perp_neg_weights(self, c2w: Tensor) -> Tensor:
        return c2w.new_zeros(len(c2w), 2)


def two_classes() -> PlanePrior:
    """The default plane: the prompted class "left" and the class "right" of two modes each, and a broad class "flaws" around them."""
    parts = [
        component((-1.9, 1.6), (0.6, 0.3), 30),
        component((-1.5, -1.6), (0.4, 0.25), -40),
        component((1.8, 1.4), (0.4, 0.4)),
        component((1.7, -1.3), (0.6, 0.25), 60),
        component((0.0, 0.0), (2.2, 2.2)),
    ]
    weights = torch.tensor([0.27, 0.18, 0.25, 0.2, 0.1], dtype=torch.float64)
    means, covariances = (torch.tensor(values, dtype=torch.float64) for values in zip(*parts, strict=True))
    return PlanePrior(Mixture(means, covariances, weights.log()), {"left": [0, 1], "right": [2, 3], "flaws": [4]})
