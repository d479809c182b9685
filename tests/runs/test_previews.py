"""Pictures of a stage while it is made: views of the scenes, and what the prior takes them for."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.oracles import Prompts, two_image_prior
from threedgen.config.schema import HashGridSettings, OrbitSettings, StageSettings
from threedgen.guidance.core import Teacher
from threedgen.guidance.im3d import IM3D
from threedgen.guidance.sds import SDS
from threedgen.representations.hashgrid import HashGridField
from threedgen.representations.particles import Particles
from threedgen.runs.callbacks import write_preview
from threedgen.runs.folder import RunFolder
from threedgen.runs.x0_preview import LEVELS, X0Previews, x0_grid
from threedgen.systems.distillation import Distillation

SIZE, CELL = 6, 128
SMALL = HashGridSettings(levels=3, log2_table=8, base_resolution=4, max_resolution=8, hidden=8, occupancy_resolution=8, samples=24)


def system_of(guidance=None, views: int = 2, scenes: int = 1, resolution: object = SIZE) -> Distillation:
    fields = [HashGridField(SMALL, seed=number) for number in range(scenes)]
    stage = StageSettings(SMALL, guidance or SDS(cfg=1.0), OrbitSettings(views=views, resolution=resolution), steps=4)
    prior = two_image_prior(SIZE)
    return Distillation(stage, Particles(fields) if scenes > 1 else fields[0], Teacher(prior, Prompts(prior, "red")), seed=3)


def pixels(path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture).astype(int)


def test_a_preview_has_a_row_for_every_scene(tmp_path):
    system = system_of(scenes=3)
    with torch.no_grad():
        for scene, bias in zip(system.representation.scenes, (-5.0, 0.0, 5.0), strict=True):
            scene.head_bias[1:] = bias
    write_preview(system, tmp_path / "several.png")
    several = pixels(tmp_path / "several.png")
    assert several.shape == (3 * CELL, 4 * CELL, 3)
    middles = several[CELL // 2 :: CELL, CELL // 2]
    assert middles[0].max() < middles[1].min() < middles[2].min()
    alone = system_of()
    with torch.no_grad():
        alone.representation.head_bias[1:] = -5.0
    write_preview(alone, tmp_path / "alone.png")
    assert np.array_equal(pixels(tmp_path / "alone.png"), several[:CELL])


@pytest.mark.parametrize("guidance", [SDS(cfg=1.0), IM3D(cfg=1.0, rescale=0.0)], ids=["sds", "im3d"])
def test_the_last_column_of_an_x0_preview_is_the_prompted_image_and_the_first_the_rendering(tmp_path, guidance):
    folder, system = RunFolder(tmp_path), system_of(guidance)
    callback = X0Previews(folder, "coarse", 2)
    for done in (1, 2, 3, 4):
        callback.on_train_batch_end(SimpleNamespace(global_step=done), system, None, 0, 0)
    assert sorted(path.name for path in folder.previews.iterdir()) == ["coarse-x0-000002.png", "coarse-x0-000004.png"]
    shown = pixels(folder.previews / "coarse-x0-000004.png")
    assert shown.shape == (4 * CELL, (1 + LEVELS) * CELL, 3)
    assert np.array_equal(shown[:, -CELL:], np.broadcast_to([255, 0, 0], (4 * CELL, CELL, 3)))
    corners = shown[::CELL, 0]
    assert np.array_equal(corners, np.full((4, 3), 255))  # white background in the corner of every rendering


def test_an_x0_preview_every_zero_steps_writes_nothing(tmp_path):
    X0Previews(RunFolder(tmp_path), "coarse", 0).on_train_batch_end(SimpleNamespace(global_step=4), system_of(), None, 0, 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("views", "rows"), [(1, 4), (2, 4), (3, 6), (4, 4), (5, 5)])
def test_rows_are_the_views_of_the_turntable_in_order_asked_as_many_at_a_time_as_in_a_step(views, rows):
    system = system_of(views=views, resolution={0: 4, 2: 5})
    asked = []
    predict = system.objective.teacher.prior.predict_noise
    system.objective.teacher.prior.predict_noise = lambda z, t, cond: asked.append(cond.views) or predict(z, t, cond)
    with torch.no_grad():
        system.representation.table.normal_(0, 1, generator=torch.Generator().manual_seed(0))
        turn = system.representation.render(system.sampler.turntable(rows, 5)).rgb.permute(0, 3, 1, 2)
    grid = x0_grid(system, 3)
    assert grid.shape == (rows, 1 + LEVELS, 3, SIZE, SIZE)
    assert torch.allclose(grid[:, 0], torch.nn.functional.interpolate(turn, (SIZE, SIZE), mode="bilinear", antialias=True), atol=1e-6)
    assert set(asked) == {views}


def test_an_x0_preview_leaves_no_trace_in_the_run(tmp_path):
    results = []
    for every in (0, 1):
        system = system_of(IM3D(first_fit=2, fit=1, rays=32, first_denoise=1, denoise=1))
        callback = X0Previews(RunFolder(tmp_path), "coarse", every)
        optimizer, torch_state = system.configure_optimizers(), torch.get_rng_state()
        for step in range(3):
            optimizer.zero_grad()
            system.objective(system.representation, system.draws(step), False).loss.backward()
            optimizer.step()
            callback.on_train_batch_end(SimpleNamespace(global_step=step + 1), system, None, 0, 0)
        assert torch.equal(torch.get_rng_state(), torch_state)
        results.append(system.state_dict())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
