"""Penalties on a rendering. Each is a mean over rays, so that its weight does not depend on the resolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from threedgen.config.schema import RegularizerSettings
from threedgen.ops.adjacency import adjacent_edges
from threedgen.representations.base import Blobs, Mesh, Render, Samples
from threedgen.representations.mesh import face_normals
from threedgen.schedule import at

OPAQUE = 0.5  # opacity of a ray from which on its depth means something
SMALLEST_SHARE = 1e-12
MOST_ANISOTROPY = 3.0  # longest over shortest axis of a Gaussian up to which nothing is penalized (PhysGaussian)


def sparsity(render: Render) -> Tensor:
    """Mean of sqrt(alpha^2 + 0.01): less matter."""
    return (render.alpha.square() + 0.01).sqrt().mean()


def opaque(render: Render) -> Tensor:
    """Binary entropy of alpha, clamped to [0.001, 0.999]: a ray is either opaque or empty."""
    alpha = render.alpha.clamp(1e-3, 1 - 1e-3)
    return F.binary_cross_entropy(alpha, alpha)


@dataclass(frozen=True)
class SamplePenalty:
    """A penalty on the samples along rays: a mean over rays (or samples), taken as a total and a count, which add up over chunks of rays.

    Called with a rendering it gives the mean; 0 where nothing counts.
    """

    totals: Callable[[Samples], tuple[Tensor, Tensor | int]]

    def __call__(self, render: Render) -> Tensor:
        return means([self], render)[0]


def means(of: Sequence[SamplePenalty], render: Render) -> Tensor:
    """[K] values of penalties on samples, in one pass over them; ValueError where the rendering has no samples."""
    if render.samples is None:
        raise ValueError("this penalty looks at the samples of a volume rendering; the rendering has none")

    def measure(samples: Samples) -> Tensor:
        pairs = [penalty.totals(samples) for penalty in of]
        return torch.stack([torch.stack([total.double(), torch.as_tensor(count).to(total).double()]) for total, count in pairs])

    total, count = render.samples.summed(measure).unbind(1)
    return (total / count.detach().clamp(min=1)).to(render.alpha.dtype)


@SamplePenalty
def distortion(s: Samples) -> tuple[Tensor, int]:
    """Sum over pairs of samples of a ray of w_i w_j |t_i - t_j| (mip-NeRF 360, arXiv 2111.12077, without the self term)."""
    w, wt = s.weights.double(), (s.weights * s.t).double()
    before = s.offsets[:-1][s.ray]
    # Sums over the earlier samples of the same ray: a running sum over all samples less its value at the ray's start.
    w_sum, wt_sum = (F.pad(v.cumsum(0), (1, 0)) for v in (w, wt))
    w_earlier, wt_earlier = (v[:-1] - v[before] for v in (w_sum, wt_sum))
    pairs = 2 * (wt * w_earlier - w * wt_earlier)
    return pairs.sum(), len(s.directions)


@SamplePenalty
def orientation(s: Samples) -> tuple[Tensor, int]:
    """Sum of sg(w) max(0, n . d)^2 along a ray: visible normals face the camera (Ref-NeRF, arXiv 2112.03907)."""
    if s.normals is None:
        raise ValueError("orientation needs a rendering with normals")
    away = (s.normals * s.directions[s.ray]).sum(-1).clamp(min=0).square()
    return (s.weights.detach() * away).sum(), len(s.directions)


@SamplePenalty
def z_variance(s: Samples) -> tuple[Tensor, Tensor]:
    """Variance of the depth along a ray, sum of v_i (t_i - t_mean)^2 with v = w / sum(w) (HiFA, arXiv 2305.18766).

    Mean over the opaque rays, those whose weights sum to more than 1/2; 0 without any.
    """
    share, opaque_rays = shares_along_rays(s)
    mean = summed_along_rays(share * s.t, s)
    return total_over(opaque_rays, summed_along_rays(share * (s.t - mean[s.ray]).square(), s))


@SamplePenalty
def entropy(s: Samples) -> tuple[Tensor, Tensor]:
    """Entropy of the weights along a ray, -sum of v_i log(v_i) in nats with v = w / sum(w) (z-entropy of HiFA, arXiv 2305.18766).

    Mean over the opaque rays, as in `z_variance`.
    """
    share, opaque_rays = shares_along_rays(s)
    return total_over(opaque_rays, summed_along_rays(-share * share.clamp(min=SMALLEST_SHARE).log(), s))


@SamplePenalty
def eikonal(s: Samples) -> tuple[Tensor, int]:
    """Square of how far the length of a signed distance's gradient is from 1 (IGR, arXiv 2002.10099), mean over samples."""
    if s.slopes is None:
        raise ValueError("eikonal looks at the gradient of a signed distance; the rendering is of none")
    slopes = s.slopes()
    return (slopes.norm(dim=-1) - 1).square().sum(), len(slopes)


def normal_consistency(render: Render) -> Tensor:
    """Mean over edges of 1 - cos of the angle between the two faces' normals (Magic3D, arXiv 2211.10440); 0 without a surface."""
    mesh = surface_of(render)
    normal = F.normalize(face_normals(mesh.vertices, mesh.faces), dim=-1, eps=1e-12)
    other = adjacent_edges(mesh.faces).flatten()
    edge = torch.nonzero(other > torch.arange(len(other), device=other.device))[:, 0]
    bend = 1 - (normal[edge // 3] * normal[other[edge] // 3]).sum(-1)
    return bend.sum() / max(len(edge), 1)


def laplacian(render: Render) -> Tensor:
    """Mean distance of a vertex from the mean of its neighbours, world units (uniform Laplacian); 0 without a surface."""
    mesh = surface_of(render)
    ends = torch.cat([mesh.faces, mesh.faces.flip(1)]).view(-1, 3)
    start, end = ends.flatten(), ends.roll(-1, 1).flatten()
    # inside a closed surface both faces of an edge name it, so every neighbour counts equally often
    count = mesh.vertices.new_zeros(len(mesh.vertices)).index_add(0, start, mesh.vertices.new_ones(len(start)))
    total = torch.zeros_like(mesh.vertices).index_add(0, start, mesh.vertices[end])
    distance = (total / count.clamp_min(1)[:, None] - mesh.vertices).norm(dim=-1)
    return distance.sum() / max(len(mesh.vertices), 1)


def opacity(render: Render) -> Tensor:
    """Mean opacity of the Gaussians (3DGS-MCMC, arXiv 2404.09591): what the image does not need fades, and is put to use elsewhere."""
    return mean_of(blobs_of(render).opacity)


def size(render: Render) -> Tensor:
    """Mean standard deviation of the Gaussians along their axes, world units (3DGS-MCMC)."""
    return mean_of(blobs_of(render).scales)


def anisotropy(render: Render) -> Tensor:
    """Mean of max(longest / shortest axis, 3) - 3 of the Gaussians: no needles (PhysGaussian, arXiv 2311.12198)."""
    scales = blobs_of(render).scales
    return mean_of((scales.amax(-1) / scales.amin(-1).clamp(min=SMALLEST_SHARE) - MOST_ANISOTROPY).clamp(min=0))


def mean_of(values: Tensor) -> Tensor:
    """Mean of values; 0 without any."""
    return values.sum() / max(values.numel(), 1)


def blobs_of(render: Render) -> Blobs:
    if render.blobs is None:
        raise ValueError("this penalty looks at Gaussians; the rendering has none")
    return render.blobs


def surface_of(render: Render) -> Mesh:
    if render.surface is None:
        raise ValueError("this penalty looks at the surface of a mesh; the rendering has none")
    return render.surface


def shares_along_rays(s: Samples) -> tuple[Tensor, Tensor]:
    """[S] float64 weights divided by their sum over the ray, and which rays are opaque [R]."""
    total = summed_along_rays(s.weights, s)
    return s.weights / total.clamp(min=SMALLEST_SHARE)[s.ray], total.detach() > OPAQUE


def summed_along_rays(values: Tensor, s: Samples) -> Tensor:
    """[R] float64 sums of sample values [S] over each ray."""
    running = F.pad(values.double().cumsum(0), (1, 0))
    return running[s.offsets[1:]] - running[s.offsets[:-1]]


def total_over(rays: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of values [R] over the rays [R] bool, and how many these are."""
    return torch.where(rays, values, 0).sum(), rays.sum()


PENALTIES: dict[str, Callable[[Render], Tensor]] = {
    "sparsity": sparsity,
    "opaque": opaque,
    "distortion": distortion,
    "orientation": orientation,
    "z_variance": z_variance,
    "entropy": entropy,
    "eikonal": eikonal,
    "normal_consistency": normal_consistency,
    "laplacian": laplacian,
    "opacity": opacity,
    "size": size,
    "anisotropy": anisotropy,
}


def needs_normals(settings: RegularizerSettings, step: int) -> bool:
    """Whether a penalty that is on at this step looks at normals."""
    return at(settings.orientation, step) > 0


def penalties(settings: RegularizerSettings, render: Render, step: int) -> dict[str, Tensor]:
    """Weighted penalties that are on at this step, by name."""
    weights = {name: at(getattr(settings, name), step) for name in PENALTIES}
    on = {name: PENALTIES[name] for name, w in weights.items() if w > 0}
    along = {name: penalty for name, penalty in on.items() if isinstance(penalty, SamplePenalty)}
    values = {name: penalty(render) for name, penalty in on.items() if name not in along}
    if along:
        values |= dict(zip(along, means(list(along.values()), render), strict=True))
    return {name: weights[name] * values[name] for name in on}
