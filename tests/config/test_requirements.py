import os
from pathlib import Path

import pytest

from threedgen import registry
from threedgen.config.keys import load_variants
from threedgen.config.loader import load
from threedgen.config.requirements import check_output
from threedgen.errors import UserError

GUIDANCE = "stages.coarse.guidance"


def with_attribute(name: str) -> list[str]:
    load_variants()
    return [guidance for guidance in registry.names("guidance") if getattr(registry.lookup("guidance", guidance), name, False)]


@pytest.mark.parametrize("guidance", [name for name in with_attribute("needs") if name != "images"])
def test_a_guidance_that_needs_more_than_a_text_is_refused(guidance):
    with pytest.raises(UserError, match=rf"^{GUIDANCE}.type: {guidance} needs \w+.*which a run from text does not have \(command line\)"):
        load("quickstart", ["prompt=x", f"{GUIDANCE}.type={guidance}"])


@pytest.mark.parametrize("guidance", with_attribute("critic"))
def test_a_closed_form_prior_trains_no_critic(guidance):
    overrides = ["prompt=x", f"{GUIDANCE}.type={guidance}"]
    load("quickstart", overrides)
    with pytest.raises(UserError, match=f"{guidance} trains a critic .*which the closed-form prior analytic cannot"):
        load("quickstart", [*overrides, "prior=analytic"])


def test_the_rules_that_are_meant_are_found():
    assert {"dds", "c_sds", "di_sds", "zero123"} <= set(with_attribute("needs"))
    assert {"vsd", "esd", "adversarial_sd"} <= set(with_attribute("critic"))
    assert "sds" not in with_attribute("needs") + with_attribute("critic")


@pytest.mark.parametrize("scale", ["1", "[0, 0, 1, 100]"])
def test_a_run_from_text_has_no_image_prompt(scale):
    overrides = ["prompt=x", f"{GUIDANCE}.type=csm"]
    load("quickstart", [*overrides, f"{GUIDANCE}.image_scale=[0, 0, 0, 100]"])
    with pytest.raises(UserError, match=r"image_scale: a run from text has no image prompt \(command line\)"):
        load("quickstart", [*overrides, f"{GUIDANCE}.image_scale={scale}"])


def test_a_folder_that_can_be_made_is_fine_and_is_not_made(tmp_path):
    check_output(str(tmp_path / "a" / "b"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("output", ["", "a\0b"])
def test_impossible_names(output):
    with pytest.raises(UserError, match="is no folder"):
        check_output(output)


@pytest.mark.parametrize("below", ["", "/deeper/still"])
def test_a_file_in_the_way(tmp_path, below):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is not a folder"):
        check_output(f"{tmp_path}/file{below}")


def test_a_name_that_is_too_long(tmp_path):
    with pytest.raises(UserError, match="cannot use"):
        check_output(f"{tmp_path}/{'x' * 300}")


def test_a_folder_without_write_permission(tmp_path, monkeypatch):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    if os.geteuid() == 0:  # root may write anywhere: let the system refuse
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked)
    with pytest.raises(UserError, match="no permission to write"):
        check_output(str(locked / "runs"))
