"""Values at the vertices of a mesh, seen at the pixels of its images."""

from __future__ import annotations

import torch
from torch import Tensor

from threedgen.ops import _library
from threedgen.ops._checks import check_device, check_faces, check_floating, check_shape


def interpolate(attributes: Tensor, faces: Tensor, face: Tensor, weights: Tensor) -> Tensor:
    """Means of the attributes of a face's vertices at every pixel, weighted by the pixel's place on the face.

    Differentiable once, in `attributes` and `weights`; with weights from `barycentric` the gradient goes on to the positions. On CUDA
    the order of sums in the gradient to the attributes varies from run to run.

    Args:
        attributes: [V,C] of all images or [B,V,C], float32 or float64.
        faces: [F,3] int64 vertex indices.
        face: [B,H,W] int64 as from `rasterize`, -1 where there is none.
        weights: [B,H,W,3] from `rasterize` (no gradient) or `barycentric`, dtype of `attributes`.

    Returns:
        [B,H,W,C] in the dtype of `attributes`; zeros where there is no face.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or an index points nowhere.
    """
    if attributes.dim() == 2:
        attributes = attributes.expand(face.shape[0] if face.dim() else 0, -1, -1)
    check_shape("attributes", attributes, None, None, None)
    check_floating(attributes=attributes, weights=weights)
    check_device(attributes=attributes, faces=faces, face=face, weights=weights)
    check_faces(faces, attributes.shape[1], face, attributes.shape[0])
    check_shape("weights", weights, *face.shape, 3)
    _library.warn_if_reference(attributes)
    return torch.ops.threedgen.interpolate(attributes, faces, face, weights)


def interpolate_reference(attributes: Tensor, faces: Tensor, face: Tensor, weights: Tensor) -> Tensor:
    """The twin of `interpolate` in torch, attributes [B,V,C], differentiable by autograd."""
    covered = torch.nonzero(face >= 0, as_tuple=True)
    corners = attributes[covered[0][:, None], faces[face[covered]]]
    mean = (corners * weights[covered][..., None]).sum(1)
    return attributes.new_zeros(*face.shape, attributes.shape[2]).index_put(covered, mean)


def _backward_reference(grad: Tensor, attributes: Tensor, faces: Tensor, face: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `interpolate_reference` to attributes [B,V,C] and weights [B,H,W,3]."""
    covered = torch.nonzero(face >= 0, as_tuple=True)
    place = (covered[0][:, None], faces[face[covered]])
    grad_weights = (attributes[place] * grad[covered][:, None]).sum(-1)
    grad_attributes = weights[covered][..., None] * grad[covered][:, None]
    return (
        attributes.new_zeros(attributes.shape).index_put(place, grad_attributes, accumulate=True),
        torch.zeros_like(weights).index_put(covered, grad_weights),
    )


def _setup_context(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad: Tensor):
    grad_attributes, grad_weights = torch.ops.threedgen.interpolate_backward(grad, *ctx.saved_tensors)
    return grad_attributes, None, None, grad_weights


def _fake(attributes: Tensor, faces: Tensor, face: Tensor, weights: Tensor) -> Tensor:
    return attributes.new_empty(*face.shape, attributes.shape[2])


def _fake_backward(grad: Tensor, attributes: Tensor, faces: Tensor, face: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    return attributes.new_empty(attributes.shape), weights.new_empty(weights.shape)


_library.register("interpolate", interpolate_reference, _fake)
_library.register("interpolate_backward", _backward_reference, _fake_backward)
_library.register_autograd("interpolate", _backward, _setup_context)
