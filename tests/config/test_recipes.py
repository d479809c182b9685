from pathlib import Path

import pytest

from threedgen import registry
from threedgen.config.find import recipe, shipped
from threedgen.config.keys import load_variants
from threedgen.config.listing import listing
from threedgen.config.loader import Loaded, load
from threedgen.config.naming import run_folder
from threedgen.config.serialize import to_yaml
from threedgen.errors import UserError

CONFIG = """\
prompt: x
stages:
  coarse:
    representation: {type: hashgrid, levels: 7}
    guidance:
      type: im3d
      t_max: 0.6
      bank: 3
    cameras: {type: orbit, views: 2, resolution: 64}
    steps: 460
"""
RECIPE = """\
guidance:
  type: sds
  weight: one
cameras: {resolution: 32}
optimizer: {lr: 0.02}
steps: 200
"""
SDS = "stages.coarse.guidance.type=sds"


def stage(loaded: Loaded):
    return loaded.settings.stages["coarse"]


def guidances_from_text() -> list[str]:
    load_variants()
    return [name for name in registry.names("guidance") if not getattr(registry.lookup("guidance", name), "needs", ())]


@pytest.fixture
def recipe_file(config_file, tmp_path):
    """Write a config and a recipe beside it; returns the config's name."""

    def write(text: str = RECIPE, config: str = CONFIG, name: str = "sds.yaml") -> str:
        folder = tmp_path / "recipes" / "mine"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        return config_file(config)

    return write


def test_a_recipe_lies_between_config_and_command_line(recipe_file):
    loaded = load(recipe_file(), [SDS, "stages.coarse.steps=9"])
    here = stage(loaded)
    assert (here.guidance.weight, here.cameras.resolution, here.optimizer.lr) == ("one", 32, 0.02)
    assert (here.cameras.views, here.representation.levels, here.steps) == (2, 7, 9)
    shown = {key: str(source) for key, source in loaded.sources.items()}
    assert shown["stages.coarse.guidance.weight"] == "recipes/mine/sds.yaml:3"
    assert shown["stages.coarse.cameras.views"] == "mine.yaml:9"
    assert shown["stages.coarse.guidance.type"] == shown["stages.coarse.steps"] == "command line"


def test_what_was_tuned_for_another_guidance_is_dropped_and_named(recipe_file):
    loaded = load(recipe_file(), [SDS])
    assert stage(loaded).guidance.t_max == 0.98
    assert [(drop.assignment.path, str(drop.assignment.source), drop.reason) for drop in loaded.dropped] == [
        ("stages.coarse.guidance.t_max", "mine.yaml:7", "written for guidance im3d, not for sds"),
        ("stages.coarse.guidance.bank", "mine.yaml:8", "written for guidance im3d, not for sds"),
    ]


def test_what_a_recipe_or_the_command_line_gives_anew_is_not_called_dropped(recipe_file):
    name = recipe_file("guidance: {t_max: 0.5}")
    assert [drop.assignment.path for drop in load(name, [SDS]).dropped] == ["stages.coarse.guidance.bank"]
    assert stage(load(name, [SDS])).guidance.t_max == 0.5
    assert stage(load(name, [SDS, "stages.coarse.guidance.t_max=0.7"])).guidance.t_max == 0.7


@pytest.mark.parametrize("overrides", [[], ["stages.coarse.guidance.type=im3d"], [SDS, "stages.coarse.guidance.type=im3d"]])
def test_the_config_s_own_guidance_takes_no_recipe(recipe_file, overrides):
    recipe_file("steps: 1", name="im3d.yaml")
    loaded = load(recipe_file(), overrides)
    assert (stage(loaded).steps, stage(loaded).guidance.bank, loaded.dropped) == (460, 3, [])


def test_a_guidance_that_the_file_chooses_takes_no_recipe(recipe_file):
    name = recipe_file(config=CONFIG.replace("im3d", "sds").replace("      bank: 3\n", ""))
    assert stage(load(name, [SDS])).steps == 460


def test_without_a_recipe_the_rest_of_the_file_stays(recipe_file):
    loaded = load(recipe_file(), ["stages.coarse.guidance.type=sjc"])
    assert (stage(loaded).steps, stage(loaded).guidance.t_max, len(loaded.dropped)) == (460, 0.97, 2)


def test_a_representation_has_recipes_too(recipe_file):
    name = recipe_file("regularizers: {eikonal: 0.3}", name="sdf.yaml")
    loaded = load(name, ["representation=sdf"])
    assert (stage(loaded).representation.density, stage(loaded).regularizers.eikonal, stage(loaded).guidance.bank) == ("neus", 0.3, 3)
    assert stage(load(name, [])).regularizers.eikonal == 0


def test_only_the_stage_that_is_changed_takes_the_recipe(recipe_file):
    body = CONFIG.partition("  coarse:\n")[2]
    name = recipe_file(config=f"prompt: x\nstages:\n  coarse:\n{body}  fine:\n{body}")
    stages = load(name, ["stages.fine.guidance.type=sds"]).settings.stages
    assert (stages["coarse"].steps, stages["fine"].steps) == (460, 200)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 3\noptimizer: {lrr: 1}", r"\(recipes/mine/sds.yaml:2\): did you mean 'stages.coarse.optimizer.lr'"),
        ("guidance: {bank: 3}", r"guidance.bank' \(recipes/mine/sds.yaml:1\): this key exists in guidance im3d, not in guidance sds"),
        ("\nguidance: {type: csd}", r"a recipe is for the guidance of its file name, sds, got csd \(recipes/mine/sds.yaml:2\)"),
        ("guidance: {type: [csd]}", "got a list"),
        ("guidance: sds", r"group of keys, got 'sds' \(recipes/mine/sds.yaml:1\)"),
        ("prompt: a pear", r"unknown key 'stages.coarse.prompt' \(recipes/mine/sds.yaml:1\)"),
        ("steps: many", r"steps: expected a whole number .*'many' \(recipes/mine/sds.yaml:1\)"),
        ("steps: 1\nsteps: 2", "given twice"),
        ("steps: [1", "recipes/mine/sds.yaml:1:10: YAML cannot be read"),
        ("- a", "`key: value` lines"),
    ],
)
def test_a_wrong_recipe_is_refused_with_its_line(recipe_file, text, message):
    with pytest.raises(UserError, match=message) as caught:
        load(recipe_file(text), [SDS])
    assert "\n" not in str(caught.value)


def test_hints_on_a_recipe_stay_inside_the_stage(recipe_file):
    with pytest.raises(UserError) as caught:
        load(recipe_file("prompt: a pear"), [SDS])
    assert "did you mean 'prompt'" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "# nothing yet\n"])
def test_an_empty_recipe_changes_nothing(recipe_file, text):
    assert stage(load(recipe_file(text), [SDS])).steps == 460


def test_a_recipe_that_cannot_be_read_is_refused(recipe_file, tmp_path):
    name = recipe_file()
    (tmp_path / "recipes" / "mine" / "sds.yaml").write_bytes(b"steps: \xff")
    with pytest.raises(UserError, match=r"recipes/mine/sds.yaml:1: not UTF-8"):
        load(name, [SDS])


def test_a_recipe_decides_about_the_run_folder(recipe_file):
    folders = [run_folder(load(recipe_file(text), [SDS]).settings, "mine") for text in (RECIPE, RECIPE.replace("0.02", "0.03"))]
    assert folders[0] != folders[1]


def test_resolved_settings_load_back_to_the_same(recipe_file, tmp_path):
    first = load(recipe_file(), [SDS])
    (tmp_path / "resolved.yaml").write_text(to_yaml(first.settings))
    assert load("resolved.yaml").settings == first.settings


@pytest.mark.parametrize("guidance", guidances_from_text())
def test_every_guidance_has_a_quickstart_recipe_that_loads(guidance):
    path = recipe(shipped()["quickstart"], guidance)
    loaded = load("quickstart", ["prompt=x", f"stages.coarse.guidance.type={guidance}"])
    if guidance == "im3d":  # the config's own
        assert path is None
        return
    assert path is not None
    given = {key for key, source in loaded.sources.items() if source.place.endswith(f"recipes/quickstart/{guidance}.yaml")}
    assert {"stages.coarse.steps", "stages.coarse.optimizer.lr", "stages.coarse.cameras.resolution"} <= given
    assert registry.name_of(stage(loaded).guidance) == guidance


def test_shipped_recipes_belong_to_a_config_and_a_guidance_or_a_representation():
    files = [path for config in shipped().values() for path in (config.parent / "recipes").rglob("*")]
    assert {path.parent.name for path in files if path.is_file()} <= set(shipped())
    names = [*guidances_from_text(), *registry.names("representation")]
    assert {path.name for path in files if path.is_file()} <= {f"{name}.yaml" for name in names}


def test_no_guidance_has_the_name_of_a_representation():
    """Their recipes lie in one folder."""
    load_variants()
    assert not set(registry.names("guidance")) & set(registry.names("representation"))


def test_a_representation_brings_its_recipe_which_lies_over_that_of_the_guidance(recipe_file):
    recipe_file("steps: 50\nregularizers: {laplacian: 0.5}\nrepresentation: {resolution: 20}", name="dmtet.yaml")
    name = recipe_file()
    here = stage(load(name, ["representation=dmtet", SDS]))
    assert (here.steps, here.optimizer.lr, here.representation.resolution, here.regularizers.laplacian) == (50, 0.02, 20, 0.5)
    assert here.representation.levels == 7
    assert stage(load(name, ["representation=dmtet", "stages.coarse.steps=9"])).steps == 9
    assert stage(load(name, [SDS])).steps == 200


@pytest.mark.parametrize("representation", ["dmtet", "flexicubes", "mesh"])
def test_every_representation_of_another_kind_has_a_recipe_for_the_fit(representation):
    loaded = load("fit", [f"representation={representation}"], inputs_needed=False)
    given = {key for key, source in loaded.sources.items() if source.place.endswith(f"recipes/fit/{representation}.yaml")}
    assert {"stages.fit.steps", "stages.fit.optimizer.lr", "stages.fit.representation.shape"} <= given


def test_lists_know_recipes_from_configs():
    assert all(Path(name).name == name and not recipe(path, name) for name, path in shipped().items())
    assert dict(listing("guidances"))["sds"].endswith("Recipe: quickstart.")
    assert "Recipe" not in dict(listing("guidances"))["im3d"]
    assert "needs source" in dict(listing("guidances"))["dds"]
