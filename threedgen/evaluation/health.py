"""Is a scene on its way to become an object? Early signs that it is not, from a few small views all around it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

VIEWS, SIZE = 12, 32  # of a check; the count divides by 2, 3 and 4
EMPTY = 0.003  # mean alpha up to which nothing is seen
FILLED = 0.5  # mean alpha at the edge of the views from which matter fills them
SEEN, SOLID = 0.1, 0.9  # alpha of what is seen at all, and of what is solid
FOGGY = 0.75  # share of fog in what is seen
VARIED = 0.02  # share of the colour that changes with the side, up to which an object looks the same all around
REPEATED = 0.8  # likeness from which sides are copies


@dataclass(frozen=True)
class Health:
    """What views all around a scene look like.

    Attributes:
        coverage: mean alpha.
        edge: mean alpha at the edge of the images.
        fog: share of the pixels in which something is seen where it is not solid.
        repeats: likeness of sides 180, 120 and 90 degrees apart, by how often they repeat (2, 3, 4): 1 for copies, about 0 for sides that
            have nothing in common but what all sides have.
    """

    coverage: float
    edge: float
    fog: float
    repeats: dict[int, float]

    def signs(self) -> dict[str, str]:
        """Sentences about what looks wrong, by its name."""
        found = {}
        if self.coverage < EMPTY:
            found["empty"] = "the scene is empty, nothing is seen of it: raise optimizer.lr, or lower regularizers.sparsity"
        elif self.edge > FILLED:
            found["filled"] = "matter fills the views up to their edges: raise regularizers.sparsity, or cameras.distance"
        elif self.fog > FOGGY:
            found["fog"] = "the scene is fog, hardly anything in it is solid: raise regularizers.opaque"
        else:
            for times, likeness in self.repeats.items():
                if likeness > REPEATED:
                    found["faces"] = (
                        f"the object looks the same from {times} sides, it may have {times} faces: view-dependent prompts or Perp-Neg help "
                        "(ignore this for things that do repeat, as a table does)"
                    )
                    break
        return found


@torch.no_grad()
def health_of(rgb: Tensor, alpha: Tensor) -> Health:
    """Look at views evenly all around a scene.

    Args:
        rgb: [V,S,S,3] in [0,1] over any background; V divides by 12.
        alpha: [V,S,S,1] in [0,1].
    """
    seen = alpha > SEEN
    fog = (seen & (alpha < SOLID)).sum() / seen.sum().clamp(min=1)
    edge = torch.cat([alpha[:, 0].flatten(), alpha[:, -1].flatten(), alpha[:, :, 0].flatten(), alpha[:, :, -1].flatten()]).mean()
    return Health(float(alpha.mean()), float(edge), float(fog), repeats_of(rgb, alpha))


def repeats_of(rgb: Tensor, alpha: Tensor) -> dict[int, float]:
    """Likeness of the sides of an object that lie a half, a third and a quarter of a turn apart; empty where all sides are alike.

    The autocorrelation over the azimuth of what is left of the colours when the mean of all sides is taken away. So a barrel, which looks
    the same all around, has none. Two faces on one body show as 2, whatever lies between them. It sees copies of sides, and no faces: a
    second face that differs from the first is missed, and a table, which repeats by right, is found.
    """
    colour = (rgb * alpha).flatten(1).double()
    rest = colour - colour.mean(0)
    power = rest.square().sum()
    if power <= VARIED * colour.square().sum():
        return {}
    views = len(rest)
    return {times: float((rest * rest.roll(views // times, 0)).sum() / power) for times in (2, 3, 4)}
