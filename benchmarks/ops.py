"""Time of the operators, compiled against their torch twins: `python benchmarks/ops.py [--device cuda] [--json FILE]`.

Best of several repeats, forwards plus backwards where there is a gradient. Set OMP_NUM_THREADS for the CPU. Prints a table of operators and
one of whole renderings of each representation, with their gradients, and writes JSON under benchmarks/results/. Where embreex is installed
(`pip install embreex`), the rasterizer is also compared with Embree, which finds the first hits of the same rays.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from threedgen.cameras import Cameras, orbit_cameras
from threedgen.config.schema import DMTetSettings, FlexiCubesSettings, GaussiansSettings, HashGridSettings, MeshSettings
from threedgen.ops import (
    HashGridSpec,
    adjacent_edges,
    backend,
    barycentric,
    composite,
    cpu_isa,
    hash_grid,
    interpolate,
    march_rays,
    marching_tets,
    project_gaussians,
    rasterize,
    silhouettes,
    splat,
    tet_grid,
)
from threedgen.ops.barycentric import barycentric_reference
from threedgen.ops.composite import composite_reference
from threedgen.ops.hash_grid import hash_grid_reference
from threedgen.ops.interpolate import interpolate_reference
from threedgen.ops.project_gaussians import project_gaussians_reference
from threedgen.ops.rasterize import rasterize_reference
from threedgen.ops.ray_march import march_rays_reference
from threedgen.ops.silhouettes import silhouettes_reference
from threedgen.ops.splat import TILE, box_extent, splat_bins_reference, splat_reference
from threedgen.runs.build import REPRESENTATIONS

try:
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene
except ImportError:
    EmbreeScene = None

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    op: str
    size: str
    twin_ms: float
    kernel_ms: float

    @property
    def ratio(self) -> float:
        return self.twin_ms / self.kernel_ms


@dataclass(frozen=True)
class Step:
    """A rendering of a representation with the gradient to all of its parameters."""

    representation: str
    size: str
    ms: float


def best_ms(function: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Shortest of several runs in milliseconds, after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(1e3 * (time.perf_counter() - start))
    return min(times[1:])


def compare(op: str, size: str, kernel: Callable[[], object], twin: Callable[[], object], device: torch.device) -> Row:
    return Row(op, size, best_ms(twin, device, 3), best_ms(kernel, device, 20))


def hash_grid_row(log2_table: int, max_resolution: int, to_positions: bool, device: torch.device) -> Row:
    spec = HashGridSpec(log2_table=log2_table, max_resolution=max_resolution)
    x = torch.rand(200_000, 3, device=device, requires_grad=to_positions)
    table = torch.rand(spec.rows, spec.features, device=device, requires_grad=True)
    cotangent = torch.rand(len(x), spec.width, device=device)
    wanted = (x, table) if to_positions else (table,)

    def kernel() -> None:
        torch.autograd.grad(hash_grid(x, table, spec), wanted, cotangent)

    def twin() -> None:
        torch.autograd.grad(hash_grid_reference(x, table, spec.resolutions, spec.offsets), wanted, cotangent)

    size = f"200k points, 16 x 2, 2^{log2_table}{', to positions too' if to_positions else ''}"
    return compare("hash_grid", size, kernel, twin, device)


def rays_through_a_ball(cells: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, float]:
    """Arguments of `march_rays`: four views of 64^2 pixels."""
    cameras = orbit_cameras([0, 90, 180, 270], elevation=20, distance=2.6, fovy=40, height=64, width=64)
    origins, directions = (rays.reshape(-1, 3).to(device) for rays in cameras.rays())
    near = torch.full((len(directions),), 1.6, device=device)
    centre = (torch.arange(cells, device=device) + 0.5) / cells * 2 - 1
    occupancy = torch.stack(torch.meshgrid(centre, centre, centre, indexing="ij")).norm(dim=0) < 0.6
    return origins, directions, near, near + 2, occupancy, torch.rand(len(directions), device=device), 0.02


def march_row(cells: int, device: torch.device) -> Row:
    arguments = rays_through_a_ball(cells, device)
    samples = len(march_rays(*arguments)[1])
    size = f"4 x 64^2 rays, {cells}^3 cells, {samples // 1000}k samples"
    return compare("march_rays", size, lambda: march_rays(*arguments), lambda: march_rays_reference(*arguments), device)


def composite_row(device: torch.device) -> Row:
    offsets, t = march_rays(*rays_through_a_ball(64, device))
    sigma = (torch.rand(len(t), device=device) * 20).requires_grad_()
    features = torch.rand(len(t), 4, device=device, requires_grad=True)

    def run(function: Callable[..., tuple[Tensor, Tensor, Tensor]]) -> None:
        out, transmittance, weights = function(sigma, features, offsets, 0.02)
        torch.autograd.grad(out.sum() + transmittance.sum() + weights.sum(), (sigma, features))

    size = f"4 x 64^2 rays, {len(t) // 1000}k samples x 4"
    return compare("composite", size, lambda: run(composite), lambda: run(composite_reference), device)


def splat_row(count: int, views: int, side: int, deviation: float, device: torch.device) -> Row:
    """A random cloud with random axes; the twin includes its own lists of tiles."""
    axes = torch.randn(views, count, 2, 2, device=device) * deviation * 0.7
    precision = torch.linalg.inv(axes @ axes.mT + 0.3 * torch.eye(2, device=device))
    conic = torch.stack([precision[..., 0, 0], precision[..., 0, 1], precision[..., 1, 1]], -1)
    mean = torch.rand(views, count, 2, device=device) * side
    opacity, features = 0.05 + 0.95 * torch.rand(views, count, device=device), torch.rand(views, count, 4, device=device)
    values = [value.requires_grad_() for value in (mean, conic, opacity, features)]
    depth, extent = torch.rand(views, count, device=device) + 1, box_extent(conic.detach(), opacity.detach())
    bins = splat_bins_reference(mean.detach(), extent, depth, side, side, TILE)

    def kernel() -> None:
        out, transmittance = splat(*values, depth, side, side)
        torch.autograd.grad(out.sum() + transmittance.sum(), values)

    def twin() -> None:
        lists = splat_bins_reference(mean.detach(), extent, depth, side, side, TILE)
        out, transmittance, _ = splat_reference(*values, extent, *lists, side, side, TILE)
        torch.autograd.grad(out.sum() + transmittance.sum(), values)

    size = f"{count // 1000}k, {views} x {side}^2, {len(bins[0]) / 1000:.1f}k tile entries"
    return compare("splat", size, kernel, twin, device)


def projection_row(count: int, views: int, device: torch.device) -> Row:
    """Gaussians in view of all cameras."""
    cameras = orbit_cameras([360.0 * k / views for k in range(views)], elevation=20, distance=2.6, fovy=40, height=64, width=64).to(device)
    values = [
        value.requires_grad_() for value in (torch.rand(count, 3, device=device) - 0.5, 0.05 * torch.randn(count, 3, 3, device=device))
    ]
    arguments = (*values, cameras.image_axes(), cameras.positions, cameras.focal, 64, 64)

    def run(function: Callable[..., tuple[Tensor, ...]]) -> None:
        torch.autograd.grad(torch.cat([out.flatten() for out in function(*arguments)]).sum(), values)

    size = f"{count // 1000}k, {views} views"
    return compare("project_gaussians", size, lambda: run(project_gaussians), lambda: run(project_gaussians_reference), device)


def ball_in_clip_space(views: int, cells: int, size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """clip [B,V,4] of a ball from a tetrahedral grid, its faces, and the face at every pixel."""
    positions, tets = (tensor.to(device) for tensor in tet_grid(cells))
    vertices, faces = marching_tets(positions.norm(dim=-1) - 0.8, positions, tets)
    cameras = orbit_cameras([360.0 * k / views for k in range(views)], elevation=20, distance=2.6, fovy=40, height=size, width=size)
    clip = torch.einsum("bij,vj->bvi", cameras.to(device).view_projection(), torch.nn.functional.pad(vertices, (0, 1), value=1.0))
    return clip, faces, rasterize(clip, faces, size, size)[0]


def mesh_rows(size: int, device: torch.device) -> list[Row]:
    """The operators on the pixels of a mesh, four views of size^2 pixels."""
    clip, faces, face = ball_in_clip_space(4, 32, size, device)
    adjacency, weights = adjacent_edges(faces), barycentric(clip, faces, face).requires_grad_()
    attributes = torch.rand(*clip.shape[:2], 8, device=device, requires_grad=True)
    clip.requires_grad_()
    cases = {
        "rasterize": (rasterize, rasterize_reference, (clip.detach(), faces, size, size), ()),
        "barycentric": (barycentric, barycentric_reference, (clip, faces, face), (clip,)),
        "interpolate": (interpolate, interpolate_reference, (attributes, faces, face, weights), (attributes, weights)),
        "silhouettes": (silhouettes, silhouettes_reference, (clip, faces, face, adjacency), (clip,)),
    }

    def run(function: Callable[..., Tensor], arguments: tuple, wanted: tuple[Tensor, ...]) -> None:
        out = function(*arguments)
        if wanted:
            torch.autograd.grad(out.sum(), wanted)

    description = f"4 x {size}^2 pixels, {len(faces) // 1000}k faces"
    return [
        compare(name, description, partial(run, kernel, arguments, wanted), partial(run, twin, arguments, wanted), device)
        for name, (kernel, twin, arguments, wanted) in cases.items()
    ]


def embree_row(triangles: int, side: int) -> Row | None:
    """First hits of a ball of about so many triangles, by our rasterizer and by Embree, its tree built before; None without embreex."""
    if EmbreeScene is None:
        return None
    positions, tets = tet_grid(round((triangles / 26) ** 0.5))
    vertices, faces = marching_tets(positions.norm(dim=-1) - 0.8, positions, tets)
    cameras = orbit_cameras([30], elevation=20, distance=2.6, fovy=40, height=side, width=side)
    clip = torch.einsum("bij,vj->bvi", cameras.view_projection(), torch.nn.functional.pad(vertices, (0, 1), value=1.0))
    origins, directions = (rays.reshape(-1, 3).numpy() for rays in cameras.rays())
    scene = EmbreeScene()
    TriangleMesh(scene, vertices[faces].numpy())
    hit = torch.from_numpy(scene.run(origins, directions)).view(side, side) >= 0
    seen = rasterize(clip, faces, side, side)[0][0] >= 0
    assert (hit == seen).float().mean() > 0.99, "Embree and the rasterizer see different shapes"
    size = f"{side}^2 pixels, {len(faces) / 1000:.0f}k faces, against Embree"
    cpu = torch.device("cpu")
    return compare("rasterize", size, lambda: rasterize(clip, faces, side, side), lambda: scene.run(origins, directions), cpu)


def steps(device: torch.device) -> list[Step]:
    """Each representation as its settings are by default, Gaussians with 5000 of them; four views of 64^2 pixels."""
    cameras = orbit_cameras([0, 90, 180, 270], elevation=20, distance=2.6, fovy=40, height=64, width=64).to(device)
    cases = {
        "gaussians": GaussiansSettings(count=5000, capacity=5000),
        "hashgrid": HashGridSettings(),
        "dmtet": DMTetSettings(),
        "flexicubes": FlexiCubesSettings(),
        "mesh": MeshSettings(),
    }
    return [full_step(name, settings, cameras, device) for name, settings in cases.items()]


def full_step(name: str, settings: Any, cameras: Cameras, device: torch.device) -> Step:
    made = REPRESENTATIONS[type(settings)](settings).to(device)

    def step() -> None:
        made.zero_grad()
        render = made.render(cameras)
        (render.rgb.sum() + render.alpha.sum()).backward()

    numbers = sum(parameter.numel() for parameter in made.parameters())
    return Step(name, f"{len(cameras)} x {cameras.height}^2 pixels, {numbers / 1000:.0f}k numbers", best_ms(step, device, 10))


def processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    models = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{models[0] if models else platform.processor()}, {torch.get_num_threads()} threads, {cpu_isa()} kernels"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, default=None, help="default: benchmarks/results/ops-DEVICE.json")
    options = parser.parse_args()
    device = torch.device(options.device)
    if backend(device) == "reference":
        raise SystemExit(f"the operators are not compiled for {device}: there is nothing to compare")
    torch.manual_seed(0)
    grids = [(log2_table, resolution, to_positions) for log2_table, resolution in ((15, 512), (19, 2048)) for to_positions in (False, True)]
    rows = [hash_grid_row(*grid, device) for grid in grids]
    rows += [march_row(64, device), march_row(128, device), composite_row(device)]
    rows += [splat_row(*cloud, device) for cloud in ((5_000, 4, 64, 2.2), (20_000, 1, 256, 4.0))]
    rows += [projection_row(5_000, 4, device), *mesh_rows(64, device), *mesh_rows(256, device)]
    if device.type == "cpu" and (row := embree_row(20_000, 256)):
        rows.append(row)
    whole = steps(device)
    load = round(os.getloadavg()[0], 1)
    print(f"{processor(device)}, torch {torch.__version__}, load {load} on {os.cpu_count()} cores\n")
    print(f"{'op':<18}{'size':<46}{'twin ms':>10}{'kernel ms':>12}{'ratio':>8}")
    for row in rows:
        print(f"{row.op:<18}{row.size:<46}{row.twin_ms:>10.1f}{row.kernel_ms:>12.2f}{row.ratio:>8.1f}")
    if device.type == "cpu" and EmbreeScene is None:
        print("embreex is not installed: no comparison with Embree")
    print(f"\n{'rendering and gradient':<64}{'ms':>10}")
    for step in whole:
        print(f"{step.representation:<18}{step.size:<46}{step.ms:>10.1f}")
    file = options.json or RESULTS / f"ops-{device.type}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    table = [{**asdict(row), "ratio": row.ratio} for row in rows]
    machine = {"processor": processor(device), "torch": torch.__version__, "load_average": load, "cores": os.cpu_count()}
    file.write_text(json.dumps(machine | {"rows": table, "steps": [asdict(step) for step in whole]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
