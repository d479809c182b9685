"""Checkpoints: whole or not taken, and a run that goes on is one that never stopped."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.runs.conftest import MICRO, PATIENCE, RECONSTRUCTION, STAGE, status_of, wait_for_steps
from threedgen.config.loader import load
from threedgen.config.schema import RunSettings
from threedgen.errors import Stopped, UserError
from threedgen.runs.checkpoints import Checkpoints, digest, newest, previous, read_checkpoint
from threedgen.runs.run import execute

COMMON = ["prompt=a barrel", "checkpoint_every=5", *(word for word in MICRO if "representation" not in word and "checkpoint" not in word)]
HASH_GRID = [word for word in MICRO if "representation" in word]
GAUSSIANS = [
    "representation=gaussians",
    *(f"{STAGE}.representation.{key}" for key in ("count=60", "capacity=80", "densify_from=2", "densify_every=3", "opacity=0.5")),
]
DMTET = ["representation=dmtet", *(f"{STAGE}.representation.{key}" for key in ("resolution=8", "levels=3", "log2_table=8"))]
FLEXICUBES = [word.replace("dmtet", "flexicubes") for word in DMTET]
FLAT = [f"{STAGE}.regularizers.distortion=0"]
KINDS = {
    "hash grid, im3d": ("quickstart", [*HASH_GRID, *RECONSTRUCTION]),
    "hash grid, sds": ("quickstart-sds", HASH_GRID),
    "hash grid, ism": ("quickstart-sds", [*HASH_GRID, "guidance=ism", f"{STAGE}.guidance.space=pixel"]),
    "gaussians mcmc, im3d": ("quickstart", [*GAUSSIANS, *RECONSTRUCTION, *FLAT, f"{STAGE}.representation.strategy=mcmc"]),
    "gaussians adc, sds": ("quickstart-sds", [*GAUSSIANS, f"{STAGE}.representation.strategy=adc"]),
    "dmtet, sds": ("quickstart-sds", DMTET),
    "flexicubes, sds": ("quickstart-sds", FLEXICUBES),
}


def small(kind: str, output: Path, *more: str) -> RunSettings:
    config, words = KINDS[kind]
    return load(config, [*COMMON, *words, f"output={output}", *more]).settings


class Crash(Exception):
    """Ends a run like a crash."""


def crash_after(step: int, monkeypatch: pytest.MonkeyPatch, stage: str = "coarse") -> None:
    """Have runs crash at the end of a stage's step, after its checkpoint if there is one."""
    write = Checkpoints.on_train_batch_end

    def crash(self, trainer, *rest) -> None:
        write(self, trainer, *rest)
        if trainer.global_step == step and self.path.stem == stage:
            raise Crash

    monkeypatch.setattr(Checkpoints, "on_train_batch_end", crash)


@pytest.fixture(autouse=True)
def threads_kept():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


# Killed behind a step that is saved, and between two that are.
@pytest.mark.parametrize(
    ("kind", "step"), [(kind, 9) for kind in KINDS] + [(kind, 5) for kind in ("hash grid, im3d", "gaussians adc, sds")]
)
def test_a_run_that_goes_on_makes_the_bytes_of_an_unbroken_one(kind, step, tmp_path, monkeypatch):
    whole = execute(small(kind, tmp_path / "whole"), "x")
    with monkeypatch.context() as patch:
        crash_after(step, patch)
        with pytest.raises(Crash):
            execute(small(kind, tmp_path / "broken"), "x")
    resumed = execute(small(kind, tmp_path / "broken"), "x", resume=True)
    assert resumed.files["glb"].read_bytes() == whole.files["glb"].read_bytes()
    one, other = (load_file(result.folder / "checkpoints" / "coarse.safetensors") for result in (whole, resumed))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_steps_that_were_done_are_not_done_again(tmp_path, monkeypatch, capsys):
    settings = small("hash grid, sds", tmp_path)
    with monkeypatch.context() as patch:
        crash_after(10, patch)
        with pytest.raises(Crash):
            execute(settings, "x")
    capsys.readouterr()
    result = execute(settings, "x", resume=True)
    assert [line.split()[2] for line in capsys.readouterr().err.splitlines()] == ["11/12", "12/12"]
    assert (result.folder / "logs" / "coarse-10").is_dir()
    execute(settings, "x", resume=True)
    assert capsys.readouterr().err == ""


def test_without_a_checkpoint_a_run_begins_and_says_so(tmp_path, capsys):
    result = execute(small("hash grid, sds", tmp_path), "x", resume=True)
    assert f"there is no checkpoint of these settings in {result.folder}: the run begins" in capsys.readouterr().err
    assert result.files["glb"].is_file()


def test_a_run_in_another_thread_leaves_signals_alone(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(execute, small("hash grid, sds", tmp_path), "x").result()
    assert result.files["glb"].is_file()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_in_the_last_step_is_answered_too(tmp_path, monkeypatch):
    write = Checkpoints.on_train_batch_end

    def signal_in_the_last_step(self, trainer, *rest) -> None:
        if trainer.global_step == trainer.max_steps:
            os.kill(os.getpid(), signal.SIGTERM)
        write(self, trainer, *rest)

    monkeypatch.setattr(Checkpoints, "on_train_batch_end", signal_in_the_last_step)
    with pytest.raises(Stopped):
        execute(small("hash grid, sds", tmp_path), "x")
    [checkpoint] = tmp_path.glob("x/*/checkpoints/coarse.safetensors")
    assert read_checkpoint(checkpoint).step == 12


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The checkpoint of a finished run; the one before it lies beside."""
    threads = torch.get_num_threads()
    folder = execute(small("hash grid, sds", tmp_path_factory.mktemp("runs")), "x").folder
    torch.set_num_threads(threads)
    return folder / "checkpoints" / "coarse.safetensors"


def test_the_last_two_are_kept(finished):
    assert {path.name for path in finished.parent.iterdir()} == {"coarse.safetensors", "coarse.previous.safetensors"}
    assert (read_checkpoint(finished).step, read_checkpoint(previous(finished)).step) == (12, 10)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "absent", "other"])
def test_a_damaged_one_is_named_and_the_one_before_is_taken(damage, finished, tmp_path, capsys):
    path, content = tmp_path / "coarse.safetensors", bytearray(finished.read_bytes())
    previous(path).write_bytes(previous(finished).read_bytes())
    content[-9] ^= 1
    damaged = {"cut": bytes(content[: len(content) // 2]), "flipped": bytes(content), "empty": b""}
    if damage == "other":
        save_file({"x": torch.zeros(3)}, path)
    elif damage != "absent":
        path.write_bytes(damaged[damage])
    state = newest(path)
    assert state is not None
    assert state.step == 10
    err = capsys.readouterr().err
    assert ("coarse.safetensors is damaged and left aside" in err) == (damage != "absent")
    assert len(err.splitlines()) == (damage != "absent")


def test_where_none_is_whole_there_is_none(tmp_path, capsys):
    for path in (tmp_path / "coarse.safetensors", tmp_path / "coarse.previous.safetensors"):
        path.write_bytes(b"\x80\x04.")  # a pickle
    assert newest(tmp_path / "coarse.safetensors") is None
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_the_digest_sees_step_names_shapes_types_and_values():
    tensors = {"a": torch.zeros(4), "b": torch.ones(2)}
    others = [
        {"a": torch.zeros(4), "c": torch.ones(2)},
        {"a": torch.zeros(2, 2), "b": torch.ones(2)},
        {"a": torch.zeros(4, dtype=torch.int32), "b": torch.ones(2)},
        {"a": torch.zeros(4), "b": torch.tensor([1.0, 1.5])},
    ]
    assert digest(tensors, 3) == digest(dict(reversed(tensors.items())), 3)
    assert len({digest(tensors, 3), digest(tensors, 4), *(digest(other, 3) for other in others)}) == 6


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(finished, tmp_path, monkeypatch):
    settings = small("hash grid, sds", tmp_path)
    fsync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if "coarse.safetensors" in os.readlink(f"/proc/self/fd/{descriptor}") and (tmp_path / "full").exists():
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    crash_at = Checkpoints.on_train_batch_end

    def fill(self, trainer, *rest) -> None:
        if trainer.global_step == 10:
            (tmp_path / "full").touch()
        crash_at(self, trainer, *rest)

    monkeypatch.setattr(Checkpoints, "on_train_batch_end", fill)
    with pytest.raises(UserError, match="No space left") as caught:
        execute(settings, "x")
    assert "\n" not in str(caught.value)
    [folder] = tmp_path.glob("x/*")
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["coarse.safetensors"]
    assert read_checkpoint(folder / "checkpoints" / "coarse.safetensors").step == 5


@pytest.mark.parametrize(("number", "code", "said"), [(signal.SIGTERM, 143, "asked to stop"), (signal.SIGINT, 130, "interrupted")])
def test_a_signal_saves_the_state_and_the_run_goes_on_later(number, code, said, command, tmp_path):
    process = command(f"{STAGE}.steps=1000000", "checkpoint_every=0")
    folder = wait_for_steps(process, tmp_path, 2)
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    assert err.splitlines()[-1] == (f"threedgen: {said}; what was made so far is in {folder}, and the same command with --resume goes on")
    assert status_of(folder)["state"] == "interrupted"
    state = read_checkpoint(folder / "checkpoints" / "coarse.safetensors")
    assert state.step >= 2
