"""Runs through the command line, in processes of their own."""

import json
import signal

from safetensors import safe_open
from safetensors.torch import load_file

from tests.runs.conftest import PATIENCE, STAGE, only_run, progress_and_other, status_of, wait_for_steps


def test_a_run_prints_its_files_and_shows_nothing_but_progress(command, tmp_path):
    out, err = (process := command()).communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    progress, other = progress_and_other(err)
    assert other == []
    assert len(progress) == 10
    assert "\r" not in err
    assert progress[-1].startswith("coarse: step 12/12  100%")
    assert all(word in progress[0] for word in ("steps/s", "left", "guidance"))
    folder = only_run(tmp_path)
    assert out.splitlines()[0].startswith("Done in ")
    assert str(folder / "export" / "a-barrel.glb") in out
    assert json.loads((folder / "sources.json").read_text())["prior"] == "command line"
    assert "prior=analytic" in (folder / "command.txt").read_text()


def test_a_second_process_is_refused_and_ctrl_c_leaves_a_usable_folder_and_one_line(command, tmp_path):
    endless = f"{STAGE}.steps=1000000"
    process = command(endless)
    folder = wait_for_steps(process, tmp_path, 1)
    config = (folder / "config.yaml").read_bytes()
    _, err = (second := command(endless)).communicate(timeout=PATIENCE)
    assert second.returncode == 2
    assert err.splitlines() == [f"threedgen: another process is working in {folder}; wait for it, or change seed or output"]
    assert (folder / "config.yaml").read_bytes() == config
    assert (process.poll(), status_of(folder)["state"]) == (None, "running")

    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    _, other = progress_and_other(err)
    assert other == [f"threedgen: interrupted; what was made so far is in {folder}, and the same command with --resume goes on"]
    assert out == ""
    status = status_of(folder)
    assert status["state"] == "interrupted"
    assert status["step"] >= 1
    checkpoint = folder / "checkpoints" / "coarse.safetensors"
    assert "representation.table" in load_file(checkpoint)
    with safe_open(checkpoint, "pt") as file:
        assert file.metadata()["step"] == str(status["step"])
    assert not [p for p in folder.rglob("*") if p.name.endswith(".tmp")]


def test_an_output_that_cannot_be_written_is_one_line_and_exit_code_two(command, tmp_path):
    (tmp_path / "a-file").write_text("")
    _, err = (process := command(f"output={tmp_path / 'a-file' / 'runs'}")).communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert len(err.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a-file"]
