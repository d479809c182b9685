"""The stages of a run: who teaches each, whether all of them can be done, and where a run that stopped goes on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError

from threedgen.config.naming import stage_digests
from threedgen.config.schema import RunSettings, StageSettings
from threedgen.config.suggest import choose
from threedgen.data.posed_images import PosedImages
from threedgen.data.scene import Scene, read_scene
from threedgen.draws import generator
from threedgen.errors import UserError
from threedgen.guidance.core import Teacher
from threedgen.guidance.images import Images
from threedgen.representations.base import Representation
from threedgen.runs.build import build_representation, build_teacher
from threedgen.runs.checkpoints import State, metadata_of, newest, previous
from threedgen.runs.folder import RunFolder
from threedgen.storage import replacing
from threedgen.systems.fitting import fit_objective
from threedgen.systems.objectives import check_latents, check_teachable

ASSET_BYTES = 64 * 2**20  # what an asset, its turntable and the logs take on disk, at most
CHECKPOINT_SHARE, MEMORY_SHARE = 3, 4  # parameters and two moments; and a gradient
CHECKPOINTS = 3  # of a stage at the same time: two that are kept, one that is being written


@dataclass(frozen=True)
class Stage:
    """A stage of a run.

    Attributes:
        name: unique in the run.
        settings: complete.
        seed: its draws derive from it; that of the first stage is the run's.
        digest: of all that its result depends on.
    """

    name: str
    settings: StageSettings
    seed: int
    digest: str

    def checkpoint(self, folder: RunFolder) -> Path:
        """Where its newest checkpoint lies."""
        return folder.checkpoints / f"{self.name}.safetensors"


def stages_of(settings: RunSettings) -> list[Stage]:
    """All stages, in their order."""
    digests = stage_digests(settings)
    return [
        Stage(name, stage, generator(settings.seed, 0, number, "stage").initial_seed() if number else settings.seed, digests[name])
        for number, (name, stage) in enumerate(settings.stages.items())
    ]


def until(stages: Sequence[Stage], last: str, first: str) -> list[Stage]:
    """The stages up to one, all where it is ""; UserError where it, or the one to begin with, is none of them."""
    names = [stage.name for stage in stages]
    for option, name in (("--until", last), ("--from", first)):
        if name and name not in names:
            raise UserError(f"{option} {name}: there is no such stage; {choose(name, names)}")
    if last and first and names.index(first) > names.index(last):
        raise UserError(f"--from {first} comes after --until {last}: nothing is left to do")
    return list(stages[: names.index(last) + 1]) if last else list(stages)


class Teachers:
    """Who teaches the stages: a prior with the run's prompts, loaded once, or the images of a scene."""

    def __init__(self, settings: RunSettings, device: str, cache: Path | None) -> None:
        self.settings, self.device, self.cache = settings, device, cache
        self.prior: Teacher | None = None
        self.scene: Scene | None = None
        self.images: PosedImages | None = None

    def of(self, stage: StageSettings) -> Teacher | PosedImages:
        """The teacher of a stage; UserError where it cannot be had."""
        if not isinstance(stage.guidance, Images):
            self.prior = self.prior or build_teacher(self.settings, self.device, self.cache)
            return self.prior
        if self.images is None:
            self.scene = read_scene(self.settings.data, stage.guidance)
            self.images = self.scene.train.to(self.device)
        return self.images


def check_ahead(stages: Sequence[Stage], teachers: Teachers, folder: RunFolder) -> None:
    """UserError where a stage, however late, could not be done: by its teacher, its files, the memory or the disk there is."""
    largest = total = 0
    for stage in stages:
        teacher = teachers.of(stage.settings)
        try:
            if isinstance(teacher, PosedImages):
                fit_objective(stage.settings, teacher)
            else:
                check_teachable(stage.settings.guidance, teacher.prior)
                check_latents(stage.settings, teacher.prior)
            size = _bytes(build_representation(stage.settings, stage.seed, "cpu", teachers.images))
        except UserError as error:
            raise UserError(f"stage {stage.name}: {error}" if len(stages) > 1 else str(error)) from error
        largest, total = max(largest, size), total + size
    on_disk = CHECKPOINTS * CHECKPOINT_SHARE * total + ASSET_BYTES
    _check_room("disk", on_disk, shutil.disk_usage(folder.path).free, "another folder with output=FOLDER")
    _check_room("memory", MEMORY_SHARE * largest, _free_memory(teachers.device), "a smaller representation")


def _check_room(what: str, needed: int, free: int, hint: str) -> None:
    if needed > free:
        raise UserError(f"the run needs {needed / 2**30:.1f} GiB of {what} at least, and {free / 2**30:.1f} are free: choose {hint}")


def _bytes(representation: Representation) -> int:
    return sum(parameter.nbytes for parameter in representation.parameters())


def _free_memory(device: str) -> int:
    """Bytes of the device's memory that are free."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + _cached()


def _cached() -> int:
    """Bytes that the system holds of files, and gives back when they are needed."""
    rows = (line.split() for line in Path("/proc/meminfo").read_text().splitlines()) if Path("/proc/meminfo").is_file() else ()
    return sum(int(row[1]) * 1024 for row in rows if row[0] in ("Cached:", "SReclaimable:"))


@dataclass(frozen=True)
class Start:
    """Where a run begins: at a stage, with its own state or, where it has none, with the finished one of the stage before."""

    index: int
    state: State | None = None
    before: State | None = None


def start_of(stages: Sequence[Stage], folder: RunFolder, resume: bool, first: str = "") -> Start:
    """What is left to do.

    Args:
        stages: that the run shall do.
        resume: take what is done already, here or in another run of the same config whose settings agree so far.
        first: name of a stage that is done anew, with all that follow; those before it are taken.

    Raises:
        UserError: the stage before `first` is not finished.
    """
    names = [stage.name for stage in stages]
    if first:
        index = names.index(first)
        before = _finished(stages[index - 1], folder) if index else None
        if index and before is None:
            raise UserError(f"--from {first}: the stage {names[index - 1]} before it is not finished; --resume goes on with it")
        return Start(index, None, before)
    for index in reversed(range(len(stages) if resume else 0)):
        stage = stages[index]
        state = newest(stage.checkpoint(folder), stage.digest) or _finished(stage, folder)
        if state is None:
            continue
        for earlier in stages[:index]:
            _finished(earlier, folder)  # so that the folder holds all of its run
        if state.step < stage.settings.steps or index + 1 == len(stages):
            return Start(index, state)
        return Start(index + 1, None, state)
    return Start(0)


def _finished(stage: Stage, folder: RunFolder) -> State | None:
    """The state of a stage at its end, fetched from another run of the same config where this one has none; None where none has."""
    own = stage.checkpoint(folder)
    for path in (own, *sorted(folder.path.parent.glob(f"*/checkpoints/{stage.name}.safetensors"))):
        if _is_finished(path, stage) and (state := newest(path, stage.digest)) is not None and state.step == stage.settings.steps:
            if path != own:
                with replacing(own) as partial:
                    shutil.copyfile(path, partial)
            return state
    return None


def _is_finished(path: Path, stage: Stage) -> bool:
    """Whether a checkpoint says that it is the end of a stage."""
    try:
        metadata = metadata_of(path)
    except (SafetensorError, OSError, ValueError):
        return False
    return metadata.get("settings") == stage.digest and metadata.get("step") == str(stage.settings.steps)


def set_aside(stages: Sequence[Stage], folder: RunFolder) -> None:
    """Move the checkpoints of stages that are done anew to `checkpoints/before/`, so that nothing is lost at once."""
    aside = folder.checkpoints / "before"
    for stage in stages:
        for path in (stage.checkpoint(folder), previous(stage.checkpoint(folder))):
            if path.is_file():
                aside.mkdir(exist_ok=True)
                os.replace(path, aside / path.name)
