"""What a run starts from: a prompt, or a folder of posed images; and the short words of the only stage."""

import pytest

from threedgen.config.answers import print_config
from threedgen.config.loader import load
from threedgen.config.naming import run_folder
from threedgen.errors import UserError

TWO_STAGES = """\
prompt: x
stages:
  coarse: {representation: {type: hashgrid}, guidance: {type: sds}, cameras: {type: orbit}}
  fine: {representation: {type: hashgrid}, guidance: {type: sds}, cameras: {type: orbit}}
"""


@pytest.fixture
def data(tmp_path):
    """A folder that looks like one of posed images."""
    folder = tmp_path / "Lego set"
    folder.mkdir()
    (folder / "transforms.json").write_text("{}")
    return folder


def refused(config: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load(config, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_fit_needs_data_and_no_prompt(data):
    settings = load("fit", [f"data={data}"]).settings
    assert (settings.data, settings.prompt) == (str(data), "")
    assert run_folder(settings, "fit").name.startswith("lego-set-")
    assert run_folder(load("fit", [f"data={data}", "prompt=A brick"]).settings, "fit").name.startswith("a-brick-")


def test_data_that_is_missing_or_no_folder_of_images_is_one_line(data, tmp_path):
    assert "fit.yaml has no data: name a folder of posed images" in refused("fit")
    assert "has no data" in refused("fit", "prompt=a red apple")
    for folder in ("", "no/such/folder", "a\0b", str(data / "transforms.json")):
        assert "is no folder (command line): name the folder that holds transforms_train.json" in refused("fit", f"data={folder}")
    assert "holds neither transforms_train.json nor transforms.json" in refused("fit", f"data={tmp_path}")


def test_data_for_a_run_that_does_not_look_at_it_is_refused(data):
    assert "looked at by guidance images alone: use --config fit" in refused("quickstart", "prompt=x", f"data={data}")


def test_a_fit_from_a_text_config_asks_for_data_in_place_of_the_prompt(data):
    assert load("quickstart", [f"data={data}", "guidance=images"]).settings.data == str(data)
    assert "has no data" in refused("quickstart", "prompt=x", "guidance=images")
    assert "has no prompt" in refused("fit", f"data={data}", "guidance=sds")


def test_what_only_a_prior_hears_or_shows_is_refused(data):
    assert "negative_prompt plays no part" in refused("fit", f"data={data}", "negative_prompt=blue")
    assert "x0_preview_every shows what a prior estimates" in refused("fit", f"data={data}", "x0_preview_every=5")


@pytest.mark.parametrize(
    ("word", "part"),
    [("center=[1, 2]", "center must be [x, y, z]"), ("scale=big", "or auto"), ("hold_out=1", "at least 2"), ("rays=-1", "at least 0")],
)
def test_settings_of_the_images_are_checked(data, word, part):
    message = refused("fit", f"data={data}", f"stages.fit.guidance.{word}")
    assert part in message or "from 2 to 1000" in message


def test_something_must_be_compared(data):
    zero = ["stages.fit.guidance.l1=0", "stages.fit.guidance.l2=0"]
    assert "compared by nothing" in refused("fit", f"data={data}", *zero)
    assert "at step 9: set l1 or l2" in refused("fit", f"data={data}", "stages.fit.guidance.l1=[0, 1, 0, 9]", zero[1])
    assert load("fit", [f"data={data}", *zero, "stages.fit.guidance.rays=0"])


def test_a_printed_config_leaves_open_what_must_be_given(capsys):
    print_config("fit", [])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines if "???" in line] == ["data"]


def test_short_words_choose_the_variants_of_the_only_stage(data):
    loaded = load("fit", [f"data={data}", "representation=hashgrid", "cameras=orbit"])
    assert {str(loaded.sources[f"stages.fit.{kind}.type"]) for kind in ("representation", "cameras")} == {"command line"}
    assert (
        load("quickstart", ["prompt=x", "guidance=sds"]).settings
        == load("quickstart", ["prompt=x", "stages.coarse.guidance.type=sds"]).settings
    )


def test_mistakes_in_short_words_are_named(data, config_file):
    assert "unknown representation 'hashgird' (command line): did you mean 'hashgrid'" in refused("fit", "representation=hashgird")
    assert "did you mean 'data'" in refused("fit", f"dta={data}")
    assert "unknown key 'guidance'" in refused(config_file(TWO_STAGES), "guidance=sds")
