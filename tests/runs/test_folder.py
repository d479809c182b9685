import json

import pytest

from threedgen.errors import UserError
from threedgen.runs.folder import RunFolder, environment, processor_name


def test_status_keeps_earlier_facts_under_the_newest_state(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_status("running", step=3, steps=9)
    folder.write_status("failed", reason='"quoted"\nand é')
    assert json.loads((tmp_path / "status.json").read_text()) == {"state": "failed", "step": 3, "steps": 9, "reason": '"quoted"\nand é'}


def test_a_new_run_knows_nothing_of_an_earlier_status(tmp_path):
    (tmp_path / "status.json").write_text('{"state": "runn')
    RunFolder(tmp_path).write_status("starting")
    assert json.loads((tmp_path / "status.json").read_text()) == {"state": "starting"}


@pytest.mark.parametrize("place", ["file/run", "/proc/threedgen/run"])
def test_a_place_that_cannot_be_written_is_bad_input(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another folder with output=") as caught, RunFolder(tmp_path / place).locked():
        pass
    assert "\n" not in str(caught.value)


def test_what_a_killed_run_left_is_cleared(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".coarse.safetensors.x1.tmp").write_text("half")
    with RunFolder(tmp_path).locked():
        assert not list((tmp_path / "checkpoints").iterdir())


def test_the_environment_names_versions_hardware_and_threads():
    found = environment("cpu")
    assert found["packages"]["torch"]
    assert found["threads"] >= 1
    assert found["kernels"] in ("compiled", "reference")
    assert found["processor"] == processor_name() != ""
