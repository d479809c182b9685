"""Volume rendering of packed samples by emission and absorption (Max 1995; Mildenhall et al. 2020, arXiv 2003.08934).

Letters: R rays, S samples of all rays packed ray by ray, C channels. Sample i of a ray has optical depth tau_i = sigma_i * step and weight
w_i = T_i (1 - exp(-tau_i)) with the transmittance T_i = exp(-sum_{j<i} tau_j) in front of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from threedgen.ops import _library
from threedgen.ops._checks import check_device, check_dtype, check_floating, check_shape, check_step
from threedgen.ops.ray_march import ray_indices


def composite(sigma: Tensor, features: Tensor, offsets: Tensor, step: float) -> tuple[Tensor, Tensor, Tensor]:
    """Sums features along rays, each weighted by the light it sends to the camera.

    Differentiable in `sigma` and `features` through all three outputs, twice (the second derivative runs as pure torch). Gradients keep
    their digits behind opaque samples, because they are computed from transmittance.

    Args:
        sigma: [S] densities >= 0 per world unit, float32 or float64.
        features: [S,C], dtype of `sigma`.
        offsets: [R+1] int64, as `march_rays` returns: samples offsets[r]:offsets[r+1] belong to ray r, from the camera on.
        step: length of a step in world units.

    Returns:
        out [R,C] sums of w_i features_i; transmittance [R] behind the last sample (1 without samples); weights [S].

    Raises:
        ValueError: shape, dtype, device or step do not fit.
    """
    samples = sigma.shape[0] if sigma.dim() else 0
    check_shape("sigma", sigma, samples)
    check_shape("features", features, samples, None)
    check_shape("offsets", offsets, None)
    if len(offsets) == 0:
        raise ValueError("offsets must have one entry more than there are rays, got none")
    check_dtype("offsets", offsets, torch.int64)
    check_floating(sigma=sigma, features=features)
    check_device(sigma=sigma, features=features, offsets=offsets)
    check_step(step)
    _library.warn_if_reference(sigma)
    return torch.ops.threedgen.composite(sigma, features, offsets, step)


def composite_reference(sigma: Tensor, features: Tensor, offsets: Tensor, step: float) -> tuple[Tensor, Tensor, Tensor]:
    """The twin of `composite` in torch, differentiable by autograd: optical depth is summed on a padded [R, longest ray] array."""
    ray, slot = _places(sigma, offsets)
    depth = _optical_depth(sigma * step, ray, slot, len(offsets) - 1)
    weights = torch.exp(-depth[ray, slot]) * -torch.expm1(-sigma * step)
    out = features.new_zeros(len(offsets) - 1, features.shape[1]).index_add(0, ray, weights[:, None] * features)
    return out, torch.exp(-depth[:, -1]), weights


def _places(sigma: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Ray [S] of each sample and its number [S] in the ray."""
    ray = ray_indices(offsets, len(sigma))
    return ray, torch.arange(len(sigma), device=sigma.device) - offsets[ray]


def _optical_depth(tau: Tensor, ray: Tensor, slot: Tensor, rays: int) -> Tensor:
    """[R,K+1] optical depth in front of sample 0 ... K-1 of each ray, and at the end of the ray in the last column."""
    longest = int(slot.max()) + 1 if len(slot) else 0
    return tau.new_zeros(rays, longest + 1).index_put((ray, slot + 1), tau).cumsum(1)


def _backward_reference(
    grad_out: Tensor,
    grad_transmittance: Tensor,
    grad_weights: Tensor,
    sigma: Tensor,
    features: Tensor,
    offsets: Tensor,
    transmittance: Tensor,
    step: float,
) -> tuple[Tensor, Tensor]:
    """Gradients of `composite_reference` to sigma and features, themselves differentiable by autograd.

    With g_i the gradient that reaches weight i and G that of the transmittance at the end, the gradient to sigma_i is
    step * (T_{i+1} g_i - sum_{j>i} w_j g_j - T_end G).
    """
    ray, slot = _places(sigma, offsets)
    depth = _optical_depth(sigma * step, ray, slot, len(offsets) - 1)
    weights = torch.exp(-depth[ray, slot]) * -torch.expm1(-sigma * step)
    grad = grad_weights + (features * grad_out[ray]).sum(1)
    behind = torch.zeros_like(depth).index_put((ray, slot), weights * grad)
    behind[:, -1] += torch.exp(-depth[:, -1]) * grad_transmittance
    behind = behind.flip(1).cumsum(1).flip(1)
    grad_sigma = step * (torch.exp(-depth[ray, slot + 1]) * grad - behind[ray, slot + 1])
    return grad_sigma, weights[:, None] * grad_out[ray]


def _setup_context(ctx, inputs, output) -> None:
    sigma, features, offsets, ctx.step = inputs
    ctx.save_for_backward(sigma, features, offsets, output[1])


def _backward(ctx, grad_out: Tensor, grad_transmittance: Tensor, grad_weights: Tensor):
    gradients = torch.ops.threedgen.composite_backward(grad_out, grad_transmittance, grad_weights, *ctx.saved_tensors, ctx.step)
    return *gradients, None, None


def _setup_double_context(ctx, inputs, output) -> None:
    *tensors, ctx.step = inputs
    ctx.save_for_backward(*tensors)


def _double_backward(ctx, grad_grad_sigma: Tensor, grad_grad_features: Tensor):
    *differentiable, offsets, transmittance = ctx.saved_tensors
    with torch.enable_grad():
        out, end, weights, sigma, features = inputs = [tensor.detach().requires_grad_() for tensor in differentiable]
        outputs = _backward_reference(out, end, weights, sigma, features, offsets, transmittance, ctx.step)
        gradients = torch.autograd.grad(outputs, inputs, (grad_grad_sigma, grad_grad_features), allow_unused=True)
    # None for the transmittance: it is a function of sigma, whose gradient is complete
    return *gradients, None, None, None


def _fake(sigma: Tensor, features: Tensor, offsets: Tensor, step: float) -> tuple[Tensor, Tensor, Tensor]:
    rays = offsets.shape[0] - 1
    return sigma.new_empty(rays, features.shape[1]), sigma.new_empty(rays), sigma.new_empty(sigma.shape)


def _fake_backward(
    grad_out: Tensor,
    grad_transmittance: Tensor,
    grad_weights: Tensor,
    sigma: Tensor,
    features: Tensor,
    offsets: Tensor,
    transmittance: Tensor,
    step: float,
) -> tuple[Tensor, Tensor]:
    return sigma.new_empty(sigma.shape), features.new_empty(features.shape)


_library.register("composite", composite_reference, _fake)
_library.register("composite_backward", _backward_reference, _fake_backward)
_library.register_autograd("composite", _backward, _setup_context)
_library.register_autograd("composite_backward", _double_backward, _setup_double_context)
