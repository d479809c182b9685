"""Do two processes make what one makes?

    python benchmarks/reliability/devices.py [50]

Every kind of step is taken so many times, 5 at least, by one process and by two that share its views or rays (devices=2, on the CPU).
Wrong are parameters that differ by more than 1e-6. Adam's epsilon is 1 here: with the usual 1e-15 it makes whole steps of gradients that
are nothing but rounding. The last column says, for comparison, how far one process is from itself with a learning rate that is larger by
two parts in ten million. Prints one table; exit code 1 when something is wrong.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from trials import FIELD, count_from, emptied, posed_ball, start, table, workplace

from threedgen.runs.checkpoints import State, read_checkpoint

LIMIT = 1e-6
STEADY = ["eps=1.0", "lr=0.02"]
NUDGED = 0.02 * (1 + 2e-7)
SMALL = ["threads=1", "preview_every=0", "export.resolution=16", "export.faces=100", "export.texture=64", "export.turntable_frames=0"]
SMALL += ["export.threshold=0.02", "export.turntable_resolution=32"]
CLOUD = ("count=200", "capacity=300", "strategy=adc", "densify_from=2", "densify_every=7", "grad_threshold=0.001", "opacity=0.3")
ROUNDS = ("warm_up=4", "first_fit=8", "fit=8", "first_denoise=3", "denoise=2", "rays=512")
# Config, words that choose, and by group what differs from them in the one stage.
KINDS: dict[str, tuple[str, list[str], dict[str, tuple[str, ...]]]] = {
    "sds, field": ("quickstart-sds", [], {"representation": FIELD, "regularizers": ("opaque=0.1", "entropy=0.01", "orientation=0.01")}),
    "sds, Gaussians": ("quickstart-sds", ["representation=gaussians"], {"representation": CLOUD, "regularizers": ("opacity=0.01",)}),
    "im3d, field": ("quickstart", [], {"representation": FIELD, "guidance": ROUNDS}),
    "fit, field": ("fit", [], {"representation": FIELD, "guidance": ("rays=256",)}),
    "fit, Gaussians": ("fit", ["representation=gaussians"], {"representation": CLOUD, "guidance": ("views=2",)}),
}


def stage_of(kind: str) -> str:
    return "stages.fit" if KINDS[kind][0] == "fit" else "stages.coarse"


def words_of(kind: str, steps: int, data: Path, output: Path) -> list[str]:
    """The command line of a run."""
    config, choices, groups = KINDS[kind]
    fits = config == "fit"
    stage = stage_of(kind)
    words = ["--config", config, *SMALL, f"output={output}", *choices, f"{stage}.steps={steps}"]
    words += [f"data={data}"] if fits else ["prompt=a barrel", "prior=analytic", f"{stage}.cameras.resolution=16"]
    words += [f"{stage}.{group}.{word}" for group, settings in groups.items() for word in settings]
    return words + [f"{stage}.optimizer.{word}" for word in STEADY]


def made(words: list[str], output: Path, log: Path) -> State:
    """What the stage of a run leaves; RuntimeError with what it said where it fails before its end."""
    run = start(words, log)
    run.end(seconds=1200.0)
    if run.code:
        raise RuntimeError(f"code {run.code}: {run.said()[-2000:]}")
    return read_checkpoint(next(file for file in output.glob("*/*/checkpoints/*.safetensors") if "previous" not in file.name))


def apart(one: State, other: State) -> float:
    """Largest difference of a number of the representations."""
    there = other.of("representation")
    pairs = [(value, there[name]) for name, value in one.of("representation").items() if value.is_floating_point() and value.numel()]
    return max(float((a.double() - b.double()).abs().max()) for a, b in pairs)


def main(steps: int) -> int:
    rows: list[dict[str, Any]] = []
    torch.set_num_threads(1)
    with workplace() as name:
        place = Path(name)
        data, log, output = posed_ball(place / "data"), place / "log", place / "runs"
        for kind in KINDS:
            changes = {"one": [], "two": ["devices=2"], "nudged": [f"{stage_of(kind)}.optimizer.lr={NUDGED}"]}
            states = {label: made([*words_of(kind, steps, data, emptied(output)), *more], output, log) for label, more in changes.items()}
            moved, rounding = (apart(states["one"], states[label]) for label in ("two", "nudged"))
            rows.append({"steps": kind, "two processes": f"{moved:.1e}", "wrong": int(not moved <= LIMIT), "nudged": f"{rounding:.1e}"})
            print(rows[-1], file=sys.stderr, flush=True)
    table(rows)
    return int(any(row["wrong"] for row in rows))


if __name__ == "__main__":
    raise SystemExit(main(count_from(sys.argv[1:], 50)))
