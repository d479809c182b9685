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
    ray = ray_indices(offsets, len(sigma))
    slot = torch.arange(len(sigma), device=sigma.device) - offsets[ray]
    rays = len(offsets) - 1
    longest = int(slot.max()) + 1 if len(slot) else 0
    tau = sigma * step
    padded = tau.new_zeros(rays, longest + 1).index_put((ray, slot + 1), tau)
    depth = padded.cumsum(1)  # in front of each sample, and at the end of the ray in the last column
    weights = torch.exp(-depth[ray, slot]) * -torch.expm1(-tau)
    out = features.new_zeros(rays, features.shape[1]).index_add(0, ray, weights[:, None] * features)
    return out, torch.exp(-depth[:, -1]), weights


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
    """Gradients of `composite_reference` to sigma and features, themselves differentiable."""
    with torch.enable_grad():
        sigma, features = (tensor if tensor.requires_grad else tensor.detach().requires_grad_() for tensor in (sigma, features))
        outputs = composite_reference(sigma, features, offsets, step)
        cotangents = (grad_out, grad_transmittance, grad_weights)
        grad_sigma, grad_features = torch.autograd.grad(outputs, (sigma, features), cotangents, create_graph=True)
    return grad_sigma, grad_features


def _backward_kernel(*arguments: Tensor | float) -> tuple[Tensor, Tensor]:
    detached = [argument.detach() if isinstance(argument, Tensor) else argument for argument in arguments]
    grad_sigma, grad_features = _backward_reference(*detached)  # pyright: ignore[reportArgumentType]
    return grad_sigma.detach(), grad_features.detach()


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
        inputs = [tensor.detach().requires_grad_() for tensor in differentiable]
        outputs = _backward_reference(*inputs, offsets, transmittance, ctx.step)
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
_library.register("composite_backward", _backward_kernel, _fake_backward)
_library.register_autograd("composite", _backward, _setup_context)
_library.register_autograd("composite_backward", _double_backward, _setup_double_context)
