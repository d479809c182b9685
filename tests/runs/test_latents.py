"""A run that begins with rendered latents: colours of the prior, a stage of colours, a surface, each resumed to the same bytes."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.runs.conftest import MICRO, only_run
from tests.runs.test_checkpoints import Crash, crash_after
from tests.tiny import save_prior, seeded
from threedgen.config.loader import load
from threedgen.config.schema import RunSettings
from threedgen.errors import UserError
from threedgen.guidance.vsd import VSD
from threedgen.priors.latent_colours import linear_colours, white_latent
from threedgen.priors.loading import load_prior
from threedgen.representations import handed_over
from threedgen.representations.latent_field import LatentField
from threedgen.runs.build import build_representation, take_prior
from threedgen.runs.run import execute

CONFIG = """\
prompt: a barrel
stages:
  latent:
    representation:
      {type: latent_nerf, levels: 4, log2_table: 10, max_resolution: 32, hidden: 8, samples: 32, occupancy_resolution: 16, refinement: 4}
    guidance: {type: sds}
    cameras: {type: orbit, views: 2, resolution: 8}
    regularizers: {opaque: 0.1, distortion: 0.1, orientation: 0.1}
    steps: 3
  rgb:
    representation: {shows: rgb}
    guidance: {type: sds, space: both}
    cameras: {resolution: 16}
    steps: 2
  geometry:
    representation: {type: dmtet, resolution: 8, levels: 3, log2_table: 8}
    guidance: {type: sds}
    threshold: 0.05
    steps: 2
"""
NAMES = ["latent", "rgb", "geometry"]
PLAIN = [word for word in MICRO if not word.startswith(("stages.", "prior=")) and "checkpoint" not in word]


@pytest.fixture(scope="module", autouse=True)
def quick():
    """The number of threads as it was; what is handed over need not be fitted well here."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handed_over, "COLOUR_STEPS", 3)
        patch.setattr(handed_over, "BATCH", 512)
        patch.setattr(handed_over, "SAMPLES", 2000)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny_prior(tmp_path_factory) -> Path:
    return seeded(save_prior, tmp_path_factory.mktemp("prior"))


def settings_in(folder: Path, prior: Path, *overrides: str) -> RunSettings:
    config = folder.parent / "latents.yaml"
    config.write_text(CONFIG)
    return load(
        str(config), [*PLAIN, f"prior={prior}", "checkpoint_every=1", f"output={folder}", "x0_preview_every=3", *overrides]
    ).settings


def states(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {name: load_file(folder / "checkpoints" / f"{name}.safetensors") for name in NAMES}


@pytest.fixture(scope="module")
def whole(tiny_prior, tmp_path_factory) -> Path:
    return execute(settings_in(tmp_path_factory.mktemp("latents") / "whole", tiny_prior), "latents").folder


def test_each_stage_trains_what_it_shows(whole, tiny_prior):
    made = states(whole)
    latent, rgb = made["latent"], made["rgb"]
    (weight, bias), white = (made_by(load_prior(str(tiny_prior), "cpu")) for made_by in (linear_colours, white_latent))
    assert torch.allclose(latent["representation.colours.weight"], weight, rtol=1e-4, atol=1e-5)
    assert torch.allclose(latent["representation.colours.bias"], bias, rtol=1e-4, atol=1e-5)
    assert torch.allclose(latent["representation.background.bias"], white, atol=0.01)
    assert latent["representation.refinement.narrow.weight"].abs().max() > 0
    assert not torch.equal(latent["representation.colours.weight"], rgb["representation.colours.weight"])
    assert torch.equal(latent["representation.refinement.narrow.weight"], rgb["representation.refinement.narrow.weight"])
    assert not torch.equal(latent["representation.table"], rgb["representation.table"])
    assert (whole / "previews" / "latent-x0-000003.png").is_file()
    assert list((whole / "export").glob("*.glb"))


@pytest.mark.parametrize(("stage", "step"), [("latent", 2), ("rgb", 1)])
def test_a_run_that_goes_on_makes_the_bytes_of_an_unbroken_one(stage, step, whole, tiny_prior, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        crash_after(step, patch, stage)
        with pytest.raises(Crash):
            execute(settings_in(tmp_path / "broken", tiny_prior), "latents")
    assert only_run(tmp_path / "broken")
    folder = execute(settings_in(tmp_path / "broken", tiny_prior), "latents", resume=True, last="rgb").folder
    for name in NAMES[:2]:
        one, other = (load_file(made / "checkpoints" / f"{name}.safetensors") for made in (whole, folder))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_latents_that_are_not_the_priors_are_refused_before_work_starts(tiny_prior, tmp_path):
    refused = {
        "stage latent: cameras.resolution is 16, and latents of the prior have 8": "stages.latent.cameras.resolution=16",
        "stage latent: representation.channels is 5, and latents of the prior have 4": "stages.latent.representation.channels=5",
    }
    for message, override in refused.items():
        with pytest.raises(UserError, match=message):
            execute(settings_in(tmp_path / "runs", tiny_prior, override), "latents")
    assert not list((tmp_path / "runs").rglob("checkpoints/*.safetensors"))


def test_every_latent_scene_of_a_critic_begins_with_the_colours_of_the_prior(tiny_prior, tmp_path):
    stage = settings_in(tmp_path / "runs", tiny_prior).stages["latent"]
    pair = build_representation(dataclasses.replace(stage, guidance=VSD(particles=2)), 0, "cpu")
    prior = load_prior(str(tiny_prior), "cpu")
    take_prior(pair, prior)
    for scene in pair.scenes:
        assert isinstance(scene, LatentField)
        assert torch.allclose(scene.colours.weight, linear_colours(prior)[0])
        assert torch.equal(scene.background.bias, white_latent(prior))
