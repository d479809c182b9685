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
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from threedgen.config.loader import load_run
from threedgen.runs.build import build_representation
from threedgen.runs.checkpoints import STOPPING
from threedgen.runs.devices import HOST, PATIENCE, SameStart, joined
from threedgen.runs.folder import RunFolder
from threedgen.runs.rescue import Rescue
from threedgen.runs.run import repeatable, run_steps
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
    stages, teachers = stages_of(settings), Teachers(settings, device, folder.prompts)
    # All of them, as the run does: the first stage that fits images says how they are read.
    found = {stage.name: (stage, teachers.of(stage.settings)) for stage in stages}
    stage, teacher = found[name]
    representation = build_representation(stage.settings, stage.seed, device, teachers.images)
    system = Distillation(stage.settings, representation, teacher, stage.seed)
    store = TCPStore(HOST, port, count, is_master=False, timeout=PATIENCE)
    store.set(f"ready-{rank}", "")
    with repeatable(device), joined(store, rank, count, device):
        rescue = Rescue(stage.checkpoint(folder), stage.digest, io.StringIO())
        run_steps(system, stage, count, device, done, [rescue, SameStart(done)], logger=False)


if __name__ == "__main__":
    rank, path, name, count, port, device, done, threads = sys.argv[1:]
    main(int(rank), Path(path), name, int(count), int(port), device, int(done), int(threads))
