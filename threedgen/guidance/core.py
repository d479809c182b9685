"""The core that every rule shares: encode, noise, all predictions in one call, residual, weight, clip, loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from threedgen.cameras import Cameras
from threedgen.draws import Draws
from threedgen.guidance.noisers import NOISERS, Noisy, noisy_state, sample_timestep
from threedgen.guidance.rule import Rule, Term
from threedgen.priors.base import Conditioning, Prior


class Prompts(Protocol):
    """Embeddings by the name of the conditioning ("text", "negative", ...)."""

    def get(self, name: str) -> Tensor:
        """[1,T,D] embedding."""
        ...


@dataclass
class GuidanceOutput:
    """Loss of a step (its gradient is what the rule wants) and numbers to log."""

    loss: Tensor
    info: dict[str, float] = field(default_factory=dict)


class Teacher:
    """A prior with the prompts of a run: answers any number of terms in one network call."""

    def __init__(self, prior: Prior, prompts: Prompts) -> None:
        self.prior, self.prompts = prior, prompts

    @torch.no_grad()
    def predict(self, terms: tuple[Term, ...], states: dict[str, Noisy], cameras: Cameras) -> dict[Term, Tensor]:
        """Noise predictions [B,C,h,w] of every term, stacked into a single batched call."""
        noisy = [states[term.state] for term in terms]
        views = len(cameras)
        text = torch.cat([self.prompts.get(term.cond).expand(views, -1, -1) for term in terms])
        cond = Conditioning(text, cameras.c2w.repeat(len(terms), 1, 1), cameras.fovy.repeat(len(terms)), views)
        eps = self.prior.predict_noise(torch.cat([n.z_t for n in noisy]), torch.cat([n.t for n in noisy]), cond)
        return dict(zip(terms, eps.split(views), strict=True))

    @torch.no_grad()
    def denoise(self, z: Tensor, timesteps: list[int], scale: float, rescale: float, cameras: Cameras, draws: Draws) -> Tensor:
        """Noise z [B,C,h,w] to the first timestep and denoise it deterministically through the others (DDIM, arXiv 2010.02502).

        Args:
            timesteps: decreasing; after the last one the estimate of the clean latent is returned.
            scale: classifier-free guidance scale; rescale: share of the standard-deviation rescale of each estimate.
        """
        text, negative = Term("text"), Term("negative")
        alphas = self.prior.alphas_cumprod
        noise = draws.normal("noise", z.shape[1:]).to(z.dtype)
        for timestep in timesteps:
            t = torch.full((len(z),), timestep, dtype=torch.long, device=z.device)
            noisy = noisy_state(z, t, noise, alphas, len(z))
            eps = self.predict((text, negative), {"t": noisy}, cameras)
            guided = eps[negative] + scale * (eps[text] - eps[negative])
            noise = noisy.rescaled(guided, eps[text], rescale)
            z = noisy.estimate(noise)
        return z


def weight(name: str, noisy: Noisy) -> Tensor:
    """[B,1,1,1] w(t) by name; see Rule.weight."""
    alpha, sigma = noisy.alpha, noisy.sigma
    if name == "sigma2":
        return sigma**2
    if name == "one":
        return torch.ones_like(sigma)
    if name == "alpha_sigma2":
        return alpha * sigma**2
    return sigma / alpha


def clipped(gradient: Tensor, limit: float) -> Tensor:
    """Finite entries within [-limit, limit]; limit 0 is none."""
    gradient = torch.nan_to_num(gradient)
    return gradient.clamp(-limit, limit) if limit > 0 else gradient


def gradient_loss(x: Tensor, gradient: Tensor) -> Tensor:
    """A scalar whose gradient with respect to x is gradient / B: |x - sg(x - G)|^2 / 2, summed, over the batch size."""
    target = (x - gradient).detach()
    return 0.5 * (x - target).square().sum() / len(x)


def distill(rule: Rule, teacher: Teacher, rgb: Tensor, cameras: Cameras, draws: Draws) -> GuidanceOutput:
    """Loss of a residual rule on rendered views.

    Args:
        rgb: [B,H,W,3] in [0,1], the views of one object, with gradient.
        cameras: of the views.
        draws: keyed on the step; its views are the rows of `rgb`.

    The latent loss back-propagates G through the encoder. The pixel loss compares the render with the decoded estimate
    z - (sigma/alpha) residual, weighted by w(t) alpha/sigma; the two agree when encoder and decoder are the identity.
    """
    prior, step = teacher.prior, draws.step
    x = rgb.permute(0, 3, 1, 2)
    on_latent, on_pixels = rule.space in ("latent", "both"), rule.space in ("pixel", "both")
    with torch.set_grad_enabled(on_latent and torch.is_grad_enabled()):
        z = prior.encode(x)
    steps = len(prior.alphas_cumprod)
    t = sample_timestep(rule.scheduled("t_min", step), rule.scheduled("t_max", step), steps, draws)
    states = NOISERS[rule.noiser](z.detach(), t, prior.alphas_cumprod, draws)
    residual = rule.residual(teacher.predict(rule.terms, states, cameras), states, step)
    noisy, limit = states["t"], rule.scheduled("grad_clip", step)
    w = weight(rule.weight, noisy)
    loss = x.new_zeros(())
    if on_latent:
        loss = loss + gradient_loss(z, clipped(w * residual, limit))
    if on_pixels:
        with torch.no_grad():
            target = prior.decode(noisy.z - noisy.sigma / noisy.alpha * residual).clamp(0, 1)
            shown = torch.nn.functional.interpolate(target, x.shape[-2:], mode="bilinear", antialias=True)
        loss = loss + gradient_loss(x, clipped(w * noisy.alpha / noisy.sigma * (x - shown), limit).detach())
    info = {"t": float(t[0]), "grad_rms": float((w * residual).square().mean().sqrt())}
    return GuidanceOutput(rule.scheduled("scale", step) * loss, info)
