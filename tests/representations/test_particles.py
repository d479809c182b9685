import dataclasses

import pytest
import torch
from torch import Tensor

from tests.representations.fields import SMALL
from threedgen.cameras import orbit_cameras
from threedgen.draws import Draws
from threedgen.representations.base import Representation
from threedgen.representations.hashgrid import HashGridField
from threedgen.representations.particles import Particles

CAMERAS = orbit_cameras([0.0, 90.0], 15.0, 2.6, 40.0, 8, 8)


def particles(count: int = 3, **changes: object) -> Particles:
    settings = dataclasses.replace(SMALL, **changes)
    return Particles([HashGridField(settings, seed=number) for number in range(count)])


def copies(representation: Representation) -> list[list[Tensor]]:
    return [[p.detach().clone() for p in scene.parameters()] for scene in representation.scenes]


def moved(before: list[list[Tensor]], after: list[list[Tensor]]) -> list[bool]:
    """Which scenes have changed."""
    return [not all(torch.equal(a, b) for a, b in zip(x, y, strict=True)) for x, y in zip(before, after, strict=True)]


def test_a_step_moves_its_own_scene_and_no_other_even_with_momentum():
    several = particles(3, background="learned")
    optimizer = torch.optim.Adam(several.param_groups(0.01, 0.01), fused=True)
    for step in range(7):
        before = copies(several)
        optimizer.zero_grad()
        several.render(CAMERAS, draws=Draws(0, step, range(2))).rgb.square().mean().backward()
        optimizer.step()
        assert moved(before, copies(several)) == [number == step % 3 for number in range(3)]


def test_a_scene_is_rendered_as_it_would_be_alone():
    several, draws = particles(3), Draws(0, 4, range(2))
    alone = HashGridField(SMALL, seed=1)
    assert torch.equal(several.render(CAMERAS, draws=draws).rgb, alone.render(CAMERAS, draws=draws).rgb)
    first = HashGridField(SMALL, seed=0)
    assert torch.equal(several.render(CAMERAS).rgb, first.render(CAMERAS).rgb)
    points = torch.rand(5, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    assert torch.equal(several.albedo(points), first.albedo(points))
    assert torch.equal(several.to_mesh(16, 3.0).vertices, first.to_mesh(16, 3.0).vertices)
    origins, directions = (v[0, 3] for v in CAMERAS.rays())
    jitter = torch.full((8,), 0.5)
    assert torch.equal(several.render_rays(origins, directions, jitter).rgb, first.render_rays(origins, directions, jitter).rgb)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_scene_gets_its_upkeep_after_as_many_steps_of_its_own(count):
    several = particles(count)
    due: list[list[int]] = [[] for _ in range(count)]
    for number, scene in enumerate(several.scenes):
        scene.refresh_occupancy = lambda jitter, number=number: due[number].append(step)  # type: ignore[method-assign]
    for step in range(32 * count):
        several.after_step(step, Draws(0, step, range(2)))
    assert due == [[15 * count + number, 31 * count + number] for number in range(count)]


def test_the_state_goes_back_and_forth():
    one, other = particles(2), particles(2)
    with torch.no_grad():
        for scene in one.scenes:
            scene.table.add_(1.0)
            scene.occupancy.opacity.fill_(0.25)
    other.load_state_dict(one.state_dict())
    assert moved(copies(one), copies(other)) == [False, False]
    assert all(torch.equal(a, b) for a, b in zip(one.buffers(), other.buffers(), strict=True))
    tables = [name for name in one.state_dict() if name.endswith("table")]
    assert tables == ["members.0.table", "members.1.table"]


def test_param_groups_hold_every_parameter_once_with_its_learning_rate():
    several = particles(2, background="learned")
    groups = several.param_groups(0.1, 0.2)
    assert [(group["name"], group["lr"]) for group in groups] == [("grid", 0.1), ("network", 0.1), ("background", 0.2)] * 2
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in several.parameters())


def test_a_representation_is_its_own_only_scene_and_particles_need_one():
    field = HashGridField(SMALL)
    assert field.scenes == (field,)
    with pytest.raises(ValueError, match="at least one scene"):
        Particles([])
