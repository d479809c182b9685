"""Keyed random draws: every draw comes from a generator keyed on (seed, step, view, purpose).

Nothing about a draw depends on how many draws came before it, so a resumed run repeats them exactly and a step is the same
on one device or on several. Draws are made on the CPU and moved, because CPU and CUDA generators differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def generator(seed: int, step: int, view: int, purpose: str) -> torch.Generator:
    """A CPU generator that depends on the four keys alone.

    Args:
        seed: the run's seed.
        step: global step, from 0.
        view: index of the view in the step, from 0; -1 for a draw all views share.
        purpose: what is drawn ("camera", "timestep", "noise", ...).
    """
    digest = hashlib.blake2b(f"{seed}|{step}|{view}|{purpose}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


class Draws:
    """The draws of one step: `uniform` and `normal` per view or shared.

    `views` are the global indices of the views this process renders, so that two processes with two views each draw what
    one process with four views draws.
    """

    def __init__(self, seed: int, step: int, views: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.seed, self.step, self.views, self.device = seed, step, tuple(views), torch.device(device)

    def of(self, rows: slice) -> Draws:
        """The draws of some of the views."""
        return Draws(self.seed, self.step, self.views[rows], self.device)

    def shared(self, purpose: str) -> torch.Generator:
        """Generator of a draw that all views of the step have in common."""
        return generator(self.seed, self.step, -1, purpose)

    def uniform(self, purpose: str, shape: Sequence[int] = (), low: float = 0.0, high: float = 1.0) -> Tensor:
        """[V, *shape] uniform in [low, high), one generator a view."""
        rows = [torch.rand(tuple(shape), generator=generator(self.seed, self.step, v, purpose)) for v in self.views]
        return (torch.stack(rows) * (high - low) + low).to(self.device)

    def normal(self, purpose: str, shape: Sequence[int] = ()) -> Tensor:
        """[V, *shape] standard normal, one generator a view."""
        rows = [torch.randn(tuple(shape), generator=generator(self.seed, self.step, v, purpose)) for v in self.views]
        return torch.stack(rows).to(self.device)

    def shared_uniform(self, purpose: str, shape: Sequence[int] = (), low: float = 0.0, high: float = 1.0) -> Tensor:
        """[*shape] uniform in [low, high), the same for all views."""
        return (torch.rand(tuple(shape), generator=self.shared(purpose)) * (high - low) + low).to(self.device)
