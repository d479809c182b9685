"""Does a run get over numbers that are not finite?

    python benchmarks/reliability/nan.py [50]

Puts NaN or infinity into the loss, the gradient or the parameters of small runs at one random step, once in a run that goes through and
once in one that is killed some steps later and goes on. Wrong are: a run that does not end well, a state that is not finite, a step that is
left out without a line, other bytes of the two, more than 5 % of the PSNR lost. Prints one table; exit code 1 when something is wrong.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from trials import EVERY, KINDS, command, count_from, emptied, only_folder, posed_ball, start, table, workplace

from threedgen.runs.checkpoints import digest, read_checkpoint
from threedgen.systems.distillation import Distillation

STEPS = 80
MOST_LOST = 0.05


def injecting(what: str, at: int, number: float) -> Callable[[], None]:
    """Spoil one step of a run."""

    def prepare() -> None:
        forward, backward, upkeep = Distillation.training_step, Distillation.on_before_optimizer_step, Distillation.optimizer_step

        def spoil(tensor: torch.Tensor | None) -> None:
            if tensor is not None:
                tensor.detach().view(-1)[0] = number

        def training_step(self: Distillation, batch: int, index: int) -> torch.Tensor:
            loss = forward(self, batch, index)
            return loss * number if what == "loss" and batch == at else loss

        def on_before_optimizer_step(self: Distillation, optimizer: Any) -> None:
            if what == "gradient" and self.global_step == at:
                spoil(next(p.grad for p in self.representation.parameters() if p.grad is not None))
            backward(self, optimizer)

        def optimizer_step(self: Distillation, epoch: int, index: int, *rest: Any, **named: Any) -> None:
            if what == "parameters" and self.global_step == at:
                spoil(next(iter(self.representation.parameters())))
            upkeep(self, epoch, index, *rest, **named)

        Distillation.training_step = training_step
        Distillation.on_before_optimizer_step = on_before_optimizer_step
        Distillation.optimizer_step = optimizer_step

    return prepare


def outcome(output: Path) -> tuple[str, float, bool]:
    """Hash of the last state, PSNR of the test views, whether the state is finite."""
    folder = only_folder(output)
    assert folder is not None
    state = read_checkpoint(folder / "checkpoints" / "fit.safetensors")
    finite = all(bool(value.isfinite().all()) for value in state.tensors.values())
    return digest(state.tensors, state.step), json.loads((folder / "metrics.json").read_text())["test/psnr"], finite


def main(count: int) -> int:
    rng = random.Random(0)
    names = ("failed", "not finite", "no line", "other bytes", "most PSNR lost (%)")
    rows = {what: {"spoilt": what, "runs": 0} | dict.fromkeys(names, 0) for what in ("loss", "gradient", "parameters")}
    with workplace() as name:
        place = Path(name)
        data, log, output = posed_ball(place / "data"), place / "log", place / "runs"
        clean: dict[str, float] = {}
        for number in range(count):
            kind, what = list(KINDS)[number % len(KINDS)], list(rows)[number // len(KINDS) % len(rows)]
            words, row = command(kind, data, output, f"stages.fit.steps={STEPS}", "--resume"), rows[what]
            if kind not in clean:
                emptied(output)
                start(words, log).end()
                clean[kind] = outcome(output)[1]
            at = rng.randrange(EVERY, STEPS)
            prepare = injecting(what, at, rng.choice((math.nan, math.inf, -math.inf)))
            row["runs"] += 1
            emptied(output)
            run = start(words, log, prepare=prepare)
            if run.end() != 0:
                row["failed"] += 1
                print(f"{kind}, {what} at {at}: {run.said().splitlines()[-1]}")
                continue
            row["no line"] += run.said().count(" finite;") != 1
            whole, psnr, finite = outcome(output)
            row["not finite"] += not finite
            row["most PSNR lost (%)"] = max(row["most PSNR lost (%)"], round(100 * (1 - psnr / clean[kind]), 1))
            emptied(output)
            broken = start(words, log, prepare=prepare)
            last = at + rng.randint(1, 6)
            broken.until(lambda name, step, last=last: name == "step" and step >= last)
            broken.kill()
            broken.end()
            start(words, log, prepare=prepare).end()
            row["other bytes"] += outcome(output)[0] != whole
    table(list(rows.values()))
    wrong = any(row[name] for row in rows.values() for name in names[:-1])
    return int(wrong or any(row[names[-1]] > 100 * MOST_LOST for row in rows.values()))


if __name__ == "__main__":
    raise SystemExit(main(count_from(sys.argv[1:], 50)))
