"""Images with the cameras that took them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from threedgen.cameras import Cameras
from threedgen.data.frames import Frame
from threedgen.data.pixels import read_depth, read_mask, read_normal, read_rgba
from threedgen.errors import UserError


@dataclass(frozen=True)
class PosedImages:
    """V views of one scene.

    Attributes:
        names: of the image files.
        rgb: [V,H,W,3] in [0,1] as stored, linear in the file's values: an sRGB file is not decoded to light. Not multiplied by alpha.
        alpha: [V,H,W,1] in [0,1], 1 where the files have none.
        mask: [V,H,W,1], 1 where a pixel counts and 0 where it is to be ignored, or None where all count.
        depth: [V,H,W,1] distance along the ray in world units, 0 where unknown, or None.
        cameras: V pinhole cameras.
        normal: [V,H,W,3] unit normals in the world, 0 where unknown, or None.
    """

    names: list[str]
    rgb: Tensor
    alpha: Tensor
    mask: Tensor | None
    depth: Tensor | None
    cameras: Cameras
    normal: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rgb)

    def __getitem__(self, views: list[int]) -> PosedImages:
        """Some of the views."""
        parts = {k: v[views] for k, v in vars(self).items() if isinstance(v, Tensor | Cameras)}
        return replace(self, names=[self.names[view] for view in views], **parts)

    @property
    def has_alpha(self) -> bool:
        """Whether a pixel is not opaque, so that the images say what belongs to the object."""
        return bool((self.alpha < 1).any())

    def over(self, background: Tensor | float) -> Tensor:
        """[V,H,W,3] composited over a colour that broadcasts."""
        return self.rgb * self.alpha + (1 - self.alpha) * background

    def to(self, device: torch.device | str) -> PosedImages:
        moved = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor | Cameras)}
        return replace(self, **moved)


def read_images(frames: Sequence[Frame], downscale: int = 1, depth_unit: float = 1.0) -> PosedImages:
    """The images of frames of one size, in the axes and units of the data.

    Takes 16 bytes of memory for a pixel, 4 more for a mask or a depth, 12 for a normal.

    Args:
        downscale: side of the square of pixels that is averaged to one; of depths, normals and masks the middle one is taken.
        depth_unit: length of one unit of a depth file.

    Raises:
        UserError: a file is damaged, or the size is no multiple of `downscale`.
    """
    width, height = frames[0].width, frames[0].height
    if width % downscale or height % downscale:
        raise UserError(f"downscale={downscale} does not divide the {width} x {height} pixels of '{frames[0].image}': choose a divisor")
    colours = [_averaged(torch.from_numpy(read_rgba(frame).astype(np.float32) / 255), downscale) for frame in frames]
    rgba = torch.stack(colours)
    matrices = torch.from_numpy(np.stack([frame.c2w for frame in frames])).float()
    fovy = torch.tensor([frame.fovy for frame in frames])
    cameras = Cameras(matrices, fovy, height // downscale, width // downscale)
    mask = depth = normal = None
    if any(frame.mask for frame in frames):
        mask = _middles([read_mask(frame) for frame in frames], downscale)
    if any(frame.depth for frame in frames):
        depth = _middles([read_depth(frame) for frame in frames], downscale) * depth_unit / _cosines(cameras)
    if any(frame.normal for frame in frames):
        normal = _middles([read_normal(frame) for frame in frames], downscale)[..., 0, :]
    return PosedImages([frame.image.name for frame in frames], rgba[..., :3], rgba[..., 3:], mask, depth, cameras, normal)


def _averaged(rgba: Tensor, side: int) -> Tensor:
    """[H/side,W/side,4] means of squares of pixels [H,W,4]; colours are weighted by their alpha."""
    if side == 1:
        return rgba
    weighted = torch.cat([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], -1)
    mean = F.avg_pool2d(weighted.permute(2, 0, 1)[None], side)[0].permute(1, 2, 0)
    return torch.cat([mean[..., :3] / mean[..., 3:].clamp_min(1e-6), mean[..., 3:]], -1)


def _middles(arrays: Sequence[np.ndarray], side: int) -> Tensor:
    """[V,H/side,W/side,1,...] the middle value of every square."""
    return torch.from_numpy(np.stack(arrays).astype(np.float32))[:, side // 2 :: side, side // 2 :: side, None].clone()


def _cosines(cameras: Cameras) -> Tensor:
    """[V,H,W,1] cosine of the angle between the ray of a pixel and the optical axis."""
    return -(cameras.rays()[1] * cameras.c2w[:, None, None, :3, 2]).sum(-1, keepdim=True)
