"""What a run will take, from a few steps that are really done: nothing is written."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from threedgen.config.schema import RunSettings, StageSettings
from threedgen.guidance.core import Teacher
from threedgen.guidance.im3d import IM3D
from threedgen.runs.build import build_representation, build_teacher, pick_device
from threedgen.systems.distillation import Distillation
from threedgen.systems.objectives import ReconstructionObjective

# Measured on the shipped meshes: simplification, atlas, baking and writing, and one frame of the turntable.
EXPORT_SECONDS = 10.0
FRAME_SECONDS = 0.05
TRIALS = 3


@dataclass
class Estimate:
    """Seconds and bytes a run is expected to take; `parts` splits the seconds by what they are spent on."""

    seconds: float
    peak_bytes: int
    parts: dict[str, float]


def estimate(settings: RunSettings) -> Estimate:
    """Build the first stage, time a few of its steps, and extrapolate to all steps and rounds."""
    device = pick_device(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    started = time.monotonic()
    teacher = build_teacher(settings, device, None)
    parts = {"loading": time.monotonic() - started}
    for name, stage in settings.stages.items():
        parts |= {f"stage {name}, {what}": seconds for what, seconds in _stage_seconds(stage, teacher, settings.seed, device).items()}
    parts["export"] = EXPORT_SECONDS + FRAME_SECONDS * settings.export.turntable_frames
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Estimate(sum(parts.values()), peak, parts)


def _stage_seconds(stage: StageSettings, teacher: Teacher, seed: int, device: str) -> dict[str, float]:
    """Seconds of a stage by what they are spent on."""
    system = Distillation(stage, build_representation(stage, seed, device), teacher, seed).to(device)
    optimizer = system.configure_optimizers()
    objective = system.objective
    parts: dict[str, float] = {}
    if isinstance(stage.guidance, IM3D):
        assert isinstance(objective, ReconstructionObjective)
        parts["sampling"] = _sampling_seconds(objective, system, stage)

    def step(number: int) -> None:
        lesson = objective(system.representation, system.draws(number), False)
        lesson.loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step(0) if not parts else step(1)
    parts["optimization"] = stage.steps * _median_seconds(lambda i: step(i + 1), TRIALS)
    return parts


def _sampling_seconds(objective: ReconstructionObjective, system: Distillation, stage: StageSettings) -> float:
    """All rounds of denoising, from one round with one and one with two denoising steps."""
    guidance = stage.guidance
    rounds = sum(guidance.asks(step) for step in range(1, stage.steps))
    steps = (guidance.first_denoise, guidance.denoise)
    cost = {}
    for count in (1, 3):
        guidance.first_denoise = guidance.denoise = count
        objective.ask(system.representation, system.draws(0))
        cost[count] = _median_seconds(lambda _: objective.ask(system.representation, system.draws(0)), 1)
    guidance.first_denoise, guidance.denoise = steps
    one = (cost[3] - cost[1]) / 2
    fixed = max(cost[1] - one, 0.0)
    return (1 + rounds) * fixed + (steps[0] + rounds * steps[1]) * one


def _median_seconds(work: Callable[[int], None], times: int) -> float:
    spent = []
    for i in range(times):
        started = time.monotonic()
        work(i)
        spent.append(time.monotonic() - started)
    return sorted(spent)[len(spent) // 2]
