"""What surfaces have in common that come from signed distances at the vertices of a deformable grid."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from threedgen.config.schema import DMTetSettings, FlexiCubesSettings
from threedgen.draws import Draws
from threedgen.errors import UserError
from threedgen.representations.base import Forgotten, Mesh
from threedgen.representations.handed_over import Albedo, fit_colours, surface_distance
from threedgen.representations.initial_shape import Distance, initial_distance
from threedgen.representations.surface import SurfaceRepresentation

SEED_SHARE = 0.005  # of the inner vertices that become solid again when the surface has vanished


class DistanceGrid(SurfaceRepresentation):
    """Signed distance and offset at every vertex of a grid over the cube of half side `radius`; colours in space.

    The offsets are limited by tanh, so that vertices cannot pass each other. The grid's boundary is always outside: the surface is closed.
    """

    positions: Tensor
    boundary: Tensor

    def __init__(
        self, settings: DMTetSettings | FlexiCubesSettings, positions: Tensor, reach: float, seed: int, hull: Distance | None
    ) -> None:
        """A grid with the shape of the settings.

        Args:
            positions: [N,3] of the grid's vertices in [-1,1]^3.
            reach: largest offset along an axis, in sides of a cell.
            hull: what the shape hull starts from.

        Raises:
            UserError: a file of the settings cannot be read.
        """
        super().__init__(settings, seed)
        s = settings
        self.register_buffer("positions", positions * s.radius, persistent=False)
        self.register_buffer("boundary", positions.abs().amax(-1) == 1, persistent=False)
        self.cell = 2 * s.radius / s.resolution
        self.reach = reach * self.cell
        self.sdf = nn.Parameter(initial_distance(s, self.positions, self.cell / 2, hull))
        self.deformation = nn.Parameter(torch.zeros_like(self.positions))
        self.vanished = False

    def distances(self) -> Tensor:
        """[N] signed distances of the grid's vertices, those on its boundary positive."""
        return torch.where(self.boundary, self.sdf.clamp_min(1e-3 * self.cell), self.sdf)

    def moved(self) -> Tensor:
        """[N,3] the grid's vertices with their offsets, world units."""
        return self.positions + torch.tanh(self.deformation) * self.reach

    def shape_parameters(self) -> list[nn.Parameter]:
        return [self.sdf, self.deformation]

    @torch.no_grad()
    def after_step(self, step: int, draws: Draws) -> Forgotten:
        """Where no vertex is inside any more, lower all distances until a two-hundredth of the inner ones is; says so the first time."""
        if bool((self.distances() < 0).any()):
            return {}
        inner = self.sdf[~self.boundary]
        if not bool(torch.isfinite(inner).all()):
            raise UserError("the distances of the surface are not finite: the optimization has diverged, lower the learning rate")
        self.sdf.sub_(inner.sort().values[int(SEED_SHARE * len(inner))] + 1e-3 * self.cell)
        if not self.vanished:
            message = (
                f"the surface vanished at step {step} and was seeded again where it is nearest: lower the learning rate or the penalties"
            )
            warnings.warn(message, RuntimeWarning, stacklevel=2)
        self.vanished = True
        return {self.sdf: torch.arange(len(self.sdf), device=self.sdf.device)}

    def take_shape(self, mesh: Mesh, albedo: Albedo, rng: torch.Generator) -> None:
        """Distances to the surface at the grid's vertices, all else of the shape as at the start; the colours are fitted."""
        with torch.no_grad():
            for parameter in self.shape_parameters():
                parameter.zero_()
            self.sdf.copy_(surface_distance(mesh, self.positions.cpu(), self.cell / 2, rng))
        fit_colours(self.color, mesh, albedo, self.cell / 2, rng)
