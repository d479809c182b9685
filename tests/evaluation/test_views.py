"""SSIM against an independent implementation, and scores of views against closed forms."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from threedgen.cameras import Cameras, orbit_cameras
from threedgen.data.posed_images import PosedImages
from threedgen.evaluation.ssim import ssim
from threedgen.evaluation.views import score, score_views, summary
from threedgen.representations.base import Render, Representation


def images(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_ssim_is_that_of_scikit_image():
    """Its mean leaves a border of 5 pixels out, and so do windows that must lie in the image."""
    a = images(0, 2, 20, 26, 3)
    b = (a + 0.2 * images(1, 2, 20, 26, 3)).clamp(0, 1)
    expected = [
        structural_similarity(
            x.numpy(), y.numpy(), channel_axis=-1, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for x, y in zip(a, b, strict=True)
    ]
    assert ssim(a, b).tolist() == pytest.approx(np.asarray(expected).tolist(), abs=1e-6)


def test_ssim_of_plain_images_is_the_luminance_term():
    a, b = (torch.full((1, 12, 12, 3), value, dtype=torch.float64) for value in (0.2, 0.6))
    assert ssim(a, b).item() == pytest.approx((2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4), rel=1e-9)
    assert ssim(a, a).item() == pytest.approx(1.0)


def test_ssim_has_the_gradient_of_its_differences():
    a, b = images(2, 1, 12, 11, 2).requires_grad_(), images(3, 1, 12, 11, 2)
    assert torch.autograd.gradcheck(lambda x: ssim(x, b), (a,))


@pytest.mark.parametrize("shape", [(1, 10, 30, 3), (20, 20, 3)])
def test_ssim_of_images_it_cannot_compare_is_an_error(shape):
    with pytest.raises(ValueError, match="H, W >= 11"):
        ssim(torch.zeros(shape), torch.zeros(shape))


def test_a_score_is_split_by_the_true_alpha():
    """Half of the view is object and off by 0.1, the rest is right: 20 dB on the object, half the squared error over all."""
    truth, alpha = torch.full((1, 12, 12, 3), 0.5), torch.zeros(1, 12, 12, 1)
    alpha[:, :6] = 1
    made = score("x", truth + 0.1 * alpha, truth, alpha)
    assert made.psnr_foreground == pytest.approx(20.0, abs=1e-4)
    assert made.psnr == pytest.approx(20.0 + 10 * math.log10(2), abs=1e-4)
    assert (score("x", truth, truth, 0 * alpha).psnr, score("x", truth, truth, 0 * alpha).psnr_foreground) == (None, None)
    assert score("x", truth[:, :8], truth[:, :8], alpha[:, :8]).ssim is None


def test_means_are_taken_over_the_views_that_have_a_number():
    truth, alpha = torch.full((1, 12, 12, 3), 0.5), torch.ones(1, 12, 12, 1)
    scores = [score(str(k), truth + 0.1 * 10**-k, truth, alpha * (k < 2)) for k in range(3)]
    assert summary(scores)["test/psnr"] == pytest.approx(40.0, abs=1e-3)
    assert summary(scores)["test/psnr_foreground"] == pytest.approx(30.0, abs=1e-3)
    assert summary(scores[:0]) == {"test/psnr": None, "test/ssim": None, "test/psnr_foreground": None}


class Half(Representation):
    """Half transparent red in all views, over black."""

    def render(self, cameras: Cameras, *, draws=None, normals=False) -> Render:
        alpha = torch.full((len(cameras), cameras.height, cameras.width, 1), 0.5)
        return Render(alpha * torch.tensor([1.0, 0.0, 0.0]), alpha, alpha)


def test_images_with_alpha_are_compared_over_white_one_view_at_a_time():
    cameras = orbit_cameras([0.0, 90.0], 0.0, 2.6, 40.0, 12, 12)
    red = torch.tensor([1.0, 0.0, 0.0]).expand(2, 12, 12, 3)
    alpha = torch.full((2, 12, 12, 1), 0.5)
    scores, shown = score_views(Half(), PosedImages(["a", "b"], red, alpha, None, None, cameras))
    assert torch.allclose(shown, torch.tensor([1.0, 0.5, 0.5]).expand(2, 12, 12, 3))
    assert [(s.name, s.psnr) for s in scores] == [("a", None), ("b", None)]
    opaque = PosedImages(["a", "b"], red, torch.ones_like(alpha), None, None, cameras)
    scores, shown = score_views(Half(), opaque)
    assert torch.allclose(shown, 0.5 * red)
    assert scores[0].psnr == pytest.approx(-10 * math.log10(0.25 / 3), abs=1e-5)
