"""How well a representation shows views it was not fitted to."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from threedgen.data.posed_images import PosedImages
from threedgen.evaluation.metrics import psnr
from threedgen.evaluation.ssim import WINDOW, ssim
from threedgen.representations.base import Representation

OPAQUE = 0.5  # alpha from which on a pixel belongs to the object


@dataclass(frozen=True)
class ViewScore:
    """Likeness of one view: PSNR in dB, SSIM, and PSNR in dB over the pixels whose true alpha exceeds 1/2.

    None where there is no number: images that are equal, or too small, or without an object.
    """

    name: str
    psnr: float | None
    ssim: float | None
    psnr_foreground: float | None


@torch.no_grad()
def score_views(representation: Representation, images: PosedImages) -> tuple[list[ViewScore], Tensor]:
    """Scores of all views, and what the representation shows [V,H,W,3] on the CPU.

    Images with alpha are compared over white, for which the representation must be one that renders over black.
    """
    composited = images.has_alpha
    scores, shown = [], []
    for number, name in enumerate(images.names):
        view = images[[number]]
        render = representation.render(view.cameras)
        seen = render.rgb + (1 - render.alpha) if composited else render.rgb
        shown.append(seen.clamp(0, 1).cpu())
        scores.append(score(name, shown[-1], view.over(1.0).cpu(), view.alpha.cpu()))
    return scores, torch.cat(shown)


def score(name: str, seen: Tensor, truth: Tensor, alpha: Tensor) -> ViewScore:
    """Scores of a view [1,H,W,3] against its truth, whose alpha is [1,H,W,1]."""
    inside = alpha[..., 0] > OPAQUE
    large = min(seen.shape[1:3]) >= WINDOW
    return ViewScore(
        name,
        _finite(psnr(seen, truth)),
        float(ssim(seen, truth)) if large else None,
        _finite(psnr(seen[inside], truth[inside])) if bool(inside.any()) else None,
    )


def summary(scores: Iterable[ViewScore]) -> dict[str, float | None]:
    """Mean of each score over the views that have it, under "test/..."."""
    scores = list(scores)
    columns = {name: [getattr(s, name) for s in scores] for name in ("psnr", "ssim", "psnr_foreground")}
    known = {name: [value for value in values if value is not None] for name, values in columns.items()}
    return {f"test/{name}": sum(values) / len(values) if values else None for name, values in known.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
