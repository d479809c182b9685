import csv
import json
import math
import warnings

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from tests.runs.conftest import STAGE, only_run, status_of
from threedgen.cameras import orbit_cameras
from threedgen.config.loader import load
from threedgen.config.schema import DMTetSettings, ExportSettings, HashGridSettings
from threedgen.errors import UserError
from threedgen.representations.dmtet import DMTet
from threedgen.representations.hashgrid import HashGridField
from threedgen.representations.particles import Particles
from threedgen.runs import run
from threedgen.runs.folder import RunFolder
from threedgen.runs.run import execute, export_scenes, repeatable
from threedgen.systems.regularizers import laplacian, normal_consistency


@pytest.mark.parametrize("config", ["quickstart", "quickstart-sds"])
def test_a_run_leaves_everything_its_folder_promises(micro, config, capfd):
    settings = micro("x0_preview_every=12", config=config)
    result = execute(settings, config, "threedgen --config x", {"seed": "default"})
    folder = result.folder
    assert folder.parent.name == config
    status = status_of(folder)
    assert (status["state"], status["step"], status["steps"]) == ("finished", 12, 12)
    assert {kind: folder / path for kind, path in status["files"].items()} == result.files
    assert {"glb", "gif"} <= set(result.files)
    assert all(path.stat().st_size for path in result.files.values())
    assert load(str(folder / "config.yaml")).settings == settings
    assert (folder / "command.txt").read_text() == "threedgen --config x\n"
    assert json.loads((folder / "sources.json").read_text()) == {"seed": "default"}
    environment = json.loads((folder / "environment.json").read_text())
    assert (environment["threads"], environment["device"]) == (2, "cpu")
    previews = [p.name for p in sorted(folder.joinpath("previews").iterdir())]
    assert previews == ["coarse-000006.png", "coarse-000012.png", "coarse-x0-000012.png"]
    with Image.open(folder / "previews" / "coarse-000006.png") as preview:
        assert preview.size == (4 * 128, 128)
    with safe_open(folder / "checkpoints" / "coarse.safetensors", "pt") as file:
        assert file.metadata()["step"] == "12"
    rows = list(csv.DictReader((folder / "logs" / "coarse" / "metrics.csv").read_text().splitlines()))
    assert math.isfinite(float(rows[-1]["loss"]))
    assert list(folder.joinpath("logs", "coarse").glob("events.*"))
    assert not [p for p in folder.rglob("*") if p.name.endswith(".tmp")]
    out, err = capfd.readouterr()
    assert out == ""
    assert [line.split()[2] for line in err.splitlines()] == [f"{s}/12" for s in (2, 3, 4, 5, 6, 8, 9, 10, 11, 12)]


def test_every_scene_has_its_asset_and_a_single_one_keeps_its_names(tmp_path):
    settings = ExportSettings(
        ["glb", "obj"], resolution=24, threshold=5.0, faces=200, texture=64, turntable_frames=1, turntable_resolution=32
    )
    field = HashGridSettings(levels=3, log2_table=8, base_resolution=4, max_resolution=8, hidden=8, occupancy_resolution=8, samples=24)
    scenes = [HashGridField(field, seed=number) for number in range(2)]
    one = export_scenes(scenes[0], settings, tmp_path / "one", "apple")
    several = export_scenes(Particles(scenes), settings, tmp_path / "several", "apple")
    assert {path.name for path in one.values()} >= {"apple.glb", "apple.obj", "apple.mtl", "apple.png", "turntable.gif", "turntable.png"}
    assert {path.name for path in several.values()} >= {"apple-1.glb", "apple-2.glb", "apple-2.mtl", "turntable-1.gif", "turntable-2.png"}
    assert set(several) == {f"{kind}-{number}" for kind in one for number in (1, 2)}
    assert set(several.values()) == set((tmp_path / "several").iterdir())
    assert several["texture-1"].read_bytes() == one["texture"].read_bytes()
    assert several["texture-2"].read_bytes() != one["texture"].read_bytes()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(micro, tmp_path):
    made = [
        execute(micro(f"output={tmp_path / name}", seed), "quickstart")
        for name, seed in (("a", "seed=1"), ("b", "seed=1"), ("c", "seed=2"))
    ]
    glbs = [result.files["glb"].read_bytes() for result in made]
    assert glbs[0] == glbs[1]
    assert glbs[0] != glbs[2]
    states = [load_file(result.folder / "checkpoints" / "coarse.safetensors") for result in made[:2]]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_run_in_the_folder_of_an_earlier_one_starts_afresh(micro):
    first = execute(micro(), "quickstart")
    glb = first.files["glb"].read_bytes()
    (first.folder / "error.log").write_text("old")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = execute(micro(), "quickstart")
    assert second.folder == first.folder
    assert second.files["glb"].read_bytes() == glb
    assert not (second.folder / "error.log").exists()
    assert len(list((second.folder / "logs" / "coarse").glob("events.*"))) == 1


def test_an_empty_scene_is_one_line_and_keeps_the_checkpoint(micro, tmp_path):
    with pytest.raises(UserError, match="the scene is empty") as caught:
        execute(micro("export.threshold=1e9"), "quickstart")
    assert "\n" not in str(caught.value)
    folder = only_run(tmp_path)
    assert (status_of(folder)["state"], status_of(folder)["reason"]) == ("failed", str(caught.value))
    assert load_file(folder / "checkpoints" / "coarse.safetensors")
    assert not list(folder.joinpath("export").glob("*"))


def test_an_unexpected_error_marks_the_run_as_failed(micro, tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("boom")

    monkeypatch.setattr(run, "build_representation", broken)
    with pytest.raises(RuntimeError, match="boom"):
        execute(micro(), "quickstart")
    assert status_of(only_run(tmp_path)) == {"state": "failed", "reason": "boom"}


def test_a_hostile_prompt_stays_below_the_output(micro, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "_work", lambda *_: {})
    for prompt in ("../../barrel", "/etc/barrel", "barrel\0\n\u202e${x}", "b" * 5000 + "arrel", "..", "\U0001f6e2"):
        settings = micro()
        settings.prompt = prompt
        folder = execute(settings, "../config").folder
        assert folder.resolve().is_relative_to(tmp_path / "runs")
        assert folder.resolve().parent.parent == tmp_path / "runs"
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]


def test_a_prompt_the_prior_does_not_know_is_bad_input(micro):
    with pytest.raises(UserError, match="the analytic prior does not know"):
        execute(micro("prompt=a teapot"), "quickstart")


def test_the_state_of_a_run_is_the_state_of_its_stage(micro):
    folder = execute(micro(f"{STAGE}.steps=7"), "quickstart").folder
    state = load_file(folder / "checkpoints" / "coarse.safetensors")
    assert int(state["objective.bank.rounds"]) == 2
    field = HashGridField(micro().stages["coarse"].representation)
    prefix = "representation."
    field.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})


def test_what_threads_add_up_is_the_same_again(micro):
    """A mesh with its penalties scatters more than torch leaves to one thread."""
    torch.set_num_threads(2)
    surface, cameras = DMTet(DMTetSettings(resolution=56, shape_radius=0.7)), orbit_cameras([0.0, 120.0, 240.0], 20.0, 2.6, 40.0, 48, 48)

    def gradient() -> torch.Tensor:
        render = surface.render(cameras)
        loss = render.rgb.square().sum() + 100 * normal_consistency(render) + 100 * laplacian(render)
        return torch.autograd.grad(loss, surface.sdf)[0]

    with repeatable("cpu"):
        first = gradient()
        assert all(torch.equal(gradient(), first) for _ in range(8))
    assert not torch.are_deterministic_algorithms_enabled()


def test_folders_are_owned_by_one_run_at_a_time(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.locked(), pytest.raises(UserError, match="another process is working"), RunFolder(tmp_path / "run").locked():
        pass
    with folder.locked():
        assert folder.path.is_dir()
