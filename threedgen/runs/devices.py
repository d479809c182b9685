"""Several devices for one run: a process for each, of which the first is the run and the others help it with the steps of a stage.

Only the first touches the run folder, answers signals and says anything. The others are started for a stage, get its state from the first
one, and are gone when it is over: they end with their standard input, so also where the first one is killed. They are programs of their own
(threedgen.runs.helper), not forks and not copies of the command line: threads and CUDA do not survive a fork, and whatever called `execute`
would be run again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import IO

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies import DDPStrategy
from safetensors.torch import load, save
from torch import distributed as dist
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from threedgen.errors import UserError
from threedgen.runs.checkpoints import State, restore, tensors_of

HOST = "127.0.0.1"
PATIENCE = timedelta(minutes=30)  # that the others wait while the first one writes, or loads
POLL_SECONDS = 0.05


def check_devices(count: int, device: str) -> None:
    """UserError where there are fewer GPUs than a run is to use."""
    if device == "cuda" and count > torch.cuda.device_count():
        raise UserError(f"devices={count}, but torch sees {torch.cuda.device_count()} CUDA devices: set devices to at most that many")


def share_threads(count: int, device: str) -> None:
    """Let each of several processes on the CPU take its part of the cores."""
    if count > 1 and device == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // count))


class Processes(ClusterEnvironment):
    """Tells Lightning that the processes are there, and which of them this one is."""

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return HOST

    @property
    def main_port(self) -> int:
        raise RuntimeError("the processes have found one another before Lightning began")

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return dist.get_world_size()

    def set_world_size(self, size: int) -> None:
        pass

    def global_rank(self) -> int:
        return dist.get_rank()

    def set_global_rank(self, rank: int) -> None:
        pass

    def local_rank(self) -> int:
        return dist.get_rank()

    def node_rank(self) -> int:
        return 0


class SharedSteps(DDPStrategy):
    """Lightning's data-parallel strategy, with gradients that the system adds up itself (`ranks.add_gradients`).

    The wrapper of torch would average them in the backward pass. It expects one backward pass a step, through all parameters: scenes that
    take turns and critics that are trained along have others.
    """

    def configure_ddp(self) -> None:
        pass


class SameStart(Callback):
    """Gives every process the first one's state, where the first step begins. Comes after what restores one."""

    def __init__(self, done: int) -> None:
        self.done = done

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        first = dist.get_rank() == 0
        content = [save(tensors_of(pl_module, trainer.optimizers[0])) if first else b""]
        dist.broadcast_object_list(content)
        if not first:
            restore(pl_module, trainer.optimizers[0], State(load(content[0]), self.done))


@contextmanager
def joined(store: TCPStore, rank: int, count: int, device: str) -> Iterator[None]:
    """The processes find one another, and are as good as alone again after the block."""
    dist.init_process_group("nccl" if device == "cuda" else "gloo", store=store, rank=rank, world_size=count, timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def helped(folder: Path, stage: str, count: int, device: str, done: int) -> Iterator[None]:
    """Processes that share the steps of a stage in the block; with one device, none.

    Raises:
        RuntimeError: one of them has ended before its time, with the last that it said.
    """
    if count == 1:
        yield
        return
    store = TCPStore(HOST, 0, count, is_master=True, timeout=PATIENCE, wait_for_workers=False)
    with ExitStack() as stack:
        words = [str(word) for word in (folder, stage, count, store.port, device, done, torch.get_num_threads())]
        helpers = {rank: stack.enter_context(helper(rank, words)) for rank in range(1, count)}
        while not store.check([f"ready-{rank}" for rank in helpers]):
            check_alive(helpers)
            time.sleep(POLL_SECONDS)
        try:
            with joined(store, 0, count, device):
                yield
        except RuntimeError:
            time.sleep(POLL_SECONDS)  # the end of a connection comes before that of its process
            check_alive(helpers)
            raise


@contextmanager
def helper(rank: int, words: list[str]) -> Iterator[tuple[subprocess.Popen, IO[bytes]]]:
    """One further process and what it says, gone after the block: it holds nothing that is not also here."""
    import threedgen

    paths = [str(Path(threedgen.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, "-m", "threedgen.runs.helper", str(rank), *words]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=said,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)},
            start_new_session=True,  # Ctrl-C is for the first one, which says when it is over
        )
        try:
            yield process, said
        finally:
            process.kill()
            process.communicate()


def check_alive(helpers: Mapping[int, tuple[subprocess.Popen, IO[bytes]]]) -> None:
    """RuntimeError where a process has ended."""
    for rank, (process, said) in helpers.items():
        if process.poll() is not None:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            raise RuntimeError(f"process {rank} of the run ended with {process.returncode}: {lines[-1] if lines else 'it said nothing'}")
