"""Where on its face a pixel lies, as a differentiable function of the vertices.

With the pixel centre p in [-1,1]^2 and d_k = (x_k - p_x w_k, y_k - p_y w_k) for the vertices (x,y,z,w) of the face in clip space, the
perspective-correct weights are u_k = E_k / (E_0 + E_1 + E_2), E_k = d_{k+1} x d_{k+2}: Cramer's rule for sum_k u_k (x_k, y_k, w_k)
parallel to (p_x, p_y, 1), homogeneous as in Olano and Greer 1997. So there is no division by w, and the gradient is that of a ratio of
polynomials. `rasterize` finds the same weights for positions snapped to 1/256 of a pixel, and those have no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from threedgen.ops import _library
from threedgen.ops._checks import check_device, check_faces, check_floating, check_shape

EDGE_ON = 1e-9


def barycentric(clip: Tensor, faces: Tensor, face: Tensor) -> Tensor:
    """Perspective-correct weights of the vertices of the face at every pixel centre.

    Weights are in [0,1] and sum to 1: a centre a little outside of its face, which happens because `rasterize` snaps positions, gets
    the weights of the face's border. Faces seen edge-on (twice the area below 1e-9 of the squared size) give no gradient. Differentiable
    once, in `clip`, where z plays no part; on CUDA the order of its sums varies from run to run.

    Args:
        clip: [B,V,4] float32 or float64, positions in clip space, w > 0 at the faces that are seen.
        faces: [F,3] int64 vertex indices.
        face: [B,H,W] int64 as from `rasterize`, -1 where there is none.

    Returns:
        [B,H,W,3] in the dtype of `clip`; zeros where there is no face.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or an index points nowhere.
    """
    check_shape("clip", clip, None, None, 4)
    check_floating(clip=clip)
    check_device(clip=clip, faces=faces, face=face)
    check_faces(faces, clip.shape[1], face, clip.shape[0])
    _library.warn_if_reference(clip)
    return torch.ops.threedgen.barycentric(clip, faces, face)


def barycentric_reference(clip: Tensor, faces: Tensor, face: Tensor) -> Tensor:
    """The twin of `barycentric` in torch, differentiable by autograd; computes in float64 as the kernels do."""
    covered = torch.nonzero(face >= 0, as_tuple=True)
    corners = clip.double()[covered[0][:, None], faces[face[covered]]]
    offset = corners[..., :2] - pixel_centres(face)[covered[1:]][:, None] * corners[..., 3:]
    edge = cross(offset.roll(-1, 1), offset.roll(-2, 1))
    edge = edge * torch.where((edge * corners[..., 3]).sum(-1, keepdim=True) < 0, -1.0, 1.0)
    inside = edge.clamp_min(0)
    total = inside.sum(-1, keepdim=True)
    weight = torch.where(total > 0, inside / torch.where(total > 0, total, 1.0), 1 / 3)
    flat = (edge.sum(-1) <= EDGE_ON * offset.square().sum((1, 2)))[:, None]
    weight = torch.where(flat, weight.detach(), weight)
    return weight.new_zeros(*face.shape, 3).index_put(covered, weight).to(clip.dtype)


def pixel_centres(face: Tensor) -> Tensor:
    """[H,W,2] float64 centres (x right, y up) in [-1,1] of the pixels of images [B,H,W]."""
    _, height, width = face.shape
    x = (2 * torch.arange(width, dtype=torch.float64, device=face.device) + 1) / width - 1
    y = 1 - (2 * torch.arange(height, dtype=torch.float64, device=face.device) + 1) / height
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def cross(a: Tensor, b: Tensor) -> Tensor:
    """[...] cross products of vectors [...,2] of the plane."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _backward_reference(grad: Tensor, clip: Tensor, faces: Tensor, face: Tensor) -> Tensor:
    """Gradient [B,V,4] of `barycentric_reference` to clip."""
    with torch.enable_grad():
        position = clip.detach().requires_grad_()
        return torch.autograd.grad(barycentric_reference(position, faces, face), position, grad)[0]


def _setup_context(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad: Tensor):
    return torch.ops.threedgen.barycentric_backward(grad, *ctx.saved_tensors), None, None


def _fake(clip: Tensor, faces: Tensor, face: Tensor) -> Tensor:
    return clip.new_empty(*face.shape, 3)


def _fake_backward(grad: Tensor, clip: Tensor, faces: Tensor, face: Tensor) -> Tensor:
    return clip.new_empty(clip.shape)


_library.register("barycentric", barycentric_reference, _fake)
_library.register("barycentric_backward", _backward_reference, _fake_backward)
_library.register_autograd("barycentric", _backward, _setup_context)
