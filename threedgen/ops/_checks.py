"""Checks of the operators' arguments: one line that names the argument, what it is and what it should be."""

from __future__ import annotations

import torch
from torch import Tensor


def check_shape(name: str, tensor: Tensor, *sizes: int | None) -> None:
    """ValueError unless the tensor has these sizes; None matches any size."""
    if tensor.dim() != len(sizes) or any(want is not None and want != got for want, got in zip(sizes, tensor.shape, strict=True)):
        wanted = ",".join("*" if size is None else str(size) for size in sizes)
        raise ValueError(f"{name} must have shape [{wanted}], got {list(tensor.shape)}")


def check_dtype(name: str, tensor: Tensor, *dtypes: torch.dtype) -> None:
    """ValueError unless the tensor has one of these dtypes."""
    if tensor.dtype not in dtypes:
        raise ValueError(f"{name} must be {' or '.join(str(dtype).removeprefix('torch.') for dtype in dtypes)}, got {tensor.dtype}")


def check_floating(**tensors: Tensor) -> None:
    """ValueError unless all tensors are float32 or all are float64."""
    for name, tensor in tensors.items():
        check_dtype(name, tensor, torch.float32, torch.float64)
    if len({tensor.dtype for tensor in tensors.values()}) > 1:
        raise ValueError("one dtype is needed, got " + ", ".join(f"{name} {tensor.dtype}" for name, tensor in tensors.items()))


def check_device(**tensors: Tensor) -> None:
    """ValueError unless all tensors are on one device."""
    if len({tensor.device for tensor in tensors.values()}) > 1:
        raise ValueError("one device is needed, got " + ", ".join(f"{name} on {tensor.device}" for name, tensor in tensors.items()))


def check_step(step: float) -> None:
    """ValueError unless a step length is positive and finite."""
    if not 0 < step < float("inf"):
        raise ValueError(f"step must be positive and finite, got {step}")


def check_faces(faces: Tensor, vertices: int, face: Tensor, images: int) -> None:
    """ValueError unless faces [F,3] name existing vertices, and face [B,H,W] existing faces or -1."""
    check_shape("faces", faces, None, 3)
    check_shape("face", face, images, None, None)
    check_dtype("faces", faces, torch.int64)
    check_dtype("face", face, torch.int64)
    if faces.device.type == "meta":
        return
    if len(faces) and (int(faces.min()) < 0 or int(faces.max()) >= vertices):
        raise ValueError(f"faces name vertices outside 0..{vertices - 1}")
    if face.numel() and (int(face.min()) < -1 or int(face.max()) >= len(faces)):
        raise ValueError(f"face names faces outside -1..{len(faces) - 1}")
