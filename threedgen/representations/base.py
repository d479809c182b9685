"""What every representation can do, and what a rendering is."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Render:
    """Images of a batch of views, linear range, float.

    Attributes:
        rgb: [B,H,W,3] composited over the background, in [0,1].
        alpha: [B,H,W,1] coverage in [0,1].
        depth: [B,H,W,1] expected distance along the ray times alpha (0 where empty), world units.
        normal: [B,H,W,3] unit world normals times alpha, or None where the representation was not asked for them.
        extras: further outputs by name (for example per-sample weights for regularizers).
    """

    rgb: Tensor
    alpha: Tensor
    depth: Tensor
    normal: Tensor | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Mesh:
    """A triangle mesh in world axes (z up, front +x).

    Attributes:
        vertices: [V,3] float32.
        faces: [F,3] int64, counter-clockwise seen from outside.
        vertex_rgb: [V,3] in [0,1], or None.
        uv: [V,2] texture coordinates in [0,1], origin at the top left of `texture`, or None.
        texture: [H,W,3] base colour in [0,1], or None.
    """

    vertices: Tensor
    faces: Tensor
    vertex_rgb: Tensor | None = None
    uv: Tensor | None = None
    texture: Tensor | None = None

    def to(self, device: torch.device | str) -> Mesh:
        moved = {k: v if v is None else v.to(device) for k, v in vars(self).items()}
        return Mesh(**moved)
