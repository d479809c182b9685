"""Distances between shapes and between images."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from threedgen import draws
from threedgen.errors import UserError

ROWS = 1024  # points whose distances to all others are held at a time


class Surface(Protocol):
    """Triangles: vertices [V,3], faces [F,3]."""

    vertices: Tensor
    faces: Tensor


def f_score(candidate: Surface, reference: Surface, threshold: float = 0.05, samples: int = 10_000, seed: int = 0) -> float:
    """Harmonic mean of precision and recall of surface points (Tanks and Temples, Knapitsch et al. 2017).

    Precision is the share of the candidate's points within a distance of the reference's, recall the reverse.

    Args:
        candidate, reference: meshes in the same frame, not aligned further.
        threshold: the distance, as a share of the longest side of the reference's bounding box.
        samples: points on each surface, drawn uniformly by area.
        seed: of the points.

    Returns:
        In [0,1].

    Raises:
        UserError: a surface has no area.
    """
    low, high = reference.vertices.amin(0), reference.vertices.amax(0)
    distance = threshold * float((high - low).max())
    a, b = surface_points(candidate, samples, seed, "candidate"), surface_points(reference, samples, seed, "reference")
    precision = float((nearest_distance(a, b) <= distance).double().mean())
    recall = float((nearest_distance(b, a) <= distance).double().mean())
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def surface_points(surface: Surface, samples: int, seed: int, purpose: str) -> Tensor:
    """[samples,3] points drawn uniformly by area.

    Raises:
        UserError: the surface has no area.
    """
    corners = surface.vertices.detach().cpu().double()[surface.faces.cpu()]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=-1)
    if not len(area) or not float(area.sum()) > 0:
        raise UserError("cannot measure a mesh without a surface: check that it has triangles and finite vertices")
    generator = draws.generator(seed, 0, -1, f"points on the {purpose}")
    pick, u, v = torch.rand(3, samples, generator=generator, dtype=torch.float64)
    ends = area.cumsum(0)
    face = torch.searchsorted(ends, pick * ends[-1], right=True).clamp_max(len(area) - 1)
    root = u.sqrt()
    weight = torch.stack([1 - root, root * (1 - v), root * v], -1)
    return (corners[face] * weight[..., None]).sum(1)


def nearest_distance(points: Tensor, others: Tensor) -> Tensor:
    """[N] distance of each of points [N,3] to the nearest of others [M,3]."""
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cat([torch.cdist(rows, others, compute_mode=exact).amin(1) for rows in points.split(ROWS)])


def psnr(image: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two images in [0,1] of the same shape; infinite where they are equal."""
    return _decibels((image.double() - reference.double()).square().mean())


def foreground_psnr(image: Tensor, alpha: Tensor, reference: Tensor, reference_alpha: Tensor) -> float:
    """PSNR in dB over the pixels that either image covers by more than half.

    Pixels that only one covers count with what the other shows there, so a wrong silhouette costs.

    Args:
        image, reference: [...,H,W,3] in [0,1], over the same background.
        alpha, reference_alpha: [...,H,W,1] coverage in [0,1].

    Raises:
        UserError: neither covers a pixel.
    """
    covered = (torch.maximum(alpha, reference_alpha) > 0.5)[..., 0]
    if not bool(covered.any()):
        raise UserError("neither image shows an object: the foreground PSNR has no pixel to compare")
    return _decibels((image.double() - reference.double()).square().mean(-1)[covered].mean())


def _decibels(mean_square: Tensor) -> float:
    return float(-10 * torch.log10(mean_square))
