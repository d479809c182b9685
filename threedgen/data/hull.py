"""The visual hull of posed images: the space that lies in all silhouettes (Laurentini 1994), as signed distances."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from threedgen.data.posed_images import PosedImages
from threedgen.errors import UserError

CHUNK_POINTS = 65_536


def hull_distance(images: PosedImages) -> Callable[[Tensor], Tensor]:
    """Signed distances to the visual hull, as a function of points.

    A view knows how many pixels lie between a point's pixel and the outline. Times the size of a pixel at the point's depth, this is nearly
    the distance to the cone that the outline spans, and of all cones the farthest counts. A view whose picture does not hold a point says
    nothing on it; a point that most views do not hold is outside.

    Args:
        images: with alpha, in the scene.

    Returns:
        A function from points [N,3] to distances [N], negative inside, in the units of the cameras, both on the CPU.

    Raises:
        UserError: the images have no alpha.
    """
    if not images.has_alpha:
        raise UserError("the images have no alpha, so no silhouette can be carved: start from a sphere (representation.shape or .start)")
    outline = torch.from_numpy(np.stack([_pixels_to_outline(alpha) for alpha in images.alpha[..., 0].cpu().numpy() > 0.5]))
    cameras = images.cameras.to("cpu")

    def of_chunk(points: Tensor) -> Tensor:
        farthest, held = points.new_full((len(points),), -torch.inf), torch.zeros(len(points))
        for view in range(len(cameras)):
            (pixel,), (depth,) = cameras[[view]].project(points)
            column, row = pixel.unbind(-1)
            inside = (depth > 0) & (row >= 0) & (row < cameras.height) & (column >= 0) & (column < cameras.width)
            place = (2 * pixel / pixel.new_tensor([cameras.width, cameras.height]) - 1)[None, None]
            pixels = F.grid_sample(outline[view, None, None], place, padding_mode="border", align_corners=False)[0, 0, 0]
            farthest = torch.where(inside, torch.maximum(farthest, pixels * depth / cameras.focal[view]), farthest)
            held += inside
        return torch.where(2 * held > len(cameras), farthest, farthest.clamp_min(2 / cameras.height))

    return lambda points: torch.cat([of_chunk(part) for part in points.split(CHUNK_POINTS)])


def _pixels_to_outline(covered: np.ndarray) -> np.ndarray:
    """[H,W] float32 distance in pixels from a pixel's centre to the outline, negative where covered [H,W]."""
    if not covered.any():
        return np.full(covered.shape, float(max(covered.shape)), np.float32)
    padded = np.pad(covered, 1, mode="edge")  # what leaves the picture goes on beyond it
    outside, inside = (np.asarray(ndimage.distance_transform_edt(part)) for part in (~padded, padded))
    return np.where(padded, 0.5 - inside, outside - 0.5)[1:-1, 1:-1].astype(np.float32)
