"""What a representation takes over of another one's surface: signed distances, and fields fitted to its shape and colours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.spatial import KDTree
from torch import Tensor
from torch.nn import functional as F

from threedgen.representations.base import Mesh
from threedgen.representations.initial_shape import mesh_distance
from threedgen.representations.mesh import sample_faces, vertex_normals

Albedo = Callable[[Tensor], Tensor]
SAMPLES = 200_000
NEAR = 2.5  # voxels from the surface up to which distances are those of its points
BATCH, RATE = 8_192, 0.02  # of the fits
COLOUR_STEPS, VOLUME_STEPS = 300, 400
SOLID = 0.95  # opacity of a step through the inside of a volume
COLOUR_WEIGHT = 2.0  # of a volume's colours beside its opacity


@dataclass(frozen=True)
class SurfacePoints:
    """Points [N,3] uniform on a surface, with smooth unit normals [N,3]; on the CPU."""

    points: Tensor
    normals: Tensor


def sample_surface(mesh: Mesh, count: int, rng: torch.Generator) -> SurfacePoints:
    """Points drawn by area."""
    face, weights = sample_faces(mesh, count, rng)
    corners, normals = mesh.faces[face], vertex_normals(mesh.vertices, mesh.faces)
    points, smooth = ((weights[..., None] * values[corners]).sum(1) for values in (mesh.vertices, normals))
    return SurfacePoints(points, F.normalize(smooth, dim=-1))


def surface_distance(mesh: Mesh, points: Tensor, pitch: float, rng: torch.Generator) -> Tensor:
    """[N] distances of points [N,3] to a closed mesh, negative inside, world units.

    Near the surface it is the height above the plane through the nearest of many points, so that it is smooth where the surface is;
    further away it is that of voxels of side `pitch`.
    """
    distance = mesh_distance(mesh, points, pitch)
    close = (distance.abs() < NEAR * pitch).nonzero()[:, 0]
    surface = sample_surface(mesh, SAMPLES, rng)
    unsigned, found = KDTree(surface.points.numpy()).query(points[close].numpy(), workers=-1)
    nearest = torch.from_numpy(found)
    height = ((points[close] - surface.points[nearest]) * surface.normals[nearest]).sum(-1)
    # Beyond an edge the height above a plane says little of how far the edge is.
    distance[close] = torch.where(2 * height.abs() > torch.from_numpy(unsigned), height, height.sign() * torch.from_numpy(unsigned).float())
    return distance


def fit_colours(field: torch.nn.Module, mesh: Mesh, albedo: Albedo, spread: float, rng: torch.Generator) -> None:
    """Train a field of colours [N,3] at points [N,3] until it shows a surface's.

    Args:
        field: with its parameters on any device.
        mesh: the surface, on the CPU.
        albedo: colours of points on the surface.
        spread: standard deviation of the distance from the surface at which the field has its colours too, world units.
        rng: of the draws.
    """
    device = next(field.parameters()).device
    surface = sample_surface(mesh, 8 * BATCH, rng)
    rgb = colours_at(surface.points, albedo, device)

    def loss() -> Tensor:
        row = torch.randint(len(rgb), (BATCH,), generator=rng)
        off = torch.randn(BATCH, 1, generator=rng) * spread
        return F.l1_loss(field((surface.points[row] + off * surface.normals[row]).to(device)), rgb[row.to(device)])

    descend(field, loss, COLOUR_STEPS)


def fit_field(
    field: torch.nn.Module,
    query: Callable[[Tensor], tuple[Tensor, Tensor]],
    error: Callable[[Tensor, Tensor, float], Tensor],
    mesh: Mesh,
    albedo: Albedo,
    radius: float,
    step_length: float,
    rng: torch.Generator,
) -> None:
    """Train a volume until its shape is that of a surface, and it has its colours there.

    Args:
        field: with its parameters on any device.
        query: its shape [N] (density or distance) and colour [N,3] at points [N,3].
        error: 0-dimensional, of the shape [N] where the surface is at signed distances [N]: `density_error` or `distance_error`.
        mesh, albedo, rng: as in `fit_colours`.
        radius: of the sphere that holds the volume.
        step_length: between samples along rays, world units.
    """
    device = next(field.parameters()).device
    points, rgb = around_surface(mesh, albedo, radius, step_length, device, rng)
    distance = surface_distance(mesh, points, radius / 64, rng).to(device)

    def loss() -> Tensor:
        row = some_rows(len(rgb), rng)
        shape, seen = query(points[row].to(device))
        near = row[: BATCH // 2]
        colour = F.l1_loss(seen[: len(near)], rgb[near.to(device)])
        return error(shape, distance[row.to(device)], step_length) + COLOUR_WEIGHT * colour

    descend(field, loss, VOLUME_STEPS)


def density_error(sigma: Tensor, distance: Tensor, step_length: float) -> Tensor:
    """Cross entropy of a step's opacity, nearly 1 inside and 0 outside; the edge is as wide as rays can tell, a step."""
    opacity = -torch.expm1(-sigma * step_length)
    return F.binary_cross_entropy(opacity.clamp(1e-6, 1 - 1e-6), torch.sigmoid(-4 * distance / step_length) * SOLID)


def distance_error(found: Tensor, distance: Tensor, step_length: float) -> Tensor:
    """Mean difference of distances, in steps."""
    return F.l1_loss(found, distance) / step_length


def around_surface(
    mesh: Mesh, albedo: Albedo, radius: float, step_length: float, device: torch.device, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Points [3N,3] at the surface, around it and in all of the sphere, N of each, and the colours [N,3] of the first."""
    surface = sample_surface(mesh, 16 * BATCH, rng)
    rgb = colours_at(surface.points, albedo, device)
    # At the surface and all around it: what is never asked stays as the hash grid's collisions leave it.
    spread = torch.tensor([2 * step_length, 0.15 * radius])[torch.arange(2).repeat_interleave(len(rgb))][:, None]
    both = torch.arange(len(rgb)).repeat(2)
    points = surface.points[both] + torch.randn(2 * len(rgb), 1, generator=rng) * spread * surface.normals[both]
    wide = torch.randn(len(rgb), 3, generator=rng)
    far = F.normalize(wide, dim=-1) * radius * torch.rand(len(rgb), 1, generator=rng) ** (1 / 3)
    return torch.cat([points, far]), rgb


def some_rows(count: int, rng: torch.Generator) -> Tensor:
    """[BATCH] rows of what `around_surface` gives, `count` of each sort: the first half at the surface."""
    near, around = torch.randint(count, (2, BATCH // 2), generator=rng)
    return torch.cat([near, around + count * torch.randint(1, 3, (len(around),), generator=rng)])


def colours_at(points: Tensor, albedo: Albedo, device: torch.device) -> Tensor:
    """[N,3] colours in [0,1] at points [N,3] of the CPU, on a device."""
    return torch.cat([albedo(part.to(device)) for part in points.split(BATCH)]).detach().clamp(0, 1)


def descend(field: torch.nn.Module, loss: Callable[[], Tensor], steps: int) -> None:
    """Adam with a rate that falls to nothing."""
    optimizer = torch.optim.Adam(field.parameters(), lr=RATE, betas=(0.9, 0.99), eps=1e-15)
    with torch.enable_grad():
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
    optimizer.zero_grad(set_to_none=True)
