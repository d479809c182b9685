"""Settings reach the parts of a run."""

import torch

from threedgen.cameras import orbit_cameras
from threedgen.config.loader import load
from threedgen.config.schema import HashGridSettings, OrbitSettings, StageSettings
from threedgen.guidance.sds import SDS
from threedgen.guidance.vsd import VSD
from threedgen.representations.hashgrid import HashGridField
from threedgen.representations.particles import Particles
from threedgen.runs.build import build_representation, build_teacher

RUN = ["prior=analytic", "prompt=a barrel with a face", "prompts.view_dependent=words", "prompts.view_drop.back=[face]"]


def test_prompts_depend_on_the_view_and_perp_neg_is_prepared_where_it_is_used():
    plain = build_teacher(load("quickstart-sds", RUN).settings, "cpu", None).prompts
    assert plain.texts["text"][2] == "a barrel with a, back view"
    assert "perp_0" not in plain.texts
    for scale in ("1", "[3000, 0, 1, 3500]"):
        bank = build_teacher(load("quickstart-sds", [*RUN, f"stages.coarse.guidance.perp_neg={scale}"]).settings, "cpu", None).prompts
        assert bank.texts["perp_0"] == ("a barrel with a face, front view",)
        c2w = orbit_cameras([0.0, 180.0], 10.0, 2.6, 40.0, 8, 8).c2w
        assert torch.equal(bank.rows("text", c2w), bank.rows("perp_1", c2w))


def test_to_the_closed_form_prior_a_rules_own_words_say_nothing():
    words = ["prior=analytic", "prompt=a barrel", "stages.coarse.guidance.type=nfsd"]
    bank, c2w = build_teacher(load("quickstart-sds", words).settings, "cpu", None).prompts, torch.eye(4)[None]
    assert torch.equal(bank.rows("flaws", c2w), bank.rows("null", c2w))


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
