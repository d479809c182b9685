"""Memory for time: a computation that keeps nothing for its gradient and runs again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def recomputed(run: Callable[[], tuple[Tensor, ...]], parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """What `run` gives, with gradient to the parameters: the one it would have had, for the price of a second run.

    Between the two passes memory holds the outputs alone. So the peak of many of them, one after another, is that of the largest
    (gradient checkpointing; Chen et al. 2016, arXiv 1604.06174).

    Args:
        run: deterministic; must give the same again as long as the parameters are what they were.
        parameters: leaves that the outputs depend on; what else they depend on gets no gradient. RuntimeError from backward where one
            was written to in between.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not (torch.is_grad_enabled() and trained):
        return run()
    return _Recomputed.apply(run, *trained)  # type: ignore[return-value]


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, run: Callable[[], tuple[Tensor, ...]], *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.run = run
        ctx.save_for_backward(*parameters)
        # Detached: autograd marks what is returned here, and a tensor of `run` that outlives it would lead back into this function.
        return tuple(output.detach() for output in run())

    @staticmethod
    def backward(ctx, *grads: Tensor):  # type: ignore[override]
        parameters = ctx.saved_tensors
        with torch.enable_grad():
            outputs = ctx.run()
        pairs = [(output, grad) for output, grad in zip(outputs, grads, strict=True) if output.requires_grad]
        if not pairs:
            return None, *(None for _ in parameters)
        moving, pulls = zip(*pairs, strict=True)
        return None, *torch.autograd.grad(moving, parameters, pulls, allow_unused=True)
