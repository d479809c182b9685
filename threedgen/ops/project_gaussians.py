"""Gaussians as cameras see them: EWA projection (Zwicker et al. 2001) as in 3D Gaussian Splatting (arXiv 2308.04079).

Letters: B views, N Gaussians. With (x, y, z) the mean in the camera's axes right, down, forward (r, d, f in the world), F the focal
length in pixels and s_x, s_y the slopes x/z, y/z cut at 1.3 times the half image, the covariance A A^T becomes J A A^T J^T plus 0.3
squared pixels, where J has the rows F/z (r - s_x f) and F/z (d - s_y f).
"""

from __future__ import annotations

import torch
from torch import Tensor

from threedgen.ops import _library
from threedgen.ops._checks import check_device, check_floating, check_shape

BLUR = 0.3  # variance in squared pixels that every Gaussian gets, so that none falls between the pixels
NEAREST = 0.05  # depth in world units from which on Gaussians are drawn
BEYOND = 1.3  # of the half field of view: up to there the slope of the projection is followed
LEAST_SHARE = 1e-12  # keeps the slope of the root finite where a Gaussian is seen edge on


def project_gaussians(
    means: Tensor, axes: Tensor, turn: Tensor, eye: Tensor, focal: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centres, shapes and depths of Gaussians with covariance A A^T in images.

    Differentiable in means and axes (not in the cameras), once. One thread and many give the same bits.

    Args:
        means: [N,3] in the world, float32 or float64.
        axes: [N,3,3], A = rotation times standard deviations.
        turn: [B,3,3] rows right, down, forward of the cameras in the world; eye: [B,3] their centres.
        focal: [B] focal lengths in pixels.
        height, width: size of the images in pixels.

    Returns:
        mean [B,N,2] in pixels, x to the right, y down; conic [B,N,3], entries xx, xy, yy of the inverse covariance per squared pixel;
        depth [B,N] along the viewing axis in world units, 0 where it is below 0.05 and so not drawn; shrink [B,N] in (0,1], by how much
        the blur spreads what the Gaussian covers (Mip-Splatting, arXiv 2311.16493).

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or the image has no pixel.
    """
    check_shape("means", means, None, 3)
    check_shape("axes", axes, means.shape[0], 3, 3)
    check_shape("turn", turn, None, 3, 3)
    check_shape("eye", eye, turn.shape[0], 3)
    check_shape("focal", focal, turn.shape[0])
    check_floating(means=means, axes=axes, turn=turn, eye=eye, focal=focal)
    check_device(means=means, axes=axes, turn=turn, eye=eye, focal=focal)
    if height < 1 or width < 1:
        raise ValueError(f"the image must have at least one pixel, got {height} x {width}")
    _library.warn_if_reference(means)
    return torch.ops.threedgen.project_gaussians(means, axes, turn, eye, focal, height, width)


def project_gaussians_reference(
    means: Tensor, axes: Tensor, turn: Tensor, eye: Tensor, focal: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The twin of `project_gaussians` in torch, differentiable by autograd."""
    x, y, z = ((means - eye[:, None]) @ turn.mT).unbind(-1)
    drawn = z > NEAREST
    z = torch.where(drawn, z, 1)
    focal = focal[:, None]
    slope_x, slope_y = x / z, y / z
    mean = torch.stack([focal * slope_x + 0.5 * width, focal * slope_y + 0.5 * height], -1)
    limit_x, limit_y = 0.5 * BEYOND * width / focal, 0.5 * BEYOND * height / focal
    slope_x, slope_y = slope_x.clamp(-limit_x, limit_x), slope_y.clamp(-limit_y, limit_y)
    scale = (focal / z)[..., None]
    right, down, forward = turn[:, None].unbind(-2)
    jacobian = torch.stack([scale * (right - slope_x[..., None] * forward), scale * (down - slope_y[..., None] * forward)], -2)
    spread = jacobian @ axes
    xx, yy = spread.square().sum(-1).unbind(-1)
    xy = (spread[..., 0, :] * spread[..., 1, :]).sum(-1)
    sharp = (xx * yy - xy * xy).clamp(min=0)
    xx, yy = xx + BLUR, yy + BLUR
    determinant = xx * yy - xy * xy
    conic = torch.stack([yy, -xy, xx], -1) / determinant[..., None]
    shrink = (sharp / determinant).clamp(min=LEAST_SHARE).sqrt()
    return mean, conic, torch.where(drawn, z, 0), shrink


def _backward_reference(
    grad_mean: Tensor,
    grad_conic: Tensor,
    grad_depth: Tensor,
    grad_shrink: Tensor,
    means: Tensor,
    axes: Tensor,
    turn: Tensor,
    eye: Tensor,
    focal: Tensor,
    height: int,
    width: int,
) -> tuple[Tensor, Tensor]:
    """Gradients of `project_gaussians_reference` to means and axes."""
    with torch.enable_grad():
        values = means.detach().requires_grad_(), axes.detach().requires_grad_()
        outputs = project_gaussians_reference(*values, turn, eye, focal, height, width)
        to_means, to_axes = torch.autograd.grad(outputs, values, (grad_mean, grad_conic, grad_depth, grad_shrink))
    return to_means, to_axes


def _setup_context(ctx, inputs, output) -> None:
    *tensors, ctx.height, ctx.width = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, *grads: Tensor):
    gradients = torch.ops.threedgen.project_gaussians_backward(*grads, *ctx.saved_tensors, ctx.height, ctx.width)
    return *gradients, None, None, None, None, None


def _no_double_backward(ctx, *grads: Tensor):
    raise NotImplementedError("project_gaussians has no second derivative: take the gradient without create_graph")


def _fake(
    means: Tensor, axes: Tensor, turn: Tensor, eye: Tensor, focal: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    seen = (turn.shape[0], means.shape[0])
    return means.new_empty(*seen, 2), means.new_empty(*seen, 3), means.new_empty(seen), means.new_empty(seen)


def _fake_backward(
    mean: Tensor, conic: Tensor, depth: Tensor, shrink: Tensor, means: Tensor, axes: Tensor, *_: object
) -> tuple[Tensor, Tensor]:
    return means.new_empty(means.shape), axes.new_empty(axes.shape)


_library.register("project_gaussians", project_gaussians_reference, _fake)
_library.register("project_gaussians_backward", _backward_reference, _fake_backward)
_library.register_autograd("project_gaussians", _backward, _setup_context)
_library.register_autograd("project_gaussians_backward", _no_double_backward, lambda ctx, inputs, output: None)
