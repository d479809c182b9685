"""The density ratio of a noisy point under two diffusion models: by how much better one of them denoises it after further noise.

For a point x and x_lambda = a x + b n, a^2 + b^2 = 1, lambda = log(a^2/b^2), with n_hat the best guess of n under a density of x
(pointwise I-MMSE; Information-Theoretic Diffusion, arXiv 2302.03792):

    log p(x) = c - 1/2 ∫ E_n |n - n_hat_p|^2 dlambda,    so    log p(x)/q(x) = 1/2 ∫ E_n [|n - n_hat_q|^2 - |n - n_hat_p|^2] dlambda.

Here x is z_t and x_lambda is z_u, u > t, whose prediction eps is known: a = alpha_u/alpha_t, and n_hat = -b grad log p_u(z_u)
= (b/sigma_u) eps. On the angle phi with a = cos phi, b = sin phi, |dlambda| = 2 dphi/(a b). At little further noise the difference of
the squares falls like b and at much like a, so samples that are uniform in phi have weights and values that stay bounded.
"""

from __future__ import annotations

import torch
from torch import Tensor

from threedgen.guidance.core import Step
from threedgen.guidance.noisers import Noisy, levels

SMALLEST = 1e-2  # of a b in a denominator; smaller only where the schedule ends without any signal


def further_noised(step: Step, z_t: Tensor, count: int) -> list[Noisy]:
    """`count` states that take z_t [B,C,h,w], at the step's timestep, on to later ones.

    In each, `z` is z_t, `alpha` and `sigma` are a and b, `noise` is n. Each row draws a timestep from each of count/2 even parts of
    the angle; state i + count/2 has the timesteps of state i and its noise negated. What lies nearer to t than to t + 1 stays at t, where
    nothing is to be learnt: this is the trapezoidal rule on the schedule's grid.
    """
    pairs, angles = count // 2, further_angles(step)
    parts = torch.arange(pairs, device=z_t.device) + step.draws.uniform("ratio_timestep", (pairs,)).to(z_t.device)
    u = torch.searchsorted((angles[1:] + angles[:-1]) / 2, angles[-1] * parts / pairs).clamp(min=step.t[:1])
    n = step.draws.normal("ratio_noise", (pairs, *z_t.shape[1:])).to(z_t)
    states = []
    for sign in (1, -1):
        for i in range(pairs):
            angle, noise = angles[u[:, i], None, None, None], sign * n[:, i]
            a, b = angle.cos().to(z_t), angle.sin().to(z_t)
            states.append(Noisy(z_t, a * z_t + b * noise, u[:, i], noise, a, b, step.views))
    return states


def log_density_ratio(states: list[Noisy], real: list[Tensor], fake: list[Tensor], step: Step) -> Tensor:
    """[B] estimate of log p_t(z_t)/q_t(z_t) for a row of latents, summed over its entries; without bias but for the schedule's grid.

    Args:
        states: of `further_noised`.
        real, fake: [B,C,h,w] noise predictions under p and q at each of them, without guidance.

    What p and q differ by at the end of the schedule, where both are close to noise, is left out.
    """
    parts = []
    for state, p, q in zip(states, real, fake, strict=True):
        guess = state.sigma / levels(state.t, state.z_t, step.alphas_cumprod)[1]
        p, q = guess * p, guess * q
        # |n - q|^2 - |n - p|^2 as a product, which keeps its digits where p and q are close.
        difference = (p - q) * (2 * state.noise - p - q)
        parts.append((difference / (state.alpha * state.sigma).clamp(min=SMALLEST)).flatten(1).sum(1))
    return further_angles(step)[-1].to(parts[0]) * torch.stack(parts).mean(0)


def further_angles(step: Step) -> Tensor:
    """[T] float64 angle phi of every timestep u, cos phi = alpha_u/alpha_t; 0 up to t, which all views of a step have in common."""
    alphas_cumprod = step.alphas_cumprod.to(step.t.device, torch.float64)
    return (alphas_cumprod / alphas_cumprod[step.t[:1]]).clamp(max=1).sqrt().arccos()
