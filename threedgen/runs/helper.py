"""A process that helps a run with the steps of a stage: `python -m threedgen.runs.helper RANK FOLDER STAGE COUNT PORT DEVICE DONE THREADS`.

It reads the settings in the run folder and writes nothing. Started by `threedgen.runs.devices.helped`, on whose end it ends.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from pathlib import Path

import torch
from torch import distributed as dist

from threedgen.config.loader import load_run
from threedgen.runs.build import build_representation
from threedgen.runs.checkpoints import STOPPING
from threedgen.runs.devices import HOST, PATIENCE, SameStart, joined
from threedgen.runs.folder import RunFolder
from threedgen.runs.rescue import Rescue
from threedgen.runs.run import run_steps
from threedgen.runs.stages import Teachers, stages_of
from threedgen.systems.distillation import Distillation


def end_with_input() -> None:
    """End the process where its standard input ends, which the first process holds."""
    while os.read(sys.stdin.fileno(), 1):  # not by the file object, whose lock would be held when the interpreter ends
        pass
    os._exit(0)


def main(rank: int, path: Path, name: str, count: int, port: int, device: str, done: int, threads: int) -> None:
    """Take the steps of a stage that are not done yet, as the process of a rank."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=end_with_input, daemon=True).start()
    torch.set_num_threads(threads)
    if device == "cuda":
        torch.cuda.set_device(rank)
    settings, folder = load_run(str(path), [], "").settings, RunFolder(path)
    stage = next(stage for stage in stages_of(settings) if stage.name == name)
    teachers = Teachers(settings, device, folder.prompts)
    teacher = teachers.of(stage.settings)
    representation = build_representation(stage.settings, stage.seed, device, teachers.images)
    system = Distillation(stage.settings, representation, teacher, stage.seed)
    store = dist.TCPStore(HOST, port, count, is_master=False, timeout=PATIENCE)
    store.set(f"ready-{rank}", "")
    with joined(store, rank, count, device):
        rescue = Rescue(stage.checkpoint(folder), stage.digest, io.StringIO())
        run_steps(system, stage, count, device, done, [rescue, SameStart(done)], logger=False)


if __name__ == "__main__":
    rank, path, name, count, port, device, done, threads = sys.argv[1:]
    main(int(rank), Path(path), name, int(count), int(port), device, int(done), int(threads))
