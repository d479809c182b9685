"""One run: a folder, its stages in order, the export at the end."""

from __future__ import annotations

import logging
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from torch.utils import deterministic

from threedgen.config.naming import run_folder
from threedgen.config.schema import ExportSettings, RunSettings
from threedgen.config.serialize import to_yaml
from threedgen.errors import Stopped
from threedgen.export.asset import export_asset
from threedgen.guidance.core import Teacher
from threedgen.representations.base import Representation
from threedgen.runs.build import build_representation, pick_device, take_prior
from threedgen.runs.callbacks import Previews, Progress, Status
from threedgen.runs.checkpoints import Checkpoints, State, signals_kept
from threedgen.runs.devices import Processes, SameStart, SharedSteps, check_devices, helped, share_threads
from threedgen.runs.folder import RunFolder, environment
from threedgen.runs.health import HealthMonitor
from threedgen.runs.rescue import Rescue
from threedgen.runs.scores import write_scores
from threedgen.runs.stages import Stage, Start, Teachers, check_ahead, set_aside, stages_of, start_of, until
from threedgen.runs.x0_preview import X0Previews
from threedgen.storage import write_json, write_text
from threedgen.systems.distillation import Distillation


@dataclass
class RunResult:
    """Where a finished run lies, its files by kind ("glb", "gif", ...), how long it took in seconds."""

    folder: Path
    files: dict[str, Path]
    seconds: float


def execute(
    settings: RunSettings,
    config_name: str,
    command: str = "",
    sources: dict[str, str] | None = None,
    resume: bool = False,
    last: str = "",
    first: str = "",
) -> RunResult:
    """Make the asset of a checked config: its stages, then the export.

    Args:
        settings: checked and complete.
        config_name: names the folder of the run.
        command: the command line, kept in the run folder.
        sources: where each value of the settings came from, kept in the run folder.
        resume: go on from the newest whole checkpoint in the folder of these settings, to the bytes an unbroken run makes; stages that
            another run of the config has finished with the same settings are fetched from there. Without any, begin.
        last: name of the stage after which the run ends; "" is the last one.
        first: name of a stage to do anew, with all that follow, where those before it are finished.

    Raises:
        UserError: what the user can mend, before work starts where it can be known then.
        KeyboardInterrupt, Stopped: after the state was saved; status.json says "interrupted".
    """
    started = time.monotonic()
    stages = until(stages_of(settings), last, first)
    folder = RunFolder(run_folder(settings, config_name))
    with folder.locked():
        try:
            _record(settings, folder, command, sources or {})
            files = _work(settings, stages, folder, resume, first)
        except BaseException as error:
            state = "interrupted" if isinstance(error, KeyboardInterrupt | Stopped) else "failed"
            folder.write_status(state, reason=str(error) or type(error).__name__)
            raise
        seconds = time.monotonic() - started
        names = {kind: str(path.relative_to(folder.path)) for kind, path in files.items()}
        folder.write_status("finished", seconds=round(seconds, 1), files=names)
    return RunResult(folder.path, files, seconds)


def _record(settings: RunSettings, folder: RunFolder, command: str, sources: dict[str, str]) -> None:
    """What is needed to understand and to repeat the run."""
    (folder.path / "error.log").unlink(missing_ok=True)
    folder.write_status("starting")
    write_text(folder.path / "config.yaml", to_yaml(settings))
    write_json(folder.path / "sources.json", sources)
    write_text(folder.path / "command.txt", command + "\n")


def _work(settings: RunSettings, stages: list[Stage], folder: RunFolder, resume: bool, first: str) -> dict[str, Path]:
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = pick_device(settings.device)
    check_devices(settings.devices, device)
    if not settings.threads:
        share_threads(settings.devices, device)
    write_json(folder.path / "environment.json", environment(device))
    with repeatable(device):
        return _exported(settings, stages, folder, resume, first, device)


def _exported(settings: RunSettings, stages: list[Stage], folder: RunFolder, resume: bool, first: str, device: str) -> dict[str, Path]:
    """Do what is left of the stages and write the asset; its files by kind."""
    teachers = Teachers(settings, device, folder.prompts)
    check_ahead(stages, teachers, folder)
    start = start_of(stages, folder, resume, first)
    _say_start(start, stages, folder, resume)
    if start.state is None:
        set_aside(stages[start.index :], folder)
    representation = _made(stages, start, teachers, settings, folder, device)
    if teachers.scene:
        write_scores(representation, teachers.scene, folder, device)
    return export_scenes(representation, settings.export, folder.export, folder.path.name.rsplit("-", 1)[0])


def _say_start(start: Start, stages: list[Stage], folder: RunFolder, resume: bool) -> None:
    """Tell what is taken of earlier work, or that there is none."""
    if start.index:
        done = ", ".join(stage.name for stage in stages[: start.index])
        print(f"threedgen: finished before, with the same settings, and taken as it is: {done}", file=sys.stderr)
    elif resume and start.state is None:
        print(f"threedgen: there is no checkpoint of these settings in {folder.path}: the run begins", file=sys.stderr)


def _made(stages: list[Stage], start: Start, teachers: Teachers, settings: RunSettings, folder: RunFolder, device: str) -> Representation:
    """What the last stage leaves behind, each begun with what the one before has made."""
    made = None if start.before is None else finished(stages[start.index - 1], start.before, teachers)
    for stage in stages[start.index :]:
        state = start.state if stage is stages[start.index] else None
        if state is not None and state.step == stage.settings.steps:
            made = finished(stage, state, teachers)
            continue
        fresh, teacher = build_representation(stage.settings, stage.seed, device, teachers.images), teachers.of(stage.settings)
        if state is None and isinstance(teacher, Teacher):
            take_prior(fresh, teacher.prior)
        if state is None and made is not None:
            fresh.start_from(made, stage.settings.threshold, stage.seed)
        system = Distillation(stage.settings, fresh, teacher, stage.seed)
        fit(system, stage, settings, folder, device, state)
        system.objective.close()
        made = fresh
    assert made is not None
    return made


def finished(stage: Stage, state: State, teachers: Teachers) -> Representation:
    """The representation that a stage has left."""
    representation = build_representation(stage.settings, stage.seed, teachers.device, teachers.images)
    representation.load_state_dict(state.of("representation"))
    return representation


def fit(system: Distillation, stage: Stage, settings: RunSettings, folder: RunFolder, device: str, state: State | None = None) -> None:
    """Run the steps of a stage under the Lightning Trainer, those that a state has not done yet."""
    done, name = state.step if state else 0, stage.name
    log = f"{name}-{done}" if done else name
    shutil.rmtree(folder.logs / log, ignore_errors=True)
    loggers = [TensorBoardLogger(folder.logs, name=None, version=log), CSVLogger(folder.logs, name=None, version=log)]
    callbacks = [
        Progress(name),
        Status(folder, name),
        Previews(folder, name, settings.preview_every),
        X0Previews(folder, name, settings.x0_preview_every),
        Rescue(stage.checkpoint(folder), stage.digest),
        HealthMonitor(folder),
        Checkpoints(stage.checkpoint(folder), settings.checkpoint_every, stage.digest, state),
    ]
    if settings.devices > 1:
        callbacks.append(SameStart(done))
    with quiet_log_writer(), helped(folder.path, name, settings.devices, device, done):
        run_steps(system, stage, settings.devices, device, done, callbacks, loggers)


def run_steps(
    system: Distillation, stage: Stage, devices: int, device: str, done: int, callbacks: list[Callback], logger: list[Logger] | bool
) -> None:
    """Run the steps of a stage that are not done yet, as one of as many processes as there are devices."""
    with quiet_lightning(), signals_kept():
        trainer = pl.Trainer(
            accelerator="gpu" if device == "cuda" else "cpu",
            devices=devices,
            strategy="auto" if devices == 1 else SharedSteps(cluster_environment=Processes()),
            max_steps=stage.settings.steps,
            logger=logger,
            callbacks=callbacks,
            log_every_n_steps=10,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            num_sanity_val_steps=0,
        )
        # Lightning counts steps here; a run that goes on begins to count where it stopped.
        trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = done
        try:
            trainer.fit(system, train_dataloaders=range(done, stage.settings.steps))
        except Stopped:
            raise
        except SystemExit as stop:
            # Lightning's answer to Ctrl-C: it lets the callbacks tidy up, ignores further signals and exits.
            if not trainer.interrupted:
                raise
            raise KeyboardInterrupt from stop


@contextmanager
def repeatable(device: str) -> Iterator[None]:
    """On a CPU the same numbers again: torch adds up what several threads scatter (index_put with accumulation) in a fixed order.

    On a GPU that is left to each operator.
    """
    before, warn_only = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = deterministic  # its attribute is made at run time
    fill = memory.fill_uninitialized_memory
    if device == "cpu":
        torch.use_deterministic_algorithms(True)
        memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        memory.fill_uninitialized_memory = fill


@contextmanager
def quiet_log_writer() -> Iterator[None]:
    """TensorBoard's thread prints no traceback when it cannot write: the run meets the same error with its next number."""
    hook = threading.excepthook

    def quiet(arguments: threading.ExceptHookArgs) -> None:
        if not isinstance(arguments.exc_value, OSError):
            hook(arguments)

    threading.excepthook = quiet
    try:
        yield
    finally:
        threading.excepthook = hook


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Lightning says nothing below an error: no banners, no tips, no advice on workers, no words on its own use of torch."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def export_scenes(representation: Representation, settings: ExportSettings, folder: Path, name: str) -> dict[str, Path]:
    """Write the asset of a representation as `<name>`; those of several scenes as `<name>-1`, `<name>-2` and so on.

    Returns:
        The files by kind ("glb", "gif", ...), those of several scenes with their number ("glb-1", ...).

    Raises:
        UserError: a scene is empty, or what `export_asset` raises.
    """
    scenes, written = representation.scenes, {}
    for number, scene in enumerate(scenes, 1):
        suffix = f"-{number}" if len(scenes) > 1 else ""
        mesh = scene.to_mesh(settings.resolution, settings.threshold)
        files = export_asset(mesh, scene.albedo, settings, folder, name + suffix, f"turntable{suffix}")
        written |= {kind + suffix: path for kind, path in files.items()}
    return written
