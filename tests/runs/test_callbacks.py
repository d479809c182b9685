import io
from types import SimpleNamespace

import pytest

from threedgen.runs.callbacks import Progress, Status
from threedgen.runs.folder import RunFolder


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def driven(stream: io.StringIO, total: int, steps: int | None = None) -> str:
    """What is shown over the steps of a stage."""
    trainer = SimpleNamespace(global_step=0, max_steps=total, callback_metrics={"loss": 0.25, "loss/guidance": 0.2, "t": 3.0})
    progress = Progress("coarse", stream)
    progress.on_train_start(trainer, None)
    for step in range(steps or total):
        trainer.global_step = step + 1
        progress.on_train_batch_end(trainer, None, None, 0, 0)
    progress.on_train_end(trainer, None)
    return stream.getvalue()


@pytest.mark.parametrize("total", [1, 7, 10, 25, 1000])
def test_without_a_terminal_there_is_a_plain_line_every_tenth(total):
    lines = driven(io.StringIO(), total).splitlines()
    assert len(lines) == min(total, 10)
    assert lines[-1].startswith(f"coarse: step {total}/{total}  100%")
    assert all("guidance 0.2" in line and "steps/s" in line and "left" in line and "t 3" not in line for line in lines)
    assert not any("\r" in line for line in lines)


def test_on_a_terminal_one_line_is_redrawn(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    shown = driven(Terminal(), 500)
    assert shown.count("\n") == 1
    assert shown.endswith("\n")
    redrawn = shown.strip("\n").split("\r")[1:]
    assert redrawn[0].startswith("coarse: step 1/500")
    assert redrawn[-1].startswith("coarse: step 500/500")
    assert all(len(line) < 60 for line in redrawn)


def test_a_stage_without_steps_leaves_no_empty_line():
    stream = Terminal()
    progress = Progress("coarse", stream)
    progress.on_exception(SimpleNamespace(), None, KeyboardInterrupt())
    assert stream.getvalue() == ""


def test_the_status_is_written_at_the_start_now_and_then_and_at_the_end(tmp_path):
    folder = RunFolder(tmp_path)
    trainer = SimpleNamespace(global_step=0, max_steps=10)
    status = Status(folder, "coarse", every_seconds=0.0)
    status.on_train_start(trainer, None)
    assert folder.status == {"state": "running", "stage": "coarse", "step": 0, "steps": 10, "seconds": 0.0, "seconds_left": None}
    trainer.global_step = 4
    status.on_train_batch_end(trainer, None, None, 0, 0)
    assert folder.status["step"] == 4
    status.every = 1e9
    trainer.global_step = 5
    status.on_train_batch_end(trainer, None, None, 0, 0)
    assert folder.status["step"] == 4
    status.on_exception(trainer, None, KeyboardInterrupt())
    assert (folder.status["step"], folder.status["seconds_left"] is None) == (5, False)
