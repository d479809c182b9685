"""What a step needs to go wrong without harm: whether numbers are finite, buffers to put back, smaller chunks when memory runs out."""

from __future__ import annotations

import errno
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from threedgen.errors import UserError
from threedgen.representations.base import Representation

LEAST_CHUNK = 4096  # samples rendered at once, below which halving saves nothing


def are_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no entry is NaN or infinite, nor so large (1e19) that its square is."""
    return math.isfinite(norm_of(tensors))


@torch.no_grad()
def norm_of(tensors: Iterable[Tensor]) -> float:
    """Euclidean norm of all floating entries together; one pass over them, one wait for the device."""
    return float(nn.utils.get_total_norm([tensor for tensor in tensors if tensor.is_floating_point()]))


def buffers_of(module: nn.Module) -> dict[str, Tensor]:
    """Copies of the buffers that are part of a state, which the passes of a step may change."""
    state = module.state_dict(keep_vars=True)
    return {name: value.clone() for name, value in state.items() if not isinstance(value, nn.Parameter)}


def put_back(module: nn.Module, buffers: dict[str, Tensor]) -> None:
    """Undo what was done to the buffers of a module since `buffers_of`."""
    for name, value in buffers.items():
        module.get_buffer(name).copy_(value)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device or the machine had no memory left for a tensor."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in said or f"Error code {errno.ENOMEM}" in said


def halve_chunks(scenes: Sequence[Representation], step: int) -> int:
    """Let scenes render half as many samples at once (`chunk_samples`), of which no gradient depends; how many these are now.

    Raises:
        UserError: they do not render in chunks, or the chunks are as small as they get.
    """
    advice = "lower cameras.resolution, cameras.views or the size of the representation"
    chunks = [int(getattr(scene, "chunk_samples", 0)) for scene in scenes]
    if not all(chunks):
        raise UserError(f"memory ran out in step {step}, and this representation cannot be rendered in smaller parts: {advice}")
    if min(chunks) < 2 * LEAST_CHUNK:
        raise UserError(f"memory ran out in step {step}, also with {min(chunks)} samples rendered at once: {advice}")
    for scene in scenes:
        setattr(scene, "chunk_samples", min(chunks) // 2)  # noqa: B010 (an attribute of some representations)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return min(chunks) // 2
