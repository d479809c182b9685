"""One optimization step on a closed form, with the pieces that the formula of a rule is written in."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from tests.oracles import Prompts, ToldGaussianPrior, coloured_views_prior
from threedgen.cameras import Cameras, orbit_cameras
from threedgen.draws import Draws
from threedgen.guidance.core import GuidanceOutput, Step, Teacher, distill
from threedgen.guidance.rule import Rule
from threedgen.priors.analytic import GaussianMixturePrior
from threedgen.priors.base import Conditioning

TEXTS = {
    "text": "red",
    "plain": "red",
    "negative": "green",
    "null": "",
    "flaws": "blue",
    "category": "blue",
    "source": "blue",
    "perp_0": "green",
    "perp_1": "blue",
    "image": "",
}
PRIORS = {"gaussian": ToldGaussianPrior, "mixture": coloured_views_prior}
WEIGHTS = {
    "sigma2": lambda alpha, sigma: sigma**2,
    "one": lambda alpha, sigma: 1.0,
    "alpha_sigma2": lambda alpha, sigma: alpha * sigma**2,
    "sigma_over_alpha": lambda alpha, sigma: sigma / alpha,
}


def random(*shape: int, seed: int = 5) -> Tensor:
    """Uniform float64 numbers in [0,1)."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class MirroredDraws(Draws):
    """Draws whose normal numbers have the other sign: the mean over both is exact for what is linear in the noise."""

    def normal(self, purpose: str, shape=()) -> Tensor:
        return -super().normal(purpose, shape)


@dataclass
class Bench:
    """A step of a rule on random renders.

    Attributes:
        prior, trained, inputs, index, total: as the rule gets them; `index` is the number of the step.
        texts: the prompts by name.
        views, size, seed: of the renders.
    """

    prior: GaussianMixturePrior = field(default_factory=ToldGaussianPrior)
    views: int = 4
    size: int = 6
    seed: int = 0
    index: int = 3
    total: int = 1
    trained: dict = field(default_factory=dict)
    inputs: dict = field(default_factory=dict)
    texts: dict = field(default_factory=lambda: dict(TEXTS))
    mirrored: bool = False

    def __post_init__(self) -> None:
        rng = torch.Generator().manual_seed(self.seed + 100)
        rgb = 0.3 + 0.4 * torch.rand(self.views, self.size, self.size, 3, generator=rng, dtype=torch.float64)
        self.rgb = rgb.requires_grad_()
        azimuth = [20 + 360.0 * v / self.views for v in range(self.views)]
        self.cameras: Cameras = orbit_cameras(azimuth, 15.0, 2.6, 40.0, self.size, self.size)
        self.draws = (MirroredDraws if self.mirrored else Draws)(self.seed, self.index, range(self.views))

    @property
    def x(self) -> Tensor:
        """[B,3,H,W] the renders."""
        return self.rgb.detach().permute(0, 3, 1, 2)

    @property
    def z(self) -> Tensor:
        """[B,3,H,W] their latents."""
        return 2 * self.x - 1

    @property
    def teacher(self) -> Teacher:
        texts = dict(self.texts)
        return Teacher(self.prior, Prompts(self.prior, texts.pop("text"), texts.pop("negative"), **texts), self.trained)

    def alpha(self, t: int) -> Tensor:
        return self.prior.alphas_cumprod[t].sqrt()

    def sigma(self, t: int) -> Tensor:
        return (1 - self.prior.alphas_cumprod[t]).sqrt()

    def noise(self, purpose: str = "noise") -> Tensor:
        """[B,3,H,W] noise of the step."""
        return self.draws.normal(purpose, self.z.shape[1:]).double()

    def noised(self, t: int, noise: Tensor | None = None, z: Tensor | None = None) -> Tensor:
        """z_t, by default of the step's latents and noise."""
        return self.alpha(t) * (self.z if z is None else z) + self.sigma(t) * (self.noise() if noise is None else noise)

    def ddim(self, z_t: Tensor, eps: Tensor, start: int, stop: int) -> Tensor:
        """z_t taken from one timestep to another along a prediction."""
        return self.alpha(stop) * (z_t - self.sigma(start) * eps) / self.alpha(start) + self.sigma(stop) * eps

    def eps(self, name: str, z_t: Tensor, t: int, *, net=None, camera: bool = True, **told: Tensor) -> Tensor:
        """Exact prediction for a prompt by name at the views' cameras, told what is given and no more."""
        rows = len(z_t)
        text = self.prior.encode_text([self.texts[name]]).expand(rows, -1, -1)
        given = {"c2w": self.cameras.c2w[:rows] * float(camera), "fovy": self.cameras.fovy[:rows]} | told
        return (net or self.prior).predict_noise(z_t, torch.full((rows,), t), Conditioning(text, views=rows, **given))

    def mean(self, name: str) -> Tensor:
        """[B,3,H,W] mean of the told Gaussian for a prompt by name at the views' cameras."""
        camera = 0.05 * self.cameras.c2w[:, :3, 3] + 0.01 * self.cameras.fovy[:, None]
        return self.prior.means + (self.prior.encode_text([self.texts[name]])[:, 0] + camera)[:, :, None, None]

    def cfg(self, z_t: Tensor, t: int, scale: float, text: str = "text", negative: str = "negative", **told: Tensor) -> Tensor:
        """eps_neg + s (eps_text - eps_neg)."""
        base = self.eps(negative, z_t, t, **told)
        return base + scale * (self.eps(text, z_t, t, **told) - base)

    def distill(self, rule: Rule, mask: Tensor | None = None) -> GuidanceOutput:
        return distill(rule, self.teacher, self.rgb, self.cameras, self.draws, total=self.total, inputs=self.inputs, mask=mask)

    def gradient(self, rule: Rule, mask: Tensor | None = None) -> Tensor:
        """[B,3,H,W] gradient of the loss with respect to the renders, times the number of views."""
        (gradient,) = torch.autograd.grad(self.distill(rule, mask).loss, self.rgb)
        return gradient.permute(0, 3, 1, 2) * self.views

    def latent(self, rule: Rule, mask: Tensor | None = None) -> Tensor:
        """[B,3,H,W] G: gradient with respect to the latents, times the number of views, before the factor `scale`."""
        return self.gradient(replace(rule, space="latent"), mask) / 2 / rule.scheduled("scale", self.index)

    def step(self, rule: Rule, t: int) -> Step:
        """The step as a rule sees it."""
        return Step(rule, self.teacher, self.z, torch.full((self.views,), t), self.cameras, self.draws, self.total, self.inputs)

    def assert_residual(self, rule: Rule, residual: Tensor, t: int, atol: float = 1e-9) -> None:
        """The gradient of a rule whose noisy state lies at t is w(t) times a residual, in every space."""
        alpha, sigma, scale = self.alpha(t), self.sigma(t), rule.scheduled("scale", self.index)
        w = WEIGHTS[rule.weight](alpha, sigma)
        latent = scale * 2 * w * residual
        estimate = (0.5 * (self.z - sigma / alpha * residual) + 0.5).clamp(0, 1)
        pixel = scale * rule.scheduled("pixel_scale", self.index) * w * alpha / sigma * (self.x - estimate)
        assert latent.abs().max() > 1e-5
        for space, expected in (("latent", latent), ("pixel", pixel), ("both", latent + pixel)):
            actual = self.gradient(replace(rule, space=space))
            torch.testing.assert_close(actual, expected, rtol=1e-7, atol=atol, msg=lambda m, space=space: f"space {space}: {m}")
