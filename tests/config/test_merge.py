from dataclasses import dataclass

import pytest

from threedgen import registry
from threedgen.config.loader import load
from threedgen.config.schema import setting
from threedgen.errors import UserError

pytestmark = pytest.mark.usefixtures("demo_guidance")

TEXT = """\
prompt: x
stages:
  coarse:
    representation: {type: hashgrid}
    guidance:
      type: demo
      cfg: 30
      label: ${kept} # as text
    cameras: {type: orbit}
"""


def test_another_guidance_drops_the_keys_that_were_written_for_the_old_one(config_file):
    loaded = load(config_file(TEXT), ["stages.coarse.guidance.type=sds"])
    assert loaded.settings.stages["coarse"].guidance.cfg == 7.5
    assert [(d.assignment.path, str(d.assignment.source), d.reason) for d in loaded.dropped] == [
        ("stages.coarse.guidance.cfg", "mine.yaml:7", "written for guidance demo, not for sds"),
        ("stages.coarse.guidance.label", "mine.yaml:8", "written for guidance demo, not for sds"),
    ]


def test_another_type_of_cameras_keeps_the_keys_it_shares_and_drops_the_rest(config_file, monkeypatch):
    @dataclass
    class Still:
        views: int = setting(1, "views")

    monkeypatch.setitem(registry._registry["cameras"], "still", Still)
    text = TEXT.replace("{type: orbit}", "{type: orbit, views: 3, fovy: [30, 30]}")
    loaded = load(config_file(text), ["stages.coarse.cameras.type=still"])
    assert loaded.settings.stages["coarse"].cameras == Still(3)
    assert [(d.assignment.path, d.reason) for d in loaded.dropped] == [("stages.coarse.cameras.fovy", "cameras still has no such key")]


def test_the_same_type_drops_nothing(config_file):
    loaded = load(config_file(TEXT), ["stages.coarse.guidance.type=demo", "stages.coarse.guidance.strict=yes"])
    assert loaded.dropped == []
    assert loaded.settings.stages["coarse"].guidance.label == "${kept}"
    assert loaded.settings.stages["coarse"].guidance.strict is True


@pytest.mark.parametrize("overrides", [["stages.coarse.guidance.type=sds", "stages.coarse.guidance.label=x"]])
def test_an_override_that_does_not_fit_the_type_is_an_error(config_file, overrides):
    with pytest.raises(UserError, match=r"label.*exists in guidance demo, not in guidance sds"):
        load(config_file(TEXT), overrides)


def test_a_file_with_a_key_of_another_type_is_an_error(config_file):
    text = TEXT.replace("label: ${kept}", "grad_clip: 3")
    with pytest.raises(UserError, match=r"grad_clip' \(mine.yaml:8\): this key exists in guidance sds, vsd, ism and \d+ more, not in"):
        load(config_file(text))


def test_checks_across_keys_are_reported_with_their_group(config_file):
    with pytest.raises(UserError, match=r"^stages.coarse.guidance: share must not be 0"):
        load(config_file(TEXT), ["stages.coarse.guidance.strict=on", "stages.coarse.guidance.share=0"])


def test_a_group_can_be_overridden_at_once(config_file):
    loaded = load(config_file(TEXT), ["stages.coarse.guidance={cfg: 5, label: a b}", "export={texture: 512}"])
    guidance = loaded.settings.stages["coarse"].guidance
    assert (guidance.cfg, guidance.label, guidance.count) == (5, "a b", 3)
    assert loaded.settings.export.texture == 512


def test_the_command_line_adds_no_stages(config_file):
    with pytest.raises(UserError, match=r"did you mean 'stages\.coarse\.steps'"):
        load(config_file(TEXT), ["stages.corse.steps=3"])


def test_stages_keep_their_order(config_file):
    text = "prompt: x\nstages:\n" + "".join(
        f"  {name}: {{representation: {{type: hashgrid}}, guidance: {{type: demo}}, cameras: {{type: orbit}}}}\n"
        for name in ("z", "a", "m")
    )
    assert list(load(config_file(text)).settings.stages) == ["z", "a", "m"]


@pytest.mark.parametrize(("raw", "value"), [("yes", True), ("False", False), ("on", True), ("0", False)])
def test_booleans(config_file, raw, value):
    assert load(config_file(TEXT), [f"stages.coarse.guidance.strict={raw}"]).settings.stages["coarse"].guidance.strict is value


@pytest.mark.parametrize("override", ["stages=", "stages={}", "stages.coarse=null", "export=~", "stages.coarse.cameras="])
def test_a_group_cannot_be_emptied_from_the_command_line(config_file, override):
    with pytest.raises(UserError, match="is a group of keys"):
        load(config_file(TEXT), [override])
