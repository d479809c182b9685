"""The processes that share the steps of a run, one a device: which rows each works on, and how their results become one.

The loss of a step is the same number in all of them. Each has the gradient of its own rows in it alone, and gradients are added up: what
one process would have. Where there is one process, nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch import distributed as dist

from threedgen.errors import UserError

_apart: list[bool] = []  # not empty while a process works on its own


def count() -> int:
    """How many processes share the steps; 1 while this one works `alone`."""
    return dist.get_world_size() if not _apart and dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Index of this process, from 0."""
    return dist.get_rank() if count() > 1 else 0


@contextmanager
def alone() -> Iterator[None]:
    """For what only one of the processes does: nothing in it waits for the others."""
    _apart.append(True)
    try:
        yield
    finally:
        _apart.pop()


def part(rows: int, unit: int = 1) -> slice:
    """The consecutive rows of this process, of as equal parts as there can be that keep units of so many rows together.

    UserError where there are fewer units than processes.
    """
    units = rows // unit
    if units < count():
        raise UserError(f"a step has {units} views or rays, which cannot be divided among {count()} devices: set devices=1")
    return slice(units * rank() // count() * unit, units * (rank() + 1) // count() * unit)


def gathered(own: Tensor, rows: int, unit: int = 1) -> Tensor:
    """[rows,...] of all processes, each of which has the rows of its `part`; gradient flows to the own ones."""
    if count() == 1:
        return own
    mine = part(rows, unit)
    every = own.new_zeros(rows, *own.shape[1:])
    every[mine] = own.detach()
    dist.all_reduce(every)  # the others have zeros here, so that the sum is what each has
    return torch.cat([every[: mine.start], own, every[mine.stop :]])


def divided(function: Callable[[slice], Tensor], rows: int, unit: int = 1) -> Tensor:
    """[rows,...] of a function of a slice of rows, of which each process computes its part; all of it where there are too few."""
    if rows // unit < count():
        return function(slice(0, rows))
    return gathered(function(part(rows, unit)), rows, unit)


def added(own: Tensor) -> Tensor:
    """The sum over the processes, with gradient to the own summand."""
    if count() == 1:
        return own
    total = own.detach().clone()
    dist.all_reduce(total)
    return own + (total - own.detach())


def alike(value: Tensor) -> Tensor:
    """What all processes have computed in the same way; its gradient, which will be added up, is divided among them."""
    return value if count() == 1 else value.detach() + (value - value.detach()) / count()


@torch.no_grad()
def add_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Put the sum over the processes in place of the gradients; none where no process has any. The same bits in all of them."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if count() == 1 or not trained:
        return
    there = trained[0].new_tensor([parameter.grad is not None for parameter in trained])
    values = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    flat = torch.cat([there, *(value.flatten() for value in values)])
    dist.all_reduce(flat)
    somewhere, *sums = flat.split([len(trained), *(value.numel() for value in values)])
    for parameter, total, found in zip(trained, sums, somewhere.tolist(), strict=True):
        parameter.grad = total.view_as(parameter) if found else None
