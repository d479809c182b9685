"""The state of a stage on disk: safetensors and nothing else, checked by a hash, the last two kept."""

from __future__ import annotations

import hashlib
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from threedgen.errors import Stopped
from threedgen.storage import replacing

FORMAT = "threedgen-stage-3"
MOMENTS = "optimizer"  # prefix of the optimizer's state
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@dataclass(frozen=True)
class State:
    """What a checkpoint holds: tensors by name, and the steps that were done."""

    tensors: dict[str, Tensor]
    step: int

    def of(self, part: str) -> dict[str, Tensor]:
        """The tensors of a part of the system, such as "representation", under its own names."""
        return {name.removeprefix(f"{part}."): value for name, value in self.tensors.items() if name.startswith(f"{part}.")}


def write_checkpoint(system: pl.LightningModule, optimizer: torch.optim.Optimizer, step: int, path: Path, settings: str = "") -> None:
    """State of representation, target bank, critic and optimizer after a step; the one before is kept as `<stem>.previous.safetensors`.

    Args:
        settings: hash of what the stage depends on (`stage_digests`).

    Raises:
        UserError: it cannot be written; older ones stay.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in system.state_dict().items()}
    for name, parameter in system.named_parameters():
        for kind, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{MOMENTS}.{name}/{kind}"] = value.detach().cpu().contiguous()
    metadata = {"format": FORMAT, "step": str(step), "settings": settings, "digest": digest(tensors, step, settings)}
    content = save(tensors, metadata=metadata)
    with replacing(path, keep=previous(path)) as partial:
        partial.write_bytes(content)


def previous(path: Path) -> Path:
    """Where the checkpoint before the newest lies."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def digest(tensors: Mapping[str, Tensor], step: int, settings: str = "") -> str:
    """Hash of the step, of the settings' hash, and of names, types, shapes and values."""
    found = hashlib.blake2b(f"{step}|{settings}|".encode(), digest_size=16)
    for name in sorted(tensors):
        value = tensors[name]
        found.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return found.hexdigest()


def newest(path: Path, settings: str = "") -> State | None:
    """The newest checkpoint that is whole; None where there is none. Says which ones are damaged.

    Args:
        path: of the newest one.
        settings: those of other settings are left aside, if given.
    """
    for file in (path, previous(path)):
        if not file.is_file():
            continue
        try:
            if not settings or metadata_of(file).get("settings") == settings:
                return read_checkpoint(file)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            print(f"threedgen: the checkpoint {file} is damaged and left aside ({' '.join(str(error).split())[:100]})", file=sys.stderr)
    return None


def read_checkpoint(path: Path) -> State:
    """A checkpoint's content; SafetensorError, OSError, ValueError or KeyError where it is none, or not what was written."""
    metadata = metadata_of(path)
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    state = State(tensors, int(metadata["step"]))
    if digest(state.tensors, state.step, metadata.get("settings", "")) != metadata["digest"]:
        raise ValueError("its content is not what was written")
    return state


def metadata_of(path: Path) -> dict[str, str]:
    """What a checkpoint says of itself, read without its content; SafetensorError, OSError or ValueError where it is none."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    if metadata.get("format") != FORMAT:
        raise ValueError(f"its format is {metadata.get('format')}, not {FORMAT}")
    return metadata


def restore(system: pl.LightningModule, optimizer: torch.optim.Optimizer | None, state: State) -> None:
    """Put a state into a system and, where steps will follow, its optimizer; RuntimeError where names or shapes differ."""
    own = {name: value for name, value in state.tensors.items() if not name.startswith(f"{MOMENTS}.")}
    system.load_state_dict(own)
    if optimizer is None:
        return
    for name, parameter in system.named_parameters():
        prefix = f"{MOMENTS}.{name}/"
        found = {key.removeprefix(prefix): value for key, value in state.tensors.items() if key.startswith(prefix)}
        if found:
            optimizer.state[parameter] = {kind: value.clone().to(parameter.device) for kind, value in found.items()}


class Checkpoints(Callback):
    """Goes on from a state, writes the stage's every so many steps and at its end, and stops between two steps when a signal asks to.

    A state is only ever written between steps. A second Ctrl-C stops at once, with what was written before.
    """

    def __init__(self, path: Path, every: int, settings: str, state: State | None = None) -> None:
        self.path, self.every, self.settings, self.state = path, every, settings, state
        self.asked: int | None = None  # signal that asked to stop

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.state is not None:
            restore(pl_module, trainer.optimizers[0], self.state)
        for number in STOPPING if in_main_thread() else ():
            signal.signal(number, self.ask)

    def ask(self, number: int, frame: FrameType | None) -> None:
        """Remember to stop; at once where the user insists."""
        if self.asked is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = number

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if self.asked is not None or step == trainer.max_steps or (self.every and step % self.every == 0):
            write_checkpoint(pl_module, trainer.optimizers[0], step, self.path, self.settings)
        if self.asked is not None:
            raise KeyboardInterrupt if self.asked == signal.SIGINT else Stopped


@contextmanager
def signals_kept() -> Iterator[None]:
    """Signals are answered after the block as before it."""
    handlers = {number: signal.getsignal(number) for number in STOPPING} if in_main_thread() else {}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if handler is not None:  # set by other code than Python's, which cannot be had back
                signal.signal(number, handler)


def in_main_thread() -> bool:
    """Whether signals can be answered here: Python answers them in the main thread alone."""
    return threading.current_thread() is threading.main_thread()
