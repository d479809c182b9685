import torch

from threedgen.config.schema import HashGridSettings, OrbitSettings, StageSettings
from threedgen.guidance.sds import SDS
from threedgen.guidance.vsd import VSD
from threedgen.representations.hashgrid import HashGridField
from threedgen.representations.particles import Particles
from threedgen.runs.build import build_representation

SMALL = HashGridSettings(levels=3, log2_table=8, base_resolution=4, max_resolution=8, hidden=8, occupancy_resolution=8, samples=24)


def stage(guidance) -> StageSettings:
    return StageSettings(SMALL, guidance, OrbitSettings())


def test_one_scene_is_no_collection():
    for guidance in (SDS(), VSD()):
        assert type(build_representation(stage(guidance), 3, "cpu")) is HashGridField


def test_particles_start_apart_and_the_first_as_it_would_alone():
    several = build_representation(stage(VSD(particles=4)), 3, "cpu")
    assert isinstance(several, Particles)
    tables = [scene.table for scene in several.scenes]
    assert torch.equal(tables[0], build_representation(stage(SDS()), 3, "cpu").table)
    again = [scene.table for scene in build_representation(stage(VSD(particles=4)), 3, "cpu").scenes]
    assert all(torch.equal(a, b) for a, b in zip(tables, again, strict=True))
    # Nor is any of them one of the next seed's.
    following = [scene.table for scene in build_representation(stage(VSD(particles=4)), 4, "cpu").scenes]
    apart = [*tables, *following]
    assert not any(torch.equal(a, b) for i, a in enumerate(apart) for b in apart[:i])
