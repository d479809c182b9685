"""The core that every rule shares: encode, noise, all predictions of a network in one call, residual, weight, clip, loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from threedgen import ranks
from threedgen.cameras import Cameras
from threedgen.draws import Draws
from threedgen.errors import UserError
from threedgen.guidance.noisers import Noisy, moved
from threedgen.guidance.rule import GuidanceSettings, Rule, Term
from threedgen.guidance.timesteps import sample_timestep
from threedgen.priors.base import Conditioning, Critic, Prior


class Prompts(Protocol):
    """Embeddings by the name of the conditioning ("text", "negative", "null", "plain", ...)."""

    def rows(self, name: str, c2w: Tensor) -> Tensor:
        """[B,T,D] embeddings for views with cameras c2w [B,4,4]."""
        ...

    def perp_neg_weights(self, c2w: Tensor) -> Tensor:
        """[B,2] weights (at most 0) of the negative prompts "perp_0" and "perp_1"."""
        ...


@dataclass
class GuidanceOutput:
    """Loss of a step (its gradient is what the rule wants), the step as the rule saw it, and 0-dimensional tensors to log."""

    loss: Tensor
    step: Step
    info: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Teacher:
    """A prior with the prompts of a run, and the networks that are trained along, by name ("critic")."""

    prior: Prior
    prompts: Prompts
    trained: Mapping[str, Critic] = field(default_factory=dict)

    @torch.no_grad()
    def predict(self, terms: tuple[Term, ...], states: Mapping[str, Noisy], step: Step) -> dict[Term, Tensor]:
        """Noise predictions [B,C,h,w] of every term; all terms of one network go in one batched call.

        Several processes divide its rows among them; those of an object stay together where the prior answers them together.
        """
        unit = step.views if "multiview" in self.prior.capabilities else 1
        found: dict[Term, Tensor] = {}
        for net in dict.fromkeys(term.net for term in terms):
            asked = tuple(term for term in dict.fromkeys(terms) if term.net == net)
            noisy = [states[term.state] for term in asked]
            cond = Conditioning.stack([self.conditioning(term, step) for term in asked])
            z_t, t, network = torch.cat([n.z_t for n in noisy]), torch.cat([n.t for n in noisy]), self.network(net)
            eps = ranks.divided(partial(predicted, network, z_t, t, cond), len(z_t), unit)
            found |= dict(zip(asked, eps.split(step.views), strict=True))
        return found

    def network(self, name: str) -> Prior | Critic:
        """The frozen prior, or a network that is trained along; ValueError where there is none of that name."""
        if name == "prior":
            return self.prior
        if name not in self.trained:
            raise ValueError(f"the rule asks for the network '{name}', but none of that name is trained along")
        return self.trained[name]

    def conditioning(self, term: Term, step: Step) -> Conditioning:
        """What a term's prediction is conditioned on, one row a view."""
        c2w = step.cameras.c2w if term.camera else torch.zeros_like(step.cameras.c2w)
        given = {"text": step.text(term.cond), "c2w": c2w, "fovy": step.cameras.fovy} | step.rule.conditions(term, step)
        return Conditioning(**given, views=step.views)


def predicted(network: Prior | Critic, z_t: Tensor, t: Tensor, cond: Conditioning, rows: slice) -> Tensor:
    """Noise prediction of a network for some rows of a batch."""
    if rows == slice(0, len(z_t)):
        return network.predict_noise(z_t, t, cond)
    return network.predict_noise(z_t[rows], t[rows], cond.select(torch.arange(rows.start, rows.stop)))


@dataclass(frozen=True)
class Step:
    """What the parts of a rule see of one optimization step.

    Attributes:
        rule, teacher: whose step it is.
        z: [B,C,h,w] clean latents of the views, without gradient.
        t: [B] timestep of the step.
        cameras: of the views, as the prior is told them.
        draws: keyed on (seed, step), one row a view.
        total: steps of the stage.
        inputs: what a rule needs beyond the rendered views, by name.
        made: what was made of the inputs, by name.
    """

    rule: GuidanceSettings
    teacher: Teacher
    z: Tensor
    t: Tensor
    cameras: Cameras
    draws: Draws
    total: int = 1
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    made: dict[str, Tensor] = field(default_factory=dict)

    @property
    def index(self) -> int:
        """Number of the step, from 0."""
        return self.draws.step

    @property
    def views(self) -> int:
        """Rows of the step: the views of one object."""
        return len(self.z)

    @property
    def alphas_cumprod(self) -> Tensor:
        """[T] of the prior's noise schedule."""
        return self.teacher.prior.alphas_cumprod

    def text(self, name: str) -> Tensor:
        """[B,T,D] embeddings of a prompt for the views."""
        return self.teacher.prompts.rows(name, self.cameras.c2w)

    def perp_neg_weights(self) -> Tensor:
        """[B,2] weights of the negative prompts of the views."""
        return self.teacher.prompts.perp_neg_weights(self.cameras.c2w).to(self.z)

    def input(self, name: str) -> Tensor:
        """An input of the rule by name; UserError where the run has none."""
        if name not in self.inputs:
            raise UserError(f"this guidance needs '{name}' images, and the run has none")
        return self.inputs[name]

    def once(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """What `make` gives, made at most once a step and without gradient: the terms of a step share their encoded inputs."""
        if name not in self.made:
            with torch.no_grad():
                self.made[name] = make()
        return self.made[name]

    def filled(self, value: float) -> Tensor:
        """[B] the same value for every view."""
        return self.z.new_full((self.views,), value)

    def predict(self, *terms: Term, **states: Noisy) -> dict[Term, Tensor]:
        """Predictions of the teacher at states given by name."""
        return self.teacher.predict(terms, states, self)

    def guided(self, state: Noisy, cond: str, cfg: float) -> Tensor:
        """Prediction at a state with plain classifier-free guidance against the negative prompt; cfg 1 takes one branch."""
        text, negative = Term(cond), Term("negative")
        if cfg == 1.0:
            return self.predict(text, t=state)[text]
        eps = self.predict(text, negative, t=state)
        return eps[negative] + cfg * (eps[text] - eps[negative])

    @torch.no_grad()
    def denoised(self, state: Noisy, timesteps: list[int], cfg: float, rescale: float = 0.0) -> Tensor:
        """Clean latents after deterministic denoising (DDIM, arXiv 2010.02502) from a state through decreasing timesteps.

        The state is taken as it is at the first timestep; after the last one the estimate of the clean latent is returned.
        """
        text, negative = Term("text"), Term("negative")
        noise = state.noise
        for place, timestep in enumerate(timesteps):
            if place:
                state = moved(state, noise, torch.full_like(self.t, timestep), self.alphas_cumprod)
            eps = self.predict(text, negative, t=state)
            noise = state.rescaled(eps[negative] + cfg * (eps[text] - eps[negative]), eps[text], rescale)
        return state.estimate(noise)


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
    """Entries within [-limit, limit], 0 where they are not finite; limit 0 is none."""
    gradient = torch.nan_to_num(gradient, posinf=0.0, neginf=0.0)
    return gradient.clamp(-limit, limit) if limit > 0 else gradient


def gradient_loss(x: Tensor, gradient: Tensor) -> Tensor:
    """A scalar whose gradient with respect to x is gradient / B: |x - sg(x - G)|^2 / 2, summed, over the batch size."""
    target = (x - gradient).detach()
    return 0.5 * (x - target).square().sum() / len(x)


def huber_gradient(difference: Tensor) -> Tensor:
    """Gradient c d / sqrt(|d|^2 + c^2) of the pseudo-Huber distance, |d| the norm of a row's difference d [B,C,H,W].

    c = 0.00054 sqrt(number of entries of a row) (iCT, arXiv 2310.14189). Scaled by c, so that it is the squared distance's gradient
    for small differences.
    """
    c = 0.00054 * difference[0].numel() ** 0.5
    square = difference.flatten(1).square().sum(1)[:, None, None, None]
    return difference / (square / c**2 + 1).sqrt()


def cropped(x: Tensor, smallest: float, draws: Draws) -> Tensor:
    """A random square crop of the views x [B,3,H,W], the same for all of them; its share of the side is uniform in [smallest, 1]."""
    if smallest >= 1:
        return x
    share, top, left = torch.rand(3, generator=draws.shared("crop")).tolist()
    side = min(max(round(x.shape[-1] * (smallest + share * (1 - smallest))), 8), *x.shape[-2:])
    row, column = round(top * (x.shape[-2] - side)), round(left * (x.shape[-1] - side))
    return x[..., row : row + side, column : column + side]


def of_pictures(draws: Draws, count: int) -> Draws:
    """The draws of the pictures that several consecutive views each were put into; of the views where each is one picture."""
    if count == len(draws.views):
        return draws
    size = len(draws.views) // count
    return Draws(draws.seed, draws.step, [view // size for view in draws.views[::size]], draws.device)


def distill(
    rule: Rule,
    teacher: Teacher,
    rgb: Tensor,
    cameras: Cameras,
    draws: Draws,
    *,
    total: int = 1,
    inputs: Mapping[str, Tensor] | None = None,
    mask: Tensor | None = None,
    latent: Tensor | None = None,
) -> GuidanceOutput:
    """Loss of a residual rule on rendered views.

    Args:
        rgb: [B,H,W,3] in [0,1], the views of one object, with gradient; where several processes share the step, to their part.
        cameras: of the views.
        draws: keyed on the step; its views are the rows of `rgb`.
        total: steps of the stage, for what depends on the progress.
        inputs: what the rule needs beyond the views, by name.
        mask: [B,1,H,W] in [0,1], factor on the gradient (editing); cropped as the views and resized to the latents.
        latent: [B,h,w,C] with gradient, the latents of the views where these were rendered: taken as they are, nothing is encoded.

    Raises:
        ValueError: there are latents, and the rule works on pictures.

    The latent loss back-propagates G through the encoder. The pixel loss compares the render with the decoded estimate
    z - (sigma/alpha) residual, weighted by w(t) alpha/sigma; the two agree when encoder and decoder are the identity.
    """
    prior, rule = teacher.prior, rule.as_of(draws.step)
    if latent is not None:
        rule.check_latents()
    smallest = rule.scheduled("crop", draws.step)
    if mask is not None:
        mask = cropped(rule.images(F.interpolate(mask, rgb.shape[1:3], mode="area"), cameras)[0], smallest, draws)
    x, cameras = rule.images(rgb.permute(0, 3, 1, 2), cameras)
    x = cropped(x, smallest, draws)
    draws = of_pictures(draws, len(x))
    on_latent, on_pixels = rule.space in ("latent", "both"), rule.space in ("pixel", "both")
    with torch.set_grad_enabled(on_latent and torch.is_grad_enabled()):
        whole = len(x) != len(rgb)  # pictures of several views, which have gradient in more than this process' part
        if latent is not None:
            z = latent.permute(0, 3, 1, 2)
        else:
            z = prior.encode(x) if whole else ranks.divided(lambda rows: prior.encode(x[rows]), len(x))
    t = sample_timestep(rule, prior.alphas_cumprod, draws, total)
    step = Step(rule, teacher, z.detach(), t, cameras, draws, total, inputs or {})
    with torch.no_grad():
        states, eps = rule.states(step)
        eps = eps | teacher.predict(tuple(term for term in rule.terms() if term not in eps), states, step)
        residual = rule.residual(eps, states, step)
    noisy, limit = states["t"], rule.scheduled("grad_clip", step.index)
    w = weight(rule.weight, noisy)
    loss = x.new_zeros(())
    if on_latent:
        loss = loss + gradient_loss(z, clipped(masked(w * residual, mask), limit))
    if on_pixels:
        gradient = pixel_gradient(rule, prior, x, noisy, residual, step.index)
        loss = loss + rule.scheduled("pixel_scale", step.index) * gradient_loss(x, clipped(masked(w * gradient, mask), limit))
    info = {"t": t[0].float(), "grad_rms": (w * residual).square().mean().sqrt()}
    return GuidanceOutput(rule.scheduled("scale", step.index) * loss, step, info)


@torch.no_grad()
def pixel_gradient(rule: Rule, prior: Prior, x: Tensor, noisy: Noisy, residual: Tensor, index: int) -> Tensor:
    """(alpha/sigma) (x - target), target the decoded estimate z - (sigma/alpha) residual at the size of x [B,3,H,W]."""
    target = prior.decode(noisy.z - noisy.sigma / noisy.alpha * residual).clamp(0, 1)
    target = F.interpolate(target, x.shape[-2:], mode="bilinear", antialias=True)
    target = target.lerp(x, rule.scheduled("pixel_ema", index))
    difference = x - target
    return noisy.alpha / noisy.sigma * (huber_gradient(difference) if rule.pixel_loss == "huber" else difference)


def masked(gradient: Tensor, mask: Tensor | None) -> Tensor:
    """The gradient times a mask [B,1,H,W], which is resized to it."""
    if mask is None:
        return gradient
    return gradient * F.interpolate(mask.to(gradient), gradient.shape[-2:], mode="area")
