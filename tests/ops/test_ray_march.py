"""Ray marching: exactly the twin's samples, and samples that can be counted by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from threedgen.ops import backend, march_rays, ray_indices
from threedgen.ops.ray_march import march_rays_reference

needs_kernel = pytest.mark.skipif(backend() == "reference", reason="the operators are not built: no kernel to compare with the twin")


def rays_towards_the_cube(count: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """From a sphere of radius 3 in all directions, some of them along an axis, some past the cube, one from inside."""
    rng = torch.Generator().manual_seed(count)
    origins = torch.nn.functional.normalize(torch.randn(count, 3, generator=rng, dtype=dtype), dim=1) * 3
    targets = torch.rand(count, 3, generator=rng, dtype=dtype) * 3 - 1.5
    directions = torch.nn.functional.normalize(targets - origins, dim=1)
    if count > 8:
        origins[:6] = 3 * torch.cat([torch.eye(3), -torch.eye(3)]).to(dtype) + torch.tensor([0.0, 0.25, 0.5]).to(dtype)
        directions[:6] = -torch.cat([torch.eye(3), -torch.eye(3)]).to(dtype)
        origins[6] = 0
    near = torch.rand(count, generator=rng, dtype=dtype) * 2
    jitter = torch.rand(count, generator=rng, dtype=dtype)
    return {"origins": origins, "directions": directions, "near": near, "far": near + 4, "jitter": jitter}


def occupancy(kind: str, cells: int) -> Tensor:
    if kind == "random":
        return torch.rand(cells, cells, cells, generator=torch.Generator().manual_seed(0)) < 0.03
    centre = (torch.arange(cells) + 0.5) / cells * 2 - 1
    distance = torch.stack(torch.meshgrid(centre, centre, centre, indexing="ij")).norm(dim=0)
    return {"ball": distance < 0.5, "full": distance < 9, "empty": distance > 9}[kind]


@needs_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["random", "ball", "full", "empty"])
@pytest.mark.parametrize("cells", [1, 5, 8, 33, 64])
def test_kernel_keeps_exactly_the_twins_samples(cells: int, kind: str, dtype: torch.dtype) -> None:
    rays = rays_towards_the_cube(300, dtype)
    offsets, t = march_rays(**rays, occupancy=occupancy(kind, cells), step=0.037)
    wanted_offsets, wanted = march_rays_reference(**rays, occupancy=occupancy(kind, cells), step=0.037)
    assert torch.equal(offsets, wanted_offsets)
    assert torch.equal(t, wanted)
    assert (len(t) > 0) == bool(occupancy(kind, cells).any())


@pytest.mark.parametrize("step", [0.3, 0.01])
def test_samples_are_where_they_are_said_to_be(step: float) -> None:
    rays = rays_towards_the_cube(200, torch.float64)
    grid = occupancy("random", 16)
    offsets, t = march_rays(**rays, occupancy=grid, step=step)
    ray = ray_indices(offsets, len(t))
    assert (t >= rays["near"][ray]).all()
    assert (t < rays["far"][ray]).all()
    k = (t - rays["near"][ray]) / step - rays["jitter"][ray]
    torch.testing.assert_close(k, k.round())
    same_ray = ray[1:] == ray[:-1]
    assert (t.diff()[same_ray] > 0.99 * step).all()
    cell = ((rays["origins"][ray] + rays["directions"][ray] * t[:, None] + 1) * 8).floor().long()
    assert grid[tuple(cell.unbind(1))].all()


def test_number_of_samples_is_the_length_inside_over_the_step() -> None:
    """A ray along x through a slab of two of eight cells, thickness 0.5."""
    grid = torch.zeros(8, 8, 8, dtype=torch.bool)
    grid[2:4] = True
    one = torch.tensor([0.0])
    origins, directions = torch.tensor([[-3.0, 0.1, 0.1]]), torch.tensor([[1.0, 0.0, 0.0]])
    offsets, t = march_rays(origins, directions, one, one + 6, grid, one + 0.5, 1 / 64)
    assert offsets.tolist() == [0, 32]
    torch.testing.assert_close(t, 2.5 + (torch.arange(32) + 0.5) / 64)


@pytest.mark.parametrize("count", [0, 1, 257])
def test_ray_indices_invert_the_packing(count: int) -> None:
    offsets, t = march_rays(**rays_towards_the_cube(count, torch.float32), occupancy=occupancy("ball", 8), step=0.1)
    assert offsets.shape == (count + 1,)
    assert offsets[-1] == len(t)
    assert torch.equal(torch.bincount(ray_indices(offsets, len(t)), minlength=count), offsets.diff())


@pytest.mark.parametrize("where", ["origins", "directions", "near", "far", "jitter"])
def test_rays_with_nan_have_no_samples(where: str) -> None:
    rays = rays_towards_the_cube(50, torch.float32)
    rays[where][20] = math.nan
    offsets, t = march_rays(**rays, occupancy=occupancy("full", 8), step=0.05)
    assert offsets[21] == offsets[20]
    assert t.isfinite().all()


def test_endless_rays_end_with_the_cube() -> None:
    rays = rays_towards_the_cube(50, torch.float32)
    to_far = march_rays(**rays, occupancy=occupancy("full", 8), step=0.05)
    rays["far"][:] = math.inf
    to_infinity = march_rays(**rays, occupancy=occupancy("full", 8), step=0.05)
    assert len(to_infinity[1]) >= len(to_far[1])
    assert (to_infinity[1] < 3 + math.sqrt(3)).all()


def test_marching_is_not_differentiated() -> None:
    rays = rays_towards_the_cube(20, torch.float32)
    rays["origins"].requires_grad_()
    offsets, t = march_rays(**rays, occupancy=occupancy("full", 4), step=0.1)
    assert not t.requires_grad
    assert not offsets.requires_grad


def test_opcheck() -> None:
    rays = rays_towards_the_cube(20, torch.float32)
    arguments = (*(rays[name] for name in ("origins", "directions", "near", "far")), occupancy("ball", 8), rays["jitter"], 0.1)
    torch.library.opcheck(torch.ops.threedgen.march_rays.default, arguments)


def test_fake_tensors_get_an_unknown_number_of_samples() -> None:
    rays, grid = rays_towards_the_cube(20, torch.float32), occupancy("ball", 8)
    with FakeTensorMode(shape_env=ShapeEnv()) as mode:
        fakes = {name: mode.from_tensor(tensor) for name, tensor in rays.items()}
        offsets, t = march_rays(**fakes, occupancy=mode.from_tensor(grid), step=0.1)
    assert offsets.shape == (21,)
    assert offsets.dtype == torch.int64
    assert isinstance(t.shape[0], torch.SymInt)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"origins": torch.zeros(5, 2)}, "origins must have shape"),
        ({"directions": torch.zeros(4, 3)}, "directions must have shape"),
        ({"near": torch.zeros(5, 1)}, "near must have shape"),
        ({"jitter": torch.zeros(5).double()}, "one dtype is needed"),
        ({"occupancy": torch.ones(4, 4, 3, dtype=torch.bool)}, "occupancy must have shape"),
        ({"occupancy": torch.ones(4, 4, 4)}, "occupancy must be bool"),
        ({"occupancy": torch.ones(0, 0, 0, dtype=torch.bool)}, "at least one cell"),
        ({"far": torch.zeros(5, device="meta")}, "one device is needed"),
        ({"step": -0.1}, "step must be positive"),
        ({"step": math.nan}, "step must be positive"),
    ],
)
def test_misfits_are_named(change: dict, message: str) -> None:
    arguments = {**rays_towards_the_cube(5, torch.float32), "occupancy": occupancy("full", 4), "step": 0.1}
    with pytest.raises(ValueError, match=message):
        march_rays(**{**arguments, **change})
