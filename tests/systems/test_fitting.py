"""The loss of a fit against what it must be by hand, for representations with and without rays."""

from dataclasses import replace

import pytest
import torch

from tests.data.folders import barrel_views, ring
from threedgen.config.schema import HashGridSettings, OptimizerSettings, OrbitSettings, StageSettings
from threedgen.data.posed_images import PosedImages
from threedgen.draws import Draws
from threedgen.errors import UserError
from threedgen.evaluation.ssim import ssim
from threedgen.guidance.images import Images
from threedgen.representations.base import Render, Representation
from threedgen.representations.hashgrid import HashGridField
from threedgen.systems.distillation import Distillation
from threedgen.systems.fitting import ImagesObjective, fit_objective

SIZE = 16


@pytest.fixture(scope="module")
def images() -> PosedImages:
    cameras, pictures = barrel_views(ring(6, SIZE, SIZE))
    rgba = torch.stack([torch.from_numpy(picture).float() / 255 for picture in pictures])
    return PosedImages([str(k) for k in range(6)], rgba[..., :3], rgba[..., 3:], None, None, cameras)


class Truth(Representation):
    """Knows the images by the position of their camera; renders whole views only, over black."""

    def __init__(self, images: PosedImages, error: float = 0.0) -> None:
        super().__init__()
        self.images, self.error = images, error

    def render(self, cameras, *, draws=None, normals=False):
        near = torch.cdist(cameras.positions, self.images.cameras.positions).argmin(1)
        alpha = self.images.alpha[near]
        return Render(self.images.rgb[near] * alpha + self.error, alpha, alpha)


class Rays(Truth):
    """The same one ray at a time: each is looked up among the rays through all pixels."""

    def render_rays(self, origins, directions, jitter, random_rgb=None, normals=False):
        every = torch.cat([v.reshape(-1, 3) for v in self.images.cameras.rays()], 1)
        found = torch.cdist(torch.cat([origins, directions], 1), every, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
        alpha = self.images.alpha.reshape(-1, 1)[found]
        return Render(self.images.rgb.reshape(-1, 3)[found] * alpha + self.error, alpha, alpha)


def draws(step: int = 0, seed: int = 0) -> Draws:
    return Draws(seed, step, range(4))


@pytest.mark.parametrize("kind", [Truth, Rays])
def test_the_truth_has_no_loss_whatever_the_background(images, kind):
    objective = ImagesObjective(Images(rays=200, views=2), images)
    for step in range(3):
        assert objective(kind(images), draws(step), False).loss.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", [Truth, Rays])
def test_a_constant_error_costs_its_size_and_square(images, kind):
    guidance = Images(l1=2.0, l2=3.0, ssim=0.0, mask=0.5, rays=64)
    lesson = ImagesObjective(guidance, images)(kind(images, error=0.1), draws(), False)
    assert lesson.loss.item() == pytest.approx(2 * 0.1 + 3 * 0.01, rel=1e-4)
    assert set(lesson.info) == {"images/l1", "images/l2", "images/mask"}
    assert lesson.render.rgb.shape == ((64, 3) if kind is Rays else (1, SIZE, SIZE, 3))


def test_normals_are_compared_where_they_are_known(images):
    """Turned by 90 degrees, unit normals are 2 apart in squares, 2/3 a channel; half of the pixels are unknown and count nothing."""

    class Turned(Truth):
        def render(self, cameras, *, draws=None, normals=False):
            assert normals
            render = super().render(cameras)
            return replace(render, normal=render.alpha * torch.tensor([0.0, 1.0, 0.0]))

    known = (torch.arange(SIZE) < SIZE // 2).float()[:, None]
    opaque = replace(images, alpha=torch.ones_like(images.alpha), normal=(known * torch.tensor([1.0, 0, 0])).expand(6, SIZE, SIZE, 3))
    guidance = Images(l1=1.0, l2=0.0, ssim=0.0, normal=0.3)
    lesson = ImagesObjective(guidance, opaque)(Turned(opaque), draws(), False)
    assert lesson.info["images/normal"].item() == pytest.approx(2 / 3 / 2, rel=1e-5)
    assert lesson.loss.item() == pytest.approx(0.3 / 3, rel=1e-4)


def test_matter_in_front_of_nothing_is_seen_against_the_drawn_background(images):
    """Opaque black where an image shows nothing looks right over black alone; over drawn colours it costs their mean square, 1/3."""

    class Black(Representation):
        def render(self, cameras, *, draws=None, normals=False):
            alpha = torch.ones(len(cameras), cameras.height, cameras.width, 1)
            return Render(0 * alpha.expand(-1, -1, -1, 3), alpha, alpha)

    empty = replace(images, rgb=0 * images.rgb, alpha=0 * images.alpha)
    objective = ImagesObjective(Images(l1=0.0, l2=1.0, ssim=0.0, mask=0.0, rays=0, views=1), empty)
    losses = [objective(Black(), draws(step), False).loss.item() for step in range(200)]
    assert sum(losses) / len(losses) == pytest.approx(1 / 3, abs=0.05)


def test_whole_views_are_compared_by_structure_too(images):
    objective = ImagesObjective(Images(l1=0.0, l2=0.0, ssim=1.0, mask=0.0, rays=0, views=6), replace(images, alpha=images.alpha * 0 + 1))
    lesson = objective(Truth(objective.images, error=0.1), draws(), False)
    assert lesson.loss.item() == pytest.approx(1 - ssim(images.rgb + 0.1, images.rgb).mean().item(), rel=1e-4)


def test_masked_pixels_do_not_count(images):
    mask = torch.zeros_like(images.alpha)
    assert ImagesObjective(Images(rays=64, ssim=0.0), replace(images, mask=mask))(Rays(images, 0.3), draws(), False).loss.item() == 0
    mask[:, :, : SIZE // 2] = 1
    for kind in (Rays, Truth):
        lesson = ImagesObjective(Images(l1=1.0, l2=0.0, ssim=0.0, rays=64), replace(images, mask=mask))(kind(images, 0.3), draws(), False)
        assert lesson.loss.item() == pytest.approx(0.3, rel=1e-4)


def test_depth_counts_where_it_is_known(images):
    """The stand-in's depth is its alpha; the truth is half a unit more on the left, unknown on the right."""
    depth = images.alpha + 0.5
    depth[:, :, SIZE // 2 :] = 0
    guidance = Images(l1=1.0, l2=0.0, ssim=0.0, mask=0.0, depth=2.0, rays=0, views=6)
    lesson = ImagesObjective(guidance, replace(images, depth=depth))(Truth(images), draws(), False)
    assert lesson.loss.item() == pytest.approx(2 * 0.5, rel=1e-4)


def test_a_step_depends_on_seed_and_step_alone(images):
    objective, field = ImagesObjective(Images(rays=64), images), Rays(images, 0.1)

    def shown(*key: int) -> torch.Tensor:
        return objective(field, draws(*key), False).render.rgb

    assert torch.equal(shown(3, 1), shown(3, 1))
    assert not torch.equal(shown(3, 1), shown(4, 1))
    assert not torch.equal(shown(3, 1), shown(3, 2))


def test_views_of_a_step_differ(images):
    counted = []

    class Counting(Truth):
        def render(self, cameras, *, draws=None, normals=False):
            counted.append(len(torch.unique(cameras.positions, dim=0)))
            return super().render(cameras)

    ImagesObjective(Images(rays=0, views=4), images)(Counting(images), draws(), False)
    ImagesObjective(Images(rays=0, views=9), images)(Counting(images), draws(), False)
    assert counted == [4, 6]


def test_rays_are_cast_where_a_representation_can(images):
    assert Rays(images).casts_rays
    assert not Truth(images).casts_rays


def stage(background: str = "black") -> StageSettings:
    field = HashGridSettings(
        levels=5, log2_table=11, base_resolution=4, max_resolution=32, hidden=16, occupancy_resolution=16, samples=48, background=background
    )
    return StageSettings(field, Images(rays=512), OrbitSettings(), optimizer=OptimizerSettings(lr=0.02), steps=60)


def test_images_with_alpha_ask_for_a_black_background(images):
    with pytest.raises(UserError, match=r"set representation\.background to black, not white"):
        fit_objective(stage("white"), images)
    assert fit_objective(stage("white"), replace(images, alpha=torch.ones_like(images.alpha)))


def test_a_field_learns_the_images(images):
    settings = stage()
    system = Distillation(settings, HashGridField(settings.representation), images, seed=0)
    optimizer = system.configure_optimizers()
    losses = []
    for step in range(60):
        lesson = system.objective(system.representation, system.draws(step), False)
        lesson.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        system.representation.after_step(step, system.draws(step))
        losses.append(lesson.info["images/l2"].item())
    assert sum(losses[-5:]) < 0.12 * sum(losses[:5])
    assert not [name for name in system.state_dict() if "images" in name]
