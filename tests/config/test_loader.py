import sys

import pytest

from threedgen.config.find import shipped
from threedgen.config.loader import load
from threedgen.config.schema import HashGridSettings, OrbitSettings
from threedgen.errors import UserError


def refused(config: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load(config, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_configs_load_by_name_with_and_without_ending(name):
    plain = load(name, ["prompt=a red apple"], inputs_needed=False)
    assert plain.settings == load(f"{name}.yaml", ["prompt=a red apple"], inputs_needed=False).settings
    assert plain.name == name
    assert plain.settings.prompt == "a red apple"


def test_defaults_file_and_command_line_override_each_other_in_this_order(config_file):
    name = config_file("seed: 5\nprompt: x\nthreads: 2\n" + "stages:" + CORE)
    loaded = load(name, ["seed=6", "seed=7"])
    assert (loaded.settings.seed, loaded.settings.threads, loaded.settings.device) == (7, 2, "auto")
    assert [str(loaded.sources[key]) for key in ("seed", "threads", "device")] == ["command line", "mine.yaml:3", "default"]


CORE = """
  coarse:
    representation: {type: hashgrid}
    guidance: {type: sds}
    cameras: {type: orbit}
"""


def test_settings_are_typed(config_file):
    loaded = load(config_file(), ["stages.coarse.cameras.distance=[2, 3]", "stages.coarse.steps=1e3", "stages.coarse.optimizer.eps=1e-3"])
    stage = loaded.settings.stages["coarse"]
    assert isinstance(stage.representation, HashGridSettings)
    assert isinstance(stage.cameras, OrbitSettings)
    assert [type(v) for v in stage.cameras.distance] == [float, float]
    assert type(stage.steps) is int
    assert (stage.steps, stage.optimizer.eps) == (1000, 0.001)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("stages.coarse.steps=many", ["stages.coarse.steps", "'many'", "whole number from 1 to 10000000", "command line"]),
        ("stages.coarse.steps=0", ["stages.coarse.steps", "got 0"]),
        ("stages.coarse.steps=1.5", ["stages.coarse.steps", "got 1.5"]),
        ("seed=true", ["seed", "'true'"]),
        ("seed=" + "9" * 5000, ["seed"]),
        ("stages.coarse.cameras.elevation=[45, 0]", ["[lowest, highest]", "degrees"]),
        ("stages.coarse.cameras.elevation=[1]", ["two numbers"]),
        ("stages.coarse.cameras.elevation=[0, 1e400]", ["from -89.0 to 89.0"]),
        ("stages.coarse.cameras.resolution={5: 64}", ["milestones", "begin with 0"]),
        ("stages.coarse.cameras.resolution={0: 4}", ["from 8 to 4096", "got 4"]),
        ("stages.coarse.cameras.resolution={0: 64, 0: 65}", ["given twice"]),
        ("stages.coarse.guidance.cfg=[0, 1, 2]", ["schedule", "4, 6, 8", "got 3"]),
        ("stages.coarse.guidance.cfg=[9, 1, 2, 5]", ["must not decrease"]),
        ("stages.coarse.guidance.cfg=[-9, 1, 2, 5]", ["negative step"]),
        ("stages.coarse.guidance.cfg=[0, 1, 5000, 5]", ["from -100.0 to 1000.0", "got 5000"]),
        ("stages.coarse.guidance.cfg={0: 3}", ["schedule"]),
        ("stages.coarse.guidance.cfg=nan", ["number", "'nan'"]),
        ("stages.coarse.representation.background=pink", ["one of white, grey", "'pink'"]),
        ("export.formats=[glb, fbx]", ["glb, obj, ply", "'fbx'"]),
        ("export.threshold=most", ["or auto", "'most'"]),
        ("export.texture=1000", ["power of two", "1000"]),
        ("export=glb", ["group of keys", "export.formats"]),
        ("stages.coarse.guidance=sds", ["group of keys", "stages.coarse.guidance.type"]),
        ("stages.coarse.representation.base_resolution=300", ["max_resolution", "base_resolution"]),
        ("stages.coarse.guidance.type=sds_", ["unknown guidance 'sds_'", "did you mean 'sds'"]),
        ("stages.coarse.guidance.type=[sds]", ["stages.coarse.guidance.type"]),
        ("schema_version=2", ["schema_version", "equal to 1"]),
        ("seed", ["'seed' is no override", "key=value"]),
        ("=3", ["no override"]),
        ("seed=[", ["seed", "whole number"]),
        ("device=gpu", ["one of auto, cpu, cuda", "'gpu'"]),
    ],
)
def test_bad_values_are_refused_with_one_line(config_file, override, parts):
    message = refused(config_file(), override)
    assert all(part in message for part in parts), message


def test_file_errors_name_file_and_line(config_file):
    assert "mine.yaml:2" in refused(config_file("prompt: x\nseed: -1\nstages:" + CORE))
    assert "mine.yaml:3:7: YAML cannot be read: while parsing a flow sequence begun in line 2" in refused(
        config_file("prompt: x\nseed: [1, 2\nstages: }")
    )
    assert "mine.yaml:2" in refused(config_file("prompt: x\nsede: 1\nstages:" + CORE))
    assert "mine.yaml:2:5" in refused(config_file(b"prompt: x\nabc \x00 d: 1\n"))
    assert "mine.yaml:2" in refused(config_file(b"prompt: x\n\xff\xfe: 1\n"))
    assert "given twice (mine.yaml:1 and mine.yaml:2)" in refused(config_file("seed: 1\nseed: 2\nprompt: x\nstages:" + CORE))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "is empty"),
        ("# only a comment\n", "is empty"),
        ("- a\n- b\n", "a list"),
        ("just text", "key: value"),
        ("prompt: x\n", "no stages"),
        ("prompt: x\nstages: {}\n", "no stages"),
        ("prompt: x\nstages: {'a b': {steps: 3}}\n", "no name for a stage"),
        ("prompt: x\nstages: {a: {steps: 3}}\n", "stages.a.representation.type is missing"),
        ("prompt: x\n? [a, b]\n: 3\n", "plain text"),
        ("prompt: !!python/object:os.system x\n", "tag"),
        ("prompt: x\nexport: !!python/object/apply:os.system {formats: [glb]}\n", "tag"),
        ("a: &a [*a]\nprompt: x\n", "unknown key 'a'"),
        ("[" * 1500, "nested too deeply"),
        ("prompt: x\n---\nprompt: y\n", "mine.yaml:2"),
        ("prompt: " + "x" * 100_001, "at most"),
    ],
)
def test_malformed_files_are_refused_with_one_line(config_file, text, part):
    assert part in refused(config_file(text))


def test_missing_configs_are_answered_with_the_nearest_name():
    assert "did you mean 'quickstart'" in refused("quikstart.yaml")
    assert "there is no config" in refused("no\0thing")
    assert "there is no config" in refused("x" * 5000)


def test_a_folder_is_no_config(tmp_path):
    assert "is a folder" in refused(str(tmp_path))


@pytest.mark.parametrize("prompt", ["", " ", "\t\n \u3000"])
def test_empty_prompts_are_refused(config_file, prompt):
    assert "prompt is empty (command line)" in refused(config_file(), f"prompt={prompt}")


@pytest.mark.parametrize("text", ["", "prompt: ???\n"])
def test_missing_prompts_are_refused_unless_nothing_is_run(config_file, text):
    name = config_file(text + "stages:" + CORE)
    assert "no prompt" in refused(name)
    assert load(name, inputs_needed=False).settings.prompt == ""


def test_priors_are_names_or_folders(config_file, tmp_path):
    name = config_file()
    for prior in ("embedded", "analytic", "stable-diffusion-2-1", str(tmp_path)):
        assert load(name, [f"prior={prior}"]).settings.prior == prior
    assert "did you mean 'embedded'" in refused(name, "prior=embeded")
    assert "prior" in refused(name, "prior=no\0thing")
    assert "prior" in refused(name, "prior=")


def test_nothing_is_interpolated(config_file, monkeypatch):
    monkeypatch.setenv("SECRET", "leak")
    name = config_file("prompt: ${oc.env:SECRET}\nstages:" + CORE)
    assert load(name).settings.prompt == "${oc.env:SECRET}"
    assert load(name, ["negative_prompt=${prompt}"]).settings.negative_prompt == "${prompt}"
    for override in ("export.threshold=${oc.env:SECRET}", "seed=${seed}", "stages.coarse.guidance.cfg=${oc.env:SECRET}"):
        assert "leak" not in refused(name, override)


def test_text_that_is_not_unicode_is_refused(config_file):
    assert "UTF-8" in refused(config_file(), "prompt=a \udcff b")


def test_torch_stays_out(config_file):
    before = "torch" in sys.modules
    load(config_file())
    assert ("torch" in sys.modules) == before
