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

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from threedgen.config.naming import run_folder
from threedgen.config.schema import ExportSettings, RunSettings
from threedgen.config.serialize import to_yaml
from threedgen.data.scene import read_scene
from threedgen.errors import Stopped
from threedgen.export.asset import export_asset
from threedgen.guidance.images import Images
from threedgen.representations.base import Representation
from threedgen.runs.build import build_representation, build_teacher, only_stage, pick_device
from threedgen.runs.callbacks import Previews, Progress, Status
from threedgen.runs.checkpoints import Checkpoints, State, newest, restore, signals_kept
from threedgen.runs.folder import RunFolder, environment
from threedgen.runs.health import HealthMonitor
from threedgen.runs.rescue import Rescue
from threedgen.runs.scores import write_scores
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
    settings: RunSettings, config_name: str, command: str = "", sources: dict[str, str] | None = None, resume: bool = False
) -> RunResult:
    """Make the asset of a checked config: its stage, then the export.

    Args:
        settings: checked and complete.
        config_name: names the folder of the run.
        command: the command line, kept in the run folder.
        sources: where each value of the settings came from, kept in the run folder.
        resume: go on from the newest whole checkpoint in the folder of these settings, to the bytes an unbroken run makes; without
            one, begin.

    Raises:
        UserError: what the user can mend, before work starts where it can be known then.
        KeyboardInterrupt, Stopped: after the state was saved; status.json says "interrupted".
    """
    started = time.monotonic()
    only_stage(settings)
    folder = RunFolder(run_folder(settings, config_name))
    with folder.locked():
        try:
            _record(settings, folder, command, sources or {})
            files = _work(settings, folder, resume)
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


def _work(settings: RunSettings, folder: RunFolder, resume: bool) -> dict[str, Path]:
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = pick_device(settings.device)
    write_json(folder.path / "environment.json", environment(device))
    name, stage = only_stage(settings)
    scene = read_scene(settings.data, stage.guidance) if isinstance(stage.guidance, Images) else None
    teacher = scene.train.to(device) if scene else build_teacher(settings, device, folder.prompts)
    representation = build_representation(stage, settings.seed, device)
    state = newest(folder.checkpoints / f"{name}.safetensors") if resume else None
    if resume and state is None:
        print(f"threedgen: there is no checkpoint of these settings in {folder.path}: the run begins", file=sys.stderr)
    fit(Distillation(stage, representation, teacher, settings.seed), name, settings, folder, device, state)
    if scene:
        write_scores(representation, scene, folder, device)
    return export_scenes(representation, settings.export, folder.export, folder.path.name.rsplit("-", 1)[0])


def fit(system: Distillation, name: str, settings: RunSettings, folder: RunFolder, device: str, state: State | None = None) -> None:
    """Run the steps of a stage under the Lightning Trainer, those that a state has not done yet."""
    steps, done = system.settings.steps, state.step if state else 0
    if state is not None and done == steps:
        restore(system.to(device), None, state)
        return
    log = f"{name}-{done}" if done else name
    shutil.rmtree(folder.logs / log, ignore_errors=True)
    with quiet_lightning(), quiet_log_writer(), signals_kept():
        trainer = _trainer(steps, name, log, settings, folder, device, state)
        # Lightning counts steps here; a run that goes on begins to count where it stopped.
        trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = done
        try:
            trainer.fit(system, train_dataloaders=range(done, steps))
        except Stopped:
            raise
        except SystemExit as stop:
            # Lightning's answer to Ctrl-C: it lets the callbacks tidy up, ignores further signals and exits.
            if not trainer.interrupted:
                raise
            raise KeyboardInterrupt from stop


def _trainer(steps: int, name: str, log: str, settings: RunSettings, folder: RunFolder, device: str, state: State | None) -> pl.Trainer:
    return pl.Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        max_steps=steps,
        logger=[TensorBoardLogger(folder.logs, name=None, version=log), CSVLogger(folder.logs, name=None, version=log)],
        callbacks=[
            Progress(name),
            Status(folder, name),
            Previews(folder, name, settings.preview_every),
            X0Previews(folder, name, settings.x0_preview_every),
            Rescue(folder, name),
            HealthMonitor(folder),
            Checkpoints(folder, name, settings.checkpoint_every, state),
        ],
        log_every_n_steps=10,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
    )


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
