"""What a run will take, from a few steps that are really done: nothing is written."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from threedgen.config.schema import RunSettings, StageSettings
from threedgen.representations.sdf import SDFField
from threedgen.representations.volume import Volume
from threedgen.runs.build import build_representation, pick_device
from threedgen.runs.stages import Teachers, stages_of
from threedgen.systems.critic import CriticTrainer
from threedgen.systems.distillation import Distillation
from threedgen.systems.objectives import Objective, ReconstructionObjective, ResidualObjective
from threedgen.systems.regularizers import needs_normals, penalties

# Measured on the shipped meshes: simplification, atlas, baking and writing, and one frame of the turntable.
EXPORT_SECONDS = 10.0
FRAME_SECONDS = 0.05
# Share of the scene's radius up to which a field holds matter once it is trained; a fresh one is only its small blob.
OBJECT_RADIUS = 0.85
SHELL_CELLS = 4  # of the occupancy grid, around a surface of distances
BAKED_POINTS = 65_536
TEXEL_BYTES = 120  # held at a time while a texture is baked, beside what the colour field needs
TRIALS = 3


@dataclass
class Estimate:
    """Seconds and bytes a run is expected to take; `parts` splits the seconds by what they are spent on."""

    seconds: float
    peak_bytes: int
    parts: dict[str, float]


def estimate(settings: RunSettings) -> Estimate:
    """Build each stage, time a few of its steps, and extrapolate to all steps and rounds."""
    device = pick_device(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    started = time.monotonic()
    stages, teachers = stages_of(settings), Teachers(settings, device, None)
    teaching = [teachers.of(stage.settings) for stage in stages]
    parts, missing, scenes = {"loading": time.monotonic() - started}, 0, 1
    for stage, teacher in zip(stages, teaching, strict=True):
        representation = build_representation(stage.settings, stage.seed, device, teachers.images)
        system = Distillation(stage.settings, representation, teacher, stage.seed).to(device)
        optimizer = system.configure_optimizers()
        parts |= {f"stage {stage.name}, {what}": seconds for what, seconds in _stage_seconds(system, optimizer).items()}
        missing, scenes = max(missing, _missing_moments(optimizer)), len(representation.scenes)
        system.objective.close()
    parts["export"] = scenes * (EXPORT_SECONDS + FRAME_SECONDS * settings.export.turntable_frames)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Estimate(sum(parts.values()), peak + missing + TEXEL_BYTES * settings.export.texture**2, parts)


def _stage_seconds(system: Distillation, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Seconds of a stage by what they are spent on; of several scenes, a few are stepped."""
    stage, objective = system.settings, system.objective
    for scene in system.representation.scenes:
        _fill(scene)
    parts: dict[str, float] = {}
    if isinstance(objective, ReconstructionObjective):
        parts["sampling"] = _sampling_seconds(objective, system, stage)
        if objective.shaping is not None:
            parts["warm-up"] = _shaping_seconds(objective.shaping, system, stage)
    elif isinstance(objective, ResidualObjective) and objective.trainer is not None and objective.trainer.rule.path_steps:
        parts["first critic"] = _first_critic_seconds(objective, objective.trainer, system)

    # At step 0 a reconstruction asks for targets, and a critic may be fitted to the first renderings: both are timed apart. The
    # other guidances show the resolution and the penalties they have half way.
    middle = stage.steps // 2
    first = stage.guidance.warm_up + 1 if isinstance(objective, ReconstructionObjective) else max(middle, 1)

    def step(number: int) -> None:
        lesson = objective(system.representation, system.draws(first + number), needs_normals(stage.regularizers, middle))
        (lesson.loss + sum(penalties(stage.regularizers, lesson.render, middle).values())).backward()
        optimizer.step()
        optimizer.zero_grad()

    step(0)
    one = _median_seconds(lambda i: step(i + 1), TRIALS)
    scene = system.representation.scenes[0]
    upkeep = _median_seconds(lambda i: scene.after_step(15, system.draws(i)), 1) / 16
    warm_up = stage.guidance.warm_up if isinstance(objective, ReconstructionObjective) else 0
    parts["optimization"] = (stage.steps - warm_up) * (one + upkeep)
    scene.albedo(torch.zeros(BAKED_POINTS, 3, device=system.device))
    return parts


def _missing_moments(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of Adam's two moments that the scenes not yet stepped will need."""
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p not in optimizer.state]
    return 2 * sum(p.nbytes for p in parameters)


def _first_critic_seconds(objective: ResidualObjective, trainer: CriticTrainer, system: Distillation) -> float:
    """The critic's steps on the first renderings."""
    draws = system.draws(0)
    cameras = system.sampler.sample(draws)
    with torch.no_grad():
        step = objective.distilled(system.representation.render(cameras, draws=draws), cameras, draws).step
    trainer.update(step, 0)
    return trainer.rule.path_steps * _median_seconds(lambda i: trainer.update(step, i + 1), TRIALS)


def _fill(representation: nn.Module) -> None:
    """Let a fresh field march through as much space as a trained one."""
    if isinstance(representation, Volume):
        grid = representation.occupancy
        distance = grid.cell_points(torch.full((grid.resolution**3, 3), 0.5, device=grid.opacity.device)).norm(dim=-1)
        hollow = OBJECT_RADIUS - SHELL_CELLS * 2 / grid.resolution if isinstance(representation, SDFField) else 0.0
        grid.occupied.copy_(((distance < OBJECT_RADIUS) & (distance >= hollow)).reshape(grid.occupied.shape))


def _sampling_seconds(objective: ReconstructionObjective, system: Distillation, stage: StageSettings) -> float:
    """All rounds of denoising, from rounds with one and with three denoising steps."""
    guidance = stage.guidance
    start = guidance.warm_up
    rounds = sum(guidance.asks(step) for step in range(start + 1, stage.steps))
    steps = (guidance.first_denoise, guidance.denoise)
    first = guidance.first_denoise if guidance.starts_anew(start) else guidance.denoise
    cost = {}
    for count in (1, 3):
        guidance.first_denoise = guidance.denoise = count
        objective.ask(system.representation, system.draws(start))
        cost[count] = _median_seconds(lambda _: objective.ask(system.representation, system.draws(start)), 1)
    guidance.first_denoise, guidance.denoise = steps
    one = (cost[3] - cost[1]) / 2
    fixed = max(cost[1] - one, 0.0)
    return (1 + rounds) * fixed + (first + rounds * steps[1]) * one


def _shaping_seconds(shaping: Objective, system: Distillation, stage: StageSettings) -> float:
    """The steps of a warm-up."""

    def step(number: int) -> None:
        shaping(system.representation, system.draws(number), False).loss.backward()
        system.zero_grad()

    step(0)
    return stage.guidance.warm_up * _median_seconds(lambda i: step(i + 1), TRIALS)


def _median_seconds(work: Callable[[int], object], times: int) -> float:
    spent = []
    for i in range(times):
        started = time.monotonic()
        work(i)
        spent.append(time.monotonic() - started)
    return sorted(spent)[len(spent) // 2]
