"""What is seen behind the object: a colour for every ray."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from threedgen.draws import Draws

SOLID = {"white": 1.0, "grey": 0.5, "black": 0.0}


def direction_basis(directions: Tensor) -> Tensor:
    """[...,9] real polynomials of degree at most 2 of unit directions [...,3] (the span of spherical harmonics to degree 2)."""
    x, y, z = directions.unbind(-1)
    return torch.stack([torch.ones_like(x), x, y, z, x * y, y * z, x * z, x * x - y * y, 3 * z * z - 1], -1)


class Background(nn.Module):
    """Colour [...,3] behind rays with unit directions [...,3].

    Kinds: "white", "grey", "black"; "learned" is a smooth colour over the directions, white at first; "random" is a new plain
    colour for every view and step while training (so that matter cannot hide as background) and white otherwise.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        if kind == "learned":
            self.weight = nn.Parameter(torch.zeros(9, 3))
            self.bias = nn.Parameter(torch.full((3,), 4.0))
        elif kind not in SOLID and kind != "random":
            raise ValueError(f"unknown background '{kind}': white, grey, black, learned or random")

    def forward(self, directions: Tensor, random_rgb: Tensor | None = None) -> Tensor:
        """Colours behind the rays; `random_rgb` [...,3] is what the kind "random" shows, None shows white."""
        if self.kind == "learned":
            return torch.sigmoid(direction_basis(directions) @ self.weight + self.bias)
        if self.kind == "random" and random_rgb is not None:
            return random_rgb
        return torch.full_like(directions, SOLID.get(self.kind, 1.0))

    def random_rgb(self, draws: Draws | None, height: int, width: int) -> Tensor | None:
        """[B,H,W,3] a plain colour for every view of the draws; None where nothing is random."""
        if draws is None or self.kind != "random":
            return None
        return draws.uniform("background", (3,))[:, None, None].expand(-1, height, width, -1)

    def behind(self, directions: Tensor, draws: Draws | None) -> Tensor:
        """[B,H,W,3] colours behind the rays [B,H,W,3] of the views of a step."""
        return self(directions, self.random_rgb(draws, *directions.shape[1:3]))
