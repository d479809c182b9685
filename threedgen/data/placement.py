"""Where the data lies in the scene: the point that becomes the origin, and the scale that brings the object into the unit sphere."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from threedgen.cameras import Cameras
from threedgen.data.posed_images import PosedImages
from threedgen.errors import UserError

FITTED_RADIUS = 0.95  # of the object's hull in the scene, which is a little larger than itself
PARALLEL = 1e-3  # smallest eigenvalue, per camera, of the axes' normal equations from which on they meet in a point
CELLS = 48  # of the grid that is carved, along an axis
CARVING_VIEWS, CARVING_PIXELS = 32, 128


@dataclass(frozen=True)
class Placement:
    """scene = (data - center) * scale.

    Attributes:
        center: [3] float64 in units of the data.
        scale: scene radii of one unit of the data.
    """

    center: Tensor
    scale: float

    def cameras(self, cameras: Cameras) -> Cameras:
        """Cameras of the data as they stand in the scene."""
        c2w = cameras.c2w.clone()
        c2w[:, :3, 3] = ((c2w[:, :3, 3].double() - self.center) * self.scale).to(c2w.dtype)
        return replace(cameras, c2w=c2w)

    def images(self, images: PosedImages) -> PosedImages:
        """Images of the data as they stand in the scene."""
        depth = None if images.depth is None else images.depth * self.scale
        return replace(images, depth=depth, cameras=self.cameras(images.cameras))

    def data_from_scene(self) -> Tensor:
        """[4,4] float64 matrix that brings points of the scene back to the data."""
        matrix = torch.eye(4, dtype=torch.float64)
        matrix[:3, :3] /= self.scale
        matrix[:3, 3] = self.center
        return matrix


def place(images: PosedImages, center: list[float], scale: float | str) -> Placement:
    """The given placement, what is left open found by the images.

    With alpha, the object is the visual hull of the silhouettes: the middle of its bounding box becomes the origin, and its farthest
    point comes to lie at 0.95. Without, the point nearest to all optical axes becomes the origin, and the sphere that the camera with
    the median reach sees whole gets the radius 0.95.

    Args:
        images: in units of the data.
        center: [x, y, z] in units of the data, or [] to find it.
        scale: scene radii of one unit of the data, or "auto".

    Raises:
        UserError: the optical axes do not meet, or no point lies in all silhouettes.
    """
    if center and scale != "auto":
        return Placement(torch.tensor(center, dtype=torch.float64), float(scale))
    given = torch.tensor(center, dtype=torch.float64) if center else None
    start = nearest_to_axes(images.cameras) if given is None else given
    if images.has_alpha:
        middle, radius = carved_bounds(images, start)
        found = middle if given is None else given
        radius = radius + float((middle - found).norm())
    else:
        found, radius = start, float(_reach(images.cameras, start).median())
    return Placement(found, FITTED_RADIUS / radius if scale == "auto" else float(scale))


def nearest_to_axes(cameras: Cameras) -> Tensor:
    """[3] float64 point with the least sum of squared distances to the optical axes; UserError where they are parallel."""
    axis, eye = cameras.c2w[:, :3, 2].double(), cameras.positions.double()
    across = torch.eye(3, dtype=torch.float64) - axis[:, :, None] * axis[:, None]
    normal = across.sum(0)
    if float(torch.linalg.eigvalsh(normal)[0]) < PARALLEL * len(cameras):
        raise UserError("the cameras look in parallel, so that no centre can be found: give guidance.center and guidance.scale")
    return torch.linalg.solve(normal, (across @ eye[..., None]).sum(0))[:, 0]


def carved_bounds(images: PosedImages, start: Tensor) -> tuple[Tensor, float]:
    """Middle [3] of the bounding box of the visual hull, and the distance of its farthest point from there, in units of the data.

    Cells of a grid stay where no view sees background alone; a second grid over the box of the first one is finer.

    Args:
        start: [3] middle of the first grid, whose half side is the reach of the farthest camera.

    Raises:
        UserError: nothing is left.
    """
    views = torch.linspace(0, len(images) - 1, min(len(images), CARVING_VIEWS)).round().long()
    size = min(1.0, CARVING_PIXELS / max(images.cameras.height, images.cameras.width))
    cameras = images.cameras[views].resized(round(images.cameras.height * size), round(images.cameras.width * size))
    # Few pixels, each covered where one of its own is.
    covered = F.adaptive_max_pool2d((images.alpha[views, ..., 0] > 0.5).float()[:, None], (cameras.height, cameras.width))
    reach = _reach(cameras, start)
    half, middle = reach.max().expand(3), start
    kept = start[None]
    for _ in range(2):
        kept, cell = _carved(cameras, covered, middle, half, float(reach.min()))
        low, high = kept.amin(0) - cell / 2, kept.amax(0) + cell / 2
        middle, half = (low + high) / 2, (high - low) / 2
    return middle, float((kept - middle).norm(dim=-1).max())


def _carved(cameras: Cameras, covered: Tensor, middle: Tensor, half: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """Centres [N,3] of the cells of a box that no view shows as background and that most views show, and a cell's sides [3]."""
    cell = 2 * half / CELLS
    axis = (torch.arange(CELLS, dtype=torch.float64) + 0.5) * 2 / CELLS - 1
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3) * half + middle
    # Half a diagonal of a cell in pixels: a cell stays where any part of it may be covered, so that nothing thin is lost.
    margin = math.ceil(float(cell.norm()) / 2 / (2 * reach) * min(cameras.height, cameras.width))
    wide = F.max_pool2d(covered, 2 * margin + 1, stride=1, padding=margin)[:, 0] > 0
    shown = torch.zeros(len(points), dtype=torch.long)
    for view in range(len(cameras)):
        pixel, depth = cameras[[view]].project(points.float())
        column, row = pixel[0].unbind(-1)
        inside = (depth[0] > 0) & (row >= 0) & (row < cameras.height) & (column >= 0) & (column < cameras.width)
        background = inside.clone()
        background[inside] = ~wide[view, row[inside].long(), column[inside].long()]
        points, shown = points[~background], (shown + inside)[~background]
    points = points[2 * shown > len(cameras)]
    if not len(points):
        raise UserError("no point of space lies in all silhouettes: check the poses and the alpha, or give guidance.center and scale")
    return points, cell


def _reach(cameras: Cameras, center: Tensor) -> Tensor:
    """[V] radius of the sphere around a point that fills the shorter side of each picture, were the camera to look at it."""
    half = torch.tan(cameras.fovy / 2).double() * min(1.0, cameras.width / cameras.height)
    return (cameras.positions.double() - center).norm(dim=-1) * half
