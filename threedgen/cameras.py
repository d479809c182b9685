"""Pinhole cameras and their samplers.

World: right-handed, z up, azimuth 0 looks from +x, elevation towards +z; scenes live in the unit sphere.
Cameras: `c2w [B,4,4]` with OpenGL axes (x right, y up, looks along -z), `fovy [B]` in radians.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from threedgen.config.schema import OrbitSettings
from threedgen.draws import Draws, generator
from threedgen.schedule import milestone


@dataclass(frozen=True)
class Cameras:
    """A batch of pinhole cameras that share an image size.

    Attributes:
        c2w: [B,4,4] camera-to-world matrices, OpenGL axes.
        fovy: [B] vertical fields of view in radians.
        height, width: image size in pixels.
    """

    c2w: Tensor
    fovy: Tensor
    height: int
    width: int

    def __len__(self) -> int:
        return self.c2w.shape[0]

    def __getitem__(self, views: Tensor | slice | list[int]) -> Cameras:
        return Cameras(self.c2w[views], self.fovy[views], self.height, self.width)

    def to(self, device: torch.device | str) -> Cameras:
        return Cameras(self.c2w.to(device), self.fovy.to(device), self.height, self.width)

    def resized(self, height: int, width: int) -> Cameras:
        """The same cameras with another image size (the vertical field of view stays)."""
        return Cameras(self.c2w, self.fovy, height, width)

    @property
    def positions(self) -> Tensor:
        """[B,3] camera centres in the world."""
        return self.c2w[:, :3, 3]

    def rays(self) -> tuple[Tensor, Tensor]:
        """Origins and unit directions [B,H,W,3] through the pixel centres, row 0 at the top of the image."""
        view = torch.arange(len(self), device=self.c2w.device)[:, None, None]
        row = torch.arange(self.height, device=self.c2w.device)[None, :, None]
        column = torch.arange(self.width, device=self.c2w.device)[None, None, :]
        return self.rays_through(*torch.broadcast_tensors(view, row, column))

    def rays_through(self, view: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
        """Origins and unit directions [...,3] through the centres of the pixels (view, row, column), integers of shape [...]."""
        half = torch.tan(0.5 * self.fovy)[view]
        y = (1 - 2 * (row.to(half.dtype) + 0.5) / self.height) * half
        x = (2 * (column.to(half.dtype) + 0.5) / self.width - 1) * half * (self.width / self.height)
        local = torch.stack([x, y, -torch.ones_like(x)], -1)
        rotation = self.c2w[:, :3, :3][view]
        directions = F.normalize((rotation @ local[..., None])[..., 0], dim=-1)
        return self.c2w[:, :3, 3][view], directions

    @property
    def focal(self) -> Tensor:
        """[B] focal length in pixels."""
        return 0.5 * self.height / torch.tan(0.5 * self.fovy)

    def image_axes(self) -> Tensor:
        """[B,3,3] rows are the world directions right, down and forward, as images count."""
        return (self.c2w[:, :3, :3] * self.c2w.new_tensor([1.0, -1.0, -1.0])).mT

    def from_eye(self, points: Tensor) -> Tensor:
        """[B,N,3] world points [N,3] seen from the eye: to the right, down, and forward (the depth), world units."""
        axes = self.image_axes()
        return points @ axes.mT - (axes @ self.positions[..., None]).mT

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Where the views show world points [N,3].

        Returns:
            [B,N,2] column and row in pixels (k + 0.5 is the centre of pixel k), of no meaning where the depth is not positive;
            [B,N] depth along the viewing axis, world units.
        """
        x, y, z = self.from_eye(points).unbind(-1)
        return self.pixels(x / z, y / z), z

    def pixels(self, right: Tensor, down: Tensor) -> Tensor:
        """[B,N,2] column and row of slopes [B,N] from the viewing axis."""
        focal = self.focal[:, None]
        return torch.stack([focal * right + 0.5 * self.width, focal * down + 0.5 * self.height], -1)

    def view_projection(self, near: float = 0.1, far: float = 100.0) -> Tensor:
        """[B,4,4] world to clip space (OpenGL: x right, y up, z in [-w, w], nearer is smaller)."""
        f = 1.0 / torch.tan(0.5 * self.fovy)
        projection = self.c2w.new_zeros(len(self), 4, 4)
        projection[:, 0, 0] = f * self.height / self.width
        projection[:, 1, 1] = f
        projection[:, 2, 2] = (far + near) / (near - far)
        projection[:, 2, 3] = 2 * far * near / (near - far)
        projection[:, 3, 2] = -1
        return projection @ torch.linalg.inv(self.c2w)


def orbit(azimuth: Tensor, elevation: Tensor, distance: Tensor) -> Tensor:
    """[B,4,4] c2w of cameras on an orbit that look at the origin with z up.

    Args:
        azimuth, elevation: [B] in degrees; |elevation| < 90.
        distance: [B] from the origin.
    """
    azimuth, elevation = torch.deg2rad(azimuth), torch.deg2rad(elevation)
    outward = torch.stack([elevation.cos() * azimuth.cos(), elevation.cos() * azimuth.sin(), elevation.sin()], -1)
    up = outward.new_tensor([0.0, 0.0, 1.0]).expand_as(outward)
    right = F.normalize(torch.linalg.cross(up, outward), dim=-1)
    c2w = torch.zeros(len(azimuth), 4, 4, dtype=outward.dtype, device=outward.device)
    c2w[:, :3, 0] = right
    c2w[:, :3, 1] = torch.linalg.cross(outward, right)
    c2w[:, :3, 2] = outward
    c2w[:, :3, 3] = outward * distance[:, None]
    c2w[:, 3, 3] = 1
    return c2w


def orbit_cameras(azimuth: list[float], elevation: float, distance: float, fovy: float, height: int, width: int) -> Cameras:
    """Cameras of one ring; angles in degrees."""
    a = torch.tensor(azimuth, dtype=torch.float32)
    c2w = orbit(a, torch.full_like(a, elevation), torch.full_like(a, distance))
    return Cameras(c2w, torch.full_like(a, math.radians(fovy)), height, width)


class OrbitSampler:
    """Draws the cameras of a step from `OrbitSettings`; the same (seed, step) gives the same cameras.

    One draw of offset, elevation, distance and field of view is shared by the views of a step, whose azimuths divide the
    range evenly: with four views over the full circle they are 90 degrees apart, as multi-view priors were trained.

    With strata, the ranges of offset and elevation are divided into cells, and cameras are drawn without replacement (Repeated
    Random Sampling, arXiv 2305.18424): every epoch of as many turns as there are cells visits each of them once, in an order of its own.
    """

    def __init__(self, settings: OrbitSettings) -> None:
        self.settings = settings

    def sample(self, draws: Draws, turn: int | None = None) -> Cameras:
        """Cameras of the views in `draws.views`, at the resolution of the step.

        Args:
            turn: which draw of cameras this is, from 0, where not every step is one; it alone decides on the cell.
        """
        s = self.settings
        offset, height = self.shares(draws, draws.step if turn is None else turn)
        low, high = s.azimuth
        share = (torch.tensor(draws.views, dtype=torch.float32) + offset) / s.views
        azimuth = low + share * (high - low)
        elevation = (height * (s.elevation[1] - s.elevation[0]) + s.elevation[0]).expand_as(azimuth)
        distance = draws.shared_uniform("distance", (), *s.distance).cpu().expand_as(azimuth)
        fovy = torch.deg2rad(draws.shared_uniform("fovy", (), *s.fovy).cpu()).expand_as(azimuth)
        size = int(milestone(s.resolution, draws.step))
        return Cameras(orbit(azimuth, elevation, distance), fovy, size, size).to(draws.device)

    def shares(self, draws: Draws, turn: int) -> tuple[Tensor, Tensor]:
        """Two 0-dimensional shares in [0,1) of the ranges of azimuth offset and elevation; with strata, in the cell of the turn."""
        offset, height = (draws.shared_uniform(purpose).cpu() for purpose in ("azimuth", "elevation"))
        if not self.settings.strata:
            return offset, height
        row, column = self.cell(draws.seed, turn)
        return (column + offset) / self.settings.strata, (row + height) / self.settings.strata_elevation

    def cell(self, seed: int, turn: int) -> tuple[int, int]:
        """Elevation row and azimuth column of the cell of a turn."""
        cells = self.settings.strata * self.settings.strata_elevation
        epoch, place = divmod(turn, cells)
        order = torch.randperm(cells, generator=generator(seed, epoch, -1, "strata"))
        return divmod(int(order[place]), self.settings.strata)

    def turntable(self, frames: int, size: int) -> Cameras:
        """Cameras evenly around the object at the middle of the sampler's ranges, azimuth 0 first."""
        s = self.settings
        azimuth = [360.0 * i / frames for i in range(frames)]
        return orbit_cameras(azimuth, sum(s.elevation) / 2, sum(s.distance) / 2, sum(s.fovy) / 2, size, size)
