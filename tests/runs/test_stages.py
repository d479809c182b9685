"""Runs of several stages: what one hands to the next, and where they go on."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.runs.conftest import MICRO, only_run, status_of
from tests.runs.test_checkpoints import Crash, crash_after
from tests.tiny import save_prior
from threedgen.config.loader import load
from threedgen.config.schema import RunSettings
from threedgen.errors import UserError
from threedgen.representations import handed_over
from threedgen.runs import stages as module
from threedgen.runs.run import execute

CONFIG = """\
prompt: a barrel
stages:
  coarse:
    representation: {type: hashgrid, levels: 4, log2_table: 10, max_resolution: 32, hidden: 8, samples: 32, occupancy_resolution: 16}
    guidance: {type: sds, space: pixel}
    cameras: {type: orbit, views: 2, resolution: 16}
    steps: 4
  geometry:
    representation: {type: dmtet, resolution: 8, levels: 3, log2_table: 8}
    guidance: {type: ism, space: pixel}
    train: geometry
    threshold: 0.05
    steps: 3
  texture:
    guidance: {type: sds, space: pixel}
    train: appearance
    steps: 3
"""
NAMES = ["coarse", "geometry", "texture"]
PLAIN = [word for word in MICRO if not word.startswith("stages.") and "checkpoint" not in word]


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


def settings_in(folder: Path, *overrides: str) -> RunSettings:
    """Settings of the three stages, whose runs lie in a folder."""
    config = folder.parent / "staged.yaml"
    config.write_text(CONFIG)
    return load(str(config), [*PLAIN, "checkpoint_every=2", f"output={folder}", *overrides]).settings


@pytest.fixture
def staged(tmp_path):
    """(output, overrides...) -> settings of the three stages."""
    return lambda output, *overrides: settings_in(tmp_path / output, *overrides)


def states(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {name: load_file(folder / "checkpoints" / f"{name}.safetensors") for name in NAMES}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def whole_once(tmp_path_factory) -> Path:
    return execute(settings_in(tmp_path_factory.mktemp("stages") / "whole"), "staged").folder


@pytest.fixture
def whole(whole_once, staged, tmp_path) -> Path:
    """The folder of a run that nothing disturbed, a copy of it."""
    folder = tmp_path / "whole" / "staged" / whole_once.name
    shutil.copytree(whole_once, folder)
    return folder


def test_every_stage_begins_with_what_the_one_before_made_and_trains_its_part(whole):
    made = states(whole)
    geometry, texture = made["geometry"], made["texture"]
    assert status_of(whole)["state"] == "finished"
    assert torch.equal(geometry["representation.sdf"], texture["representation.sdf"])
    assert not torch.equal(geometry["representation.color.table"], texture["representation.color.table"])
    assert not any("sdf" in name for name in texture if name.startswith("optimizer."))
    assert not any("color" in name for name in geometry if name.startswith("optimizer."))


@pytest.mark.parametrize(("stage", "step"), [("coarse", 4), ("geometry", 2), ("geometry", 3), ("texture", 2)])
def test_a_run_that_goes_on_in_any_stage_makes_the_bytes_of_an_unbroken_one(stage, step, staged, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        crash_after(step, patch, stage)
        with pytest.raises(Crash):
            execute(staged("broken"), "staged")
    folder = only_run(tmp_path / "broken")
    untouched = {name: (folder / "checkpoints" / f"{name}.safetensors").stat().st_mtime_ns for name in NAMES[: NAMES.index(stage)]}
    resumed = execute(staged("broken"), "staged", resume=True)
    assert untouched == {name: (folder / "checkpoints" / f"{name}.safetensors").stat().st_mtime_ns for name in untouched}
    one, other = states(whole), states(resumed.folder)
    assert all(same(one[name], other[name]) for name in NAMES)
    assert resumed.files["glb"].read_bytes() == (whole / "export" / "a-barrel.glb").read_bytes()


def test_a_critic_survives_the_borders_of_stages(staged, tmp_path, monkeypatch):
    save_prior(tmp_path / "prior")
    words = [f"prior={tmp_path / 'prior'}", *(f"stages.{name}.guidance.type=vsd" for name in ("coarse", "texture"))]
    words += ["stages.geometry.guidance.type=sds"]
    one = states(execute(staged("one", *words), "staged").folder)
    for stage, step in (("coarse", 2), ("texture", 2)):
        with monkeypatch.context() as patch:
            crash_after(step, patch, stage)
            with pytest.raises(Crash):
                execute(staged(stage, *words), "staged")
        other = states(execute(staged(stage, *words), "staged", resume=True).folder)
        assert all(same(one[name], other[name]) for name in NAMES)
    assert any("critic" in name for name in one["texture"])


def test_until_ends_early_with_an_asset_and_resume_does_the_rest(staged, whole, capsys):
    early = execute(staged("early"), "staged", last="geometry")
    assert early.files["glb"].is_file()
    assert not (early.folder / "checkpoints" / "texture.safetensors").exists()
    capsys.readouterr()
    rest = execute(staged("early"), "staged", resume=True)
    assert "taken as it is: coarse, geometry" in capsys.readouterr().err
    assert same(states(rest.folder)["texture"], states(whole)["texture"])


def test_another_later_stage_takes_the_finished_ones_of_the_first_run(staged, whole, tmp_path, capsys):
    capsys.readouterr()
    edited = execute(staged("whole", "stages.texture.steps=2"), "staged", resume=True).folder
    assert "taken as it is: coarse, geometry" in capsys.readouterr().err
    assert edited != whole
    assert [same(states(edited)[name], states(whole)[name]) for name in NAMES] == [True, True, False]
    # And nothing is taken of a run whose first stage was another.
    execute(staged("whole", "seed=1"), "staged", resume=True, last="coarse")
    assert "there is no checkpoint of these settings" in capsys.readouterr().err


def test_from_does_a_stage_anew_and_keeps_the_old_one_aside(staged, whole):
    again = execute(staged("whole"), "staged", first="texture").folder
    assert again == whole
    aside = whole / "checkpoints" / "before"
    assert {path.name for path in aside.iterdir()} == {"texture.safetensors", "texture.previous.safetensors"}
    assert same(load_file(aside / "texture.safetensors"), states(whole)["texture"])


def test_from_needs_the_stage_before(staged):
    with pytest.raises(UserError, match="--from texture: the stage geometry before it is not finished"):
        execute(staged("new"), "staged", first="texture")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"last": "geometri"}, "--until geometri: there is no such stage; did you mean 'geometry'"),
        ({"first": "mesh"}, "--from mesh: there is no such stage"),
        ({"first": "texture", "last": "coarse"}, "--from texture comes after --until coarse"),
    ],
)
def test_stages_that_are_none_are_refused_before_anything_is_written(asked, said, staged, tmp_path):
    with pytest.raises(UserError, match=said):
        execute(staged("new"), "staged", **asked)
    assert not (tmp_path / "new").exists()


def test_what_a_late_stage_cannot_have_is_found_before_the_first_begins(staged, tmp_path):
    settings = staged("late", "stages.geometry.representation.shape=mesh", "stages.geometry.representation.shape_file=gone.glb")
    with pytest.raises(UserError, match=r"stage geometry: .*gone\.glb"):
        execute(settings, "staged")
    assert not list((tmp_path / "late").rglob("checkpoints/*"))
    with pytest.raises(UserError, match="stage texture: guidance sds, as it is set, needs"):
        execute(staged("late", "stages.texture.guidance.cfg_mode=embedded"), "staged")


@pytest.mark.parametrize("what", ["disk", "memory"])
def test_a_run_for_which_there_is_no_room_does_not_begin(what, staged, tmp_path, monkeypatch):
    if what == "disk":
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    else:
        monkeypatch.setattr(module, "_free_memory", lambda _: 1000)
    with pytest.raises(UserError, match=f"GiB of {what} at least"):
        execute(staged("full"), "staged")
    assert not list((tmp_path / "full").rglob("checkpoints/*"))
