"""Distances between surfaces, by points on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from scipy.spatial import KDTree
from torch import Tensor
from torch.nn import functional as F

from threedgen import draws
from threedgen.errors import UserError


class Surface(Protocol):
    """Triangles: vertices [V,3], faces [F,3]."""

    vertices: Tensor
    faces: Tensor


@dataclass(frozen=True)
class Points:
    """Points of a surface [N,3] float64 and the unit normals there [N,3], as the faces are wound."""

    position: Tensor
    normal: Tensor

    def __len__(self) -> int:
        return len(self.position)

    def __getitem__(self, chosen: Tensor) -> Points:
        return Points(self.position[chosen], self.normal[chosen])


@dataclass(frozen=True)
class Likeness:
    """How near two surfaces are.

    Attributes:
        f_score: harmonic mean of precision (the share of the candidate's points within a distance of the reference's) and recall (the
            reverse), in [0,1] (Tanks and Temples, Knapitsch et al. 2017).
        chamfer: mean of the two mean distances to the nearest point of the other, in units of `size`.
        normal_consistency: mean of the two mean |cos| of the angle between a point's normal and that of the nearest point of the
            other, in [0,1] (Occupancy Networks, arXiv 1812.03828); blind to the winding, which many models have wrong.
    """

    f_score: float
    chamfer: float
    normal_consistency: float


def likeness(candidate: Points, reference: Points, size: float, threshold: float = 0.01) -> Likeness:
    """Scores of a candidate's points against a reference's; nothing is aligned.

    Args:
        candidate, reference: points in one frame, both dense against the threshold.
        size: the length that distances are measured in, usually `longest_side` of the reference.
        threshold: distance of the F-score in units of `size`.

    Raises:
        UserError: one of them is empty.
    """
    if not len(candidate) or not len(reference):
        raise UserError("there is no point of a surface to compare: check that both meshes can be seen")
    scores = []
    for a, b in ((candidate, reference), (reference, candidate)):
        distance, nearest = (torch.from_numpy(x) for x in KDTree(b.position.numpy()).query(a.position.numpy()))
        cosine = (a.normal * b.normal[nearest]).sum(-1).abs()
        scores.append([(distance <= threshold * size).double().mean(), distance.mean() / size, cosine.mean()])
    (precision, there, alike), (recall, back, alike_back) = [[float(score) for score in row] for row in scores]
    f_score = 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
    return Likeness(f_score, (there + back) / 2, (alike + alike_back) / 2)


def f_score(candidate: Surface, reference: Surface, threshold: float = 0.05, samples: int = 10_000, seed: int = 0) -> float:
    """F-score of two meshes (see `Likeness`).

    Args:
        candidate, reference: meshes in the same frame.
        threshold: the distance, as a share of the longest side of the reference's bounding box.
        samples: points on each surface, drawn uniformly by area.
        seed: of the points.

    Raises:
        UserError: a surface has no area.
    """
    found, wanted = surface_points(candidate, samples, seed, "candidate"), surface_points(reference, samples, seed, "reference")
    return likeness(found, wanted, longest_side(reference), threshold).f_score


def longest_side(surface: Surface) -> float:
    """Of the axis-aligned bounding box of the vertices."""
    return float((surface.vertices.amax(0) - surface.vertices.amin(0)).max())


def surface_points(surface: Surface, samples: int, seed: int, purpose: str) -> Points:
    """Points drawn uniformly by area.

    Raises:
        UserError: the surface has no area.
    """
    corners = surface.vertices.detach().cpu().double()[surface.faces.cpu()]
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = normal.norm(dim=-1)
    if not len(area) or not float(area.sum()) > 0:
        raise UserError("cannot measure a mesh without a surface: check that it has triangles and finite vertices")
    generator = draws.generator(seed, 0, -1, f"points on the {purpose}")
    pick, u, v = torch.rand(3, samples, generator=generator, dtype=torch.float64)
    ends = area.cumsum(0)
    face = torch.searchsorted(ends, pick * ends[-1], right=True).clamp_max(len(area) - 1)
    root = u.sqrt()
    weight = torch.stack([1 - root, root * (1 - v), root * v], -1)
    return Points((corners[face] * weight[..., None]).sum(1), F.normalize(normal[face], dim=-1))
