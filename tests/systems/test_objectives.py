import pytest
import torch

from tests.oracles import CountingPrior, Prompts, two_image_prior
from threedgen.cameras import OrbitSampler, orbit_cameras
from threedgen.config.schema import HashGridSettings, OrbitSettings
from threedgen.draws import Draws
from threedgen.guidance.core import Teacher
from threedgen.guidance.im3d import IM3D
from threedgen.guidance.sds import SDS
from threedgen.representations.hashgrid import HashGridField
from threedgen.systems.objectives import ReconstructionObjective, ResidualObjective, TargetBank, background_mask, objective_of

SIZE = 6
SMALL = HashGridSettings(levels=3, log2_table=8, base_resolution=4, max_resolution=8, hidden=8, occupancy_resolution=8, samples=24)


def cameras_of(views: int):
    return orbit_cameras([360.0 * v / views for v in range(views)], 20.0, 2.6, 40.0, SIZE, SIZE)


def draws_of(step: int) -> Draws:
    return Draws(0, step, range(2))


def parts(guidance, word: str = "red"):
    """A field, and the objective of a guidance with two plain images as the prior, two views a step."""
    prior = CountingPrior(two_image_prior(SIZE))
    sampler = OrbitSampler(OrbitSettings(views=2, resolution=SIZE))
    objective = objective_of(guidance, sampler, Teacher(prior, Prompts(prior.prior, word, flaws="")), 100)
    return HashGridField(SMALL), objective, prior


def test_the_bank_is_a_ring_of_the_newest_rounds():
    bank, cameras = TargetBank(3, 2, SIZE), cameras_of(2)
    for number in range(5):
        bank.add(torch.full((2, 3, SIZE, SIZE), float(number)), cameras)
    assert bank.images[:, 0, 0, 0, 0].tolist() == [3.0, 4.0, 2.0]
    assert int(bank.rounds) == 5
    assert torch.equal(bank.c2w[1], cameras.c2w)
    assert torch.equal(bank.fovy[2], cameras.fovy)


def test_rays_of_the_bank_meet_the_pixels_they_are_compared_with():
    bank, cameras = TargetBank(4, 2, SIZE), cameras_of(2)
    images = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    bank.add(images, cameras)
    origins, directions, target, _ = bank.random_rays(200, draws_of(0))
    all_origins, all_directions = (v.reshape(-1, 3) for v in cameras.rays())
    colours = images.permute(0, 2, 3, 1).reshape(-1, 3)
    gap = (all_directions[None] - directions[:, None]).norm(dim=-1) + (all_origins[None] - origins[:, None]).norm(dim=-1)
    assert gap.amin(1).max() < 1e-5
    assert torch.equal(colours[gap.argmin(1)], target)


def test_rays_come_from_every_filled_slot_and_from_no_other():
    bank = TargetBank(4, 2, SIZE)
    for number in (1.0, 2.0):
        bank.add(torch.full((2, 3, SIZE, SIZE), number), cameras_of(2))
    colours = bank.random_rays(500, draws_of(1))[2]
    assert set(colours.unique().tolist()) == {1.0, 2.0}
    assert 0.4 < float((colours == 1).float().mean()) < 0.6
    assert torch.equal(colours, bank.random_rays(500, draws_of(1))[2])
    assert not torch.equal(colours, bank.random_rays(500, draws_of(2))[2])


def test_background_is_what_resembles_the_edge_and_reaches_it():
    images = torch.full((1, 9, 9, 3), 0.9)
    images[0, 2:7, 2:7] = 0.2
    images[0, 4, 4] = 0.9
    images[0, 0, 3] = 0.85
    mask = background_mask(images)
    expected = torch.ones(9, 9, dtype=torch.bool)
    expected[2:7, 2:7] = False
    assert torch.equal(mask[0], expected)


def test_rays_of_background_pixels_are_told():
    bank = TargetBank(1, 2, SIZE)
    images = torch.ones(2, 3, SIZE, SIZE)
    images[:, :, 2:4, 2:4] = 0.0
    bank.add(images, cameras_of(2))
    _, _, target, empty = bank.random_rays(300, draws_of(0))
    assert torch.equal(empty, target[:, 0] == 1)


def test_matter_on_background_rays_is_penalised_on_top_of_the_fit():
    losses = []
    for weight in (0.0, 2.0):
        field, objective, _ = parts(IM3D(rays=64, empty=weight))
        lesson = objective(field, draws_of(0), False)
        empty = objective.bank.random_rays(64, draws_of(0))[3]
        losses.append((float(lesson.loss.detach()), float((lesson.render.alpha[:, 0] * empty).mean().detach())))
    assert losses[1][1] > 0
    assert losses[1][0] - losses[0][0] == pytest.approx(2 * losses[1][1], rel=1e-4)


def test_the_bank_survives_a_state_round_trip():
    bank, other = TargetBank(3, 2, SIZE), TargetBank(3, 2, SIZE)
    bank.add(torch.rand(2, 3, SIZE, SIZE), cameras_of(2))
    other.load_state_dict(bank.state_dict())
    for a, b in zip(bank.random_rays(20, draws_of(3)), other.random_rays(20, draws_of(3)), strict=True):
        assert torch.equal(a, b)


def test_the_steps_of_a_warm_up_distil_and_ask_for_no_round():
    field, objective, prior = parts(IM3D(warm_up=2, first_denoise=3, denoise=2, rays=16))
    for step in range(2):
        assert int(objective.bank.rounds) == 0
        lesson = objective(field, draws_of(step), False)
        assert lesson.render.rgb.shape == (2, SIZE, SIZE, 3)
        assert torch.allclose(lesson.loss * 3 * SIZE**2, objective.shaping(field, draws_of(step), False).loss)
        lesson.loss.backward()
    assert field.table.grad.abs().sum() > 0
    assert len(prior.calls) == 4
    assert objective(field, draws_of(2), False).render.rgb.shape == (16, 3)
    assert int(objective.bank.rounds) == 1


def test_a_guidance_gets_the_objective_of_its_kind():
    assert isinstance(parts(SDS())[1], ResidualObjective)
    assert isinstance(parts(IM3D())[1], ReconstructionObjective)


def test_a_residual_objective_renders_the_step_and_asks_once():
    field, objective, prior = parts(SDS())
    lesson = objective(field, draws_of(4), False)
    assert lesson.render.rgb.shape == (2, SIZE, SIZE, 3)
    assert [rows for rows, _, _ in prior.calls] == [4]
    lesson.loss.backward()
    assert field.table.grad.abs().max() > 0


def test_a_reconstruction_asks_only_when_a_round_begins():
    field, objective, prior = parts(IM3D(first_fit=3, fit=2, first_denoise=4, denoise=2, rays=32))
    calls, rounds = [], []
    for step in range(7):
        rounds.append(objective(field, draws_of(step), False).info["round"])
        calls.append(len(prior.calls))
        prior.calls.clear()
    assert calls == [4, 0, 0, 2, 0, 2, 0]
    assert rounds == [1, 1, 1, 2, 2, 3, 3]


def test_cameras_of_rounds_are_drawn_without_replacement():
    field, objective, _ = parts(IM3D(first_fit=3, fit=3, first_denoise=1, denoise=1, rays=32, bank=4))
    objective.sampler = OrbitSampler(OrbitSettings(views=2, resolution=SIZE, azimuth=[0.0, 90.0], elevation=[0.0, 80.0], strata=4))
    for step in range(12):
        objective(field, draws_of(step), False)
    x, y, _ = objective.bank.c2w[:, 0, :3, 3].unbind(-1)
    assert (torch.rad2deg(torch.atan2(y, x)) // 11.25).sort().values.tolist() == [0, 1, 2, 3]


def test_the_targets_of_an_exact_prior_are_the_prompted_images():
    field, objective, _ = parts(IM3D(cfg=1.0, rescale=0.0), "blue")
    objective.ask(field, draws_of(0))
    assert torch.allclose(objective.bank.images[0], torch.tensor([0.0, 0, 1]).expand(2, SIZE, SIZE, 3), atol=1e-4)


@pytest.mark.parametrize("guidance", [SDS(), IM3D(rays=64)], ids=["sds", "im3d"])
def test_the_same_step_twice_gives_the_same_bits(guidance):
    losses, gradients = [], []
    for _ in range(2):
        field, objective, _ = parts(guidance)
        lesson = objective(field, draws_of(0), False)
        lesson.loss.backward()
        losses.append(lesson.loss)
        gradients.append([p.grad for p in field.parameters()])
    assert torch.equal(*losses)
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "guidance", [SDS(cfg=1.0, weight="sigma_over_alpha"), IM3D(cfg=1.0, rescale=0.0, rays=128, empty=0.0)], ids=["sds", "im3d"]
)
def test_a_few_steps_turn_the_field_to_the_prompted_colour(guidance):
    field, objective, _ = parts(guidance, "red")
    optimizer = torch.optim.Adam(field.parameters(), lr=0.02)
    for step in range(40):
        optimizer.zero_grad()
        objective(field, draws_of(step), False).loss.backward()
        optimizer.step()
    with torch.no_grad():
        render = field.render(cameras_of(3))
    seen = render.rgb[render.alpha[..., 0] > 0.9]
    assert len(seen) > 3
    assert (seen - torch.tensor([1.0, 0, 0])).abs().mean() < 0.15


def test_a_white_object_on_white_keeps_its_inside_where_it_has_an_outline():
    image = torch.ones(1, 32, 32, 3)
    image[0, 8:24, 8:24] = 0.2
    image[0, 10:22, 10:22] = 1.0
    mask = background_mask(image)[0]
    assert mask[0, 0]
    assert not mask[8:24, 8:24].any()
    assert mask.sum() == 32 * 32 - 16 * 16
