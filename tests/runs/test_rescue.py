"""Steps whose numbers are not finite, and steps that run out of memory."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from benchmarks.reliability.trials import command, posed_ball
from tests.runs.conftest import only_run, status_of
from tests.runs.test_checkpoints import Crash, crash_after
from threedgen.config.loader import load
from threedgen.errors import UserError
from threedgen.runs.checkpoints import Checkpoints, State, digest, read_checkpoint
from threedgen.runs.run import execute
from threedgen.systems.distillation import Distillation


@pytest.fixture(autouse=True)
def threads_kept():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def ball(tmp_path_factory) -> Path:
    return posed_ball(tmp_path_factory.mktemp("ball") / "data")


@pytest.fixture
def fit(ball, tmp_path):
    """(kind, folder, resume) -> the last state of a small fit."""

    def run(kind: str = "hashgrid", folder: str = "a", resume: bool = False, *more: str) -> State:
        words = [word for word in command(kind, ball, tmp_path / folder, "stages.fit.steps=14", "preview_every=0", *more) if "=" in word]
        made = execute(load("fit", words).settings, "fit", resume=resume)
        return read_checkpoint(made.folder / "checkpoints" / "fit.safetensors")

    return run


def spoil(monkeypatch, what: str, steps: range, number: float = math.nan) -> None:
    """Put a number into the loss, the gradient or the parameters of some steps."""
    forward, refuse, step = Distillation.training_step, Distillation.on_before_optimizer_step, Distillation.optimizer_step

    def training_step(self, batch, index):
        loss = forward(self, batch, index)
        return loss * number if what == "loss" and batch in steps else loss

    def on_before_optimizer_step(self, optimizer) -> None:
        if what == "gradient" and self.global_step in steps:
            next(p.grad for p in self.representation.parameters() if p.grad is not None).view(-1)[0] = number
        refuse(self, optimizer)

    def optimizer_step(self, *rest, **named) -> None:
        if what == "parameters" and self.global_step in steps:
            next(self.representation.parameters()).detach().view(-1)[0] = number
        step(self, *rest, **named)

    monkeypatch.setattr(Distillation, "training_step", training_step)
    monkeypatch.setattr(Distillation, "on_before_optimizer_step", on_before_optimizer_step)
    monkeypatch.setattr(Distillation, "optimizer_step", optimizer_step)


def states_by_step(monkeypatch) -> dict[int, str]:
    """Hashes of parameters, buffers and moments after each step of the runs that follow."""
    found, write = {}, Checkpoints.on_train_batch_end

    def note(self, trainer, system, *rest) -> None:
        moments = {f"{i}/{k}": v for i, state in enumerate(trainer.optimizers[0].state.values()) for k, v in state.items()}
        found[trainer.global_step] = digest(dict(system.state_dict()) | moments, 0)
        write(self, trainer, system, *rest)

    monkeypatch.setattr(Checkpoints, "on_train_batch_end", note)
    return found


@pytest.mark.parametrize(
    ("kind", "what", "number"),
    [("hashgrid", "gradient", 1e30), ("gaussians", "gradient", math.nan), ("gaussians", "loss", math.inf), ("dmtet", "loss", math.nan)],
)
def test_of_a_step_that_is_not_finite_nothing_is_left(kind, what, number, fit, monkeypatch, capsys):
    spoil(monkeypatch, what, range(6, 7), number)
    states = states_by_step(monkeypatch)
    fit(kind, "a", False, *(["stages.fit.representation.strategy=adc"] if kind == "gaussians" else []))
    assert states[7] == states[6]
    assert len(set(states.values())) == 13
    err = capsys.readouterr().err
    assert err.count("step 7: the ") == 1
    assert "is not finite; the step is left out" in err


@pytest.mark.parametrize(
    ("kind", "what", "steps"),
    [("hashgrid", "loss", range(5, 7)), ("hashgrid", "parameters", range(9, 10)), ("gaussians", "parameters", range(9, 10))],
)
def test_a_run_that_goes_on_after_it_makes_the_same_bytes(kind, what, steps, fit, monkeypatch, capsys):
    spoil(monkeypatch, what, steps)
    whole = fit(kind, "whole")
    with monkeypatch.context() as patch:
        crash_after(steps.stop, patch, "fit")
        with pytest.raises(Crash):
            fit(kind, "broken")
    resumed = fit(kind, "broken", True)
    assert digest(resumed.tensors, 14) == digest(whole.tensors, 14)
    assert all(bool(value.isfinite().all()) for value in whole.tensors.values())
    if what == "parameters":
        assert "step 10: the parameters are not finite; they are again what they were after step 8" in capsys.readouterr().err


def test_three_in_a_row_end_the_run_with_a_reason(fit, monkeypatch, tmp_path):
    spoil(monkeypatch, "gradient", range(9, 99), math.inf)
    with pytest.raises(UserError, match=r"step 12: the gradient is not finite, nor was it in the 2 steps before: lower") as caught:
        fit()
    folder = only_run(tmp_path)
    assert (status_of(folder)["state"], status_of(folder)["reason"]) == ("failed", str(caught.value))
    assert read_checkpoint(folder / "checkpoints" / "fit.safetensors").step == 8


def test_broken_parameters_without_a_checkpoint_end_the_run(fit, monkeypatch):
    spoil(monkeypatch, "parameters", range(2, 3))
    with pytest.raises(UserError, match="the parameters are not finite, and there is no checkpoint to go back to"):
        fit()


def short_of_memory(monkeypatch, enough: int, chunk: int) -> list[int]:
    """Have steps run out of memory behind their backward pass, as long as scenes render more samples at once; the sizes they tried.

    A chunk of 0 is that of a representation without chunks.
    """
    tried, begin, check = [], Distillation.on_train_start, Distillation.on_before_optimizer_step

    def on_train_start(self) -> None:
        begin(self)
        self.representation.chunk_samples = chunk

    def on_before_optimizer_step(self, optimizer) -> None:
        size = getattr(self.representation, "chunk_samples", 0)
        tried.append(size)
        if self.global_step >= 5 and (not size or size > enough):
            raise torch.OutOfMemoryError("CUDA out of memory")
        check(self, optimizer)

    monkeypatch.setattr(Distillation, "on_train_start", on_train_start)
    monkeypatch.setattr(Distillation, "on_before_optimizer_step", on_before_optimizer_step)
    return tried


@pytest.mark.parametrize("kind", ["hashgrid", "gaussians"])
def test_a_step_without_memory_is_done_again_in_smaller_parts(kind, fit, monkeypatch, capsys):
    more = ["stages.fit.representation.strategy=adc"] if kind == "gaussians" else []
    plenty = fit(kind, "plenty", False, *more)
    with monkeypatch.context() as patch:
        tried = short_of_memory(patch, 2**14, 2**16)
        short = fit(kind, "short", False, *more)
    assert tried == [2**16] * 6 + [2**15] + [2**14] * 9
    assert digest(short.tensors, 14) == digest(plenty.tensors, 14)
    assert "step 6: memory ran out; from here on 16384 samples are rendered at once" in capsys.readouterr().err


@pytest.mark.parametrize(("chunk", "said"), [(0, "cannot be rendered in smaller parts"), (2**13, "with 4096 samples rendered at once")])
def test_without_smaller_parts_the_run_ends_with_one_line(chunk, said, fit, monkeypatch):
    short_of_memory(monkeypatch, 1, chunk)
    with pytest.raises(UserError, match=f"memory ran out in step 5, .*{said}.*lower") as caught:
        fit()
    assert "\n" not in str(caught.value)
