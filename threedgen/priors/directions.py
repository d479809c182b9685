"""From where a camera looks at the object: the label of the view, its neighbours among the view prompts, and Perp-Neg's weights.

Azimuth 0 is the front and only its size counts: left and right have the same words. A camera without a position (all zeros where the
camera is withheld) looks from nowhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from threedgen.config.schema import VIEWS, PromptSettings

FRONT, SIDE, BACK, OVERHEAD = range(len(VIEWS))
NOWHERE = len(VIEWS)


def labels(c2w: Tensor, settings: PromptSettings) -> Tensor:
    """[B] place in `VIEWS` of the view of cameras c2w [B,4,4], NOWHERE without a camera.

    A front view is nearer than `front_degrees` to azimuth 0, a back view nearer than `back_degrees` to 180, a side view is neither;
    above `overhead_degrees` of elevation all are overhead views.
    """
    azimuth, elevation, seen = _angles(c2w)
    label = torch.full_like(azimuth, SIDE, dtype=torch.long)
    label[azimuth < settings.front_degrees] = FRONT
    label[180 - azimuth < settings.back_degrees] = BACK
    label[elevation > settings.overhead_degrees] = OVERHEAD
    label[~seen] = NOWHERE
    return label


def neighbours(c2w: Tensor, settings: PromptSettings) -> tuple[Tensor, Tensor, Tensor]:
    """The two views [B], [B] that a camera lies between, and its share [B] of the second (Perp-Neg, arXiv 2304.04968).

    Linear in azimuth from the front (0) by the side (90) to the back (180 degrees). Overhead views, and rows without a camera,
    are wholly their first.
    """
    azimuth, elevation, seen = _angles(c2w)
    behind = azimuth >= 90
    first = torch.where(behind, SIDE, FRONT)
    share = azimuth / 90 - behind.to(azimuth)
    alone = torch.where(seen, OVERHEAD, NOWHERE)
    single = ~seen | (elevation > settings.overhead_degrees)
    return torch.where(single, alone, first), torch.where(single, alone, first + 1), torch.where(single, 0.0, share)


def perp_neg_weights(c2w: Tensor, settings: PromptSettings) -> Tensor:
    """[B,2] weights (at most 0) of the front and of the side prompt as negative prompts (Perp-Neg, arXiv 2304.04968).

    Each is -(a exp(-b r) + c), r the share of the nearer to the front of the two views that the camera lies between. In front of the
    side the front prompt fades in towards the side and the side prompt towards the front; behind it both fade in towards the back, the
    front prompt far more strongly. Zero in overhead views and without a camera.
    """
    azimuth, elevation, seen = _angles(c2w)
    r = 1 - azimuth / 90
    ahead = torch.stack([_decay(r, 4.0, 0.5, -2.426), _decay(1 - r, 4.0, 0.5, -2.426)], -1)
    behind = torch.stack([_decay(r + 1, 1.0, 0.5, 0.967), _decay(r + 1, 1.0, 0.5, -0.606)], -1)
    weights = -torch.where((azimuth < 90)[:, None], ahead, behind)
    return weights * (seen & (elevation <= settings.overhead_degrees))[:, None]


def _decay(r: Tensor, a: float, b: float, c: float) -> Tensor:
    return a * (-b * r).exp() + c


def _angles(c2w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sizes of the azimuths [B] in [0,180] and elevations [B] in degrees, and whether there is a camera [B]."""
    x, y, z = c2w[:, :3, 3].unbind(-1)
    azimuth = torch.rad2deg(torch.atan2(y, x)).abs()
    elevation = torch.rad2deg(torch.atan2(z, torch.hypot(x, y)))
    return azimuth, elevation, c2w[:, :3, 3].abs().sum(-1) > 0
