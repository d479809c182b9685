"""A surface from signed distances on a deformable grid of weighted cubes (FlexiCubes, arXiv 2308.05371), drawn by rasterization."""

from __future__ import annotations

import torch
from torch import nn

from threedgen.config.schema import FlexiCubesSettings
from threedgen.ops.flexicubes import WEIGHTS, cube_grid, flexicubes
from threedgen.representations.base import Mesh
from threedgen.representations.distance_grid import DistanceGrid
from threedgen.representations.initial_shape import Distance


class FlexiCubes(DistanceGrid):
    """Signed distance and offset at every corner of a grid of cubes, and weights of every cube; offsets reach half a cell.

    The weights say where in its cube a vertex of the surface lies, and along which diagonal a crease runs. They start at 0.
    """

    settings: FlexiCubesSettings

    def __init__(self, settings: FlexiCubesSettings, seed: int = 0, hull: Distance | None = None) -> None:
        """`hull` is what the shape hull starts from; UserError where a file of the settings cannot be read."""
        super().__init__(settings, cube_grid(settings.resolution), 1 / 2, seed, hull)
        self.weights = nn.Parameter(torch.zeros(settings.resolution**3, WEIGHTS))

    def surface(self) -> Mesh:
        """The mesh, with gradient to distances, offsets and weights."""
        return Mesh(*flexicubes(self.distances(), self.moved(), self.weights, self.settings.resolution))

    def shape_parameters(self) -> list[nn.Parameter]:
        return [self.sdf, self.deformation, self.weights]
