"""Two processes take the steps of one."""

import subprocess
import sys
import tempfile

import pytest
import torch
from safetensors.torch import load_file

from tests.runs.conftest import STAGE
from threedgen.config.loader import load
from threedgen.errors import UserError
from threedgen.runs.devices import check_alive, check_devices
from threedgen.runs.run import execute


def test_two_processes_with_two_views_each_leave_what_one_with_four_leaves(micro, tmp_path):
    # Adam's epsilon is far above rounding, which it would otherwise make whole steps of.
    words = [f"{STAGE}.{word}" for word in ("steps=8", "optimizer.eps=1.0", "optimizer.lr=0.02", "regularizers.entropy=0.01")]
    made = {}
    for devices in (1, 2):
        settings = micro(*words, "threads=1", f"devices={devices}", f"output={tmp_path / str(devices)}", config="quickstart-sds")
        result = execute(settings, "quickstart-sds")
        made[devices] = load_file(result.folder / "checkpoints" / "coarse.safetensors")
        assert [path.name for path in sorted((result.folder / "logs").iterdir())] == ["coarse"]
    assert made[1].keys() == made[2].keys()
    moved = [name for name in made[1] if not torch.equal(made[1][name], made[2][name])]
    assert moved, "the second run was not divided"
    for name, value in made[1].items():
        torch.testing.assert_close(made[2][name], value, atol=1e-6, rtol=1e-5, msg=name)
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("config", "words", "said"),
    [
        ("quickstart-sds", ["devices=3"], r"cameras\.views \(4\) must be a multiple of devices \(3\)"),
        ("quickstart-sds", ["devices=2", "guidance=vsd", "prior=embedded"], "trains a critic.*set devices=1"),
        ("quickstart-sds", ["devices=2", "representation=dmtet"], "draws a surface.*set devices=1"),
        ("quickstart-gaussians", ["devices=2"], "a few whole images a step.*set devices=1"),
    ],
)
def test_what_cannot_be_divided_is_refused_with_the_settings(config, words, said):
    with pytest.raises(UserError, match=said):
        load(config, ["prompt=a barrel", *words])


def test_more_gpus_than_there_are_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    check_devices(2, "cpu")
    with pytest.raises(UserError, match="devices=2, but torch sees 1 CUDA"):
        check_devices(2, "cuda")


def test_a_process_that_ended_is_named_with_its_last_words():
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen([sys.executable, "-c", "raise SystemExit('no room')"], stderr=said)
        process.wait(60)
        with pytest.raises(RuntimeError, match="process 1 of the run ended with 1: no room"):
            check_alive({1: (process, said)})
