"""Metrics of images against closed forms."""

import math

import pytest
import torch

from threedgen.errors import UserError
from threedgen.evaluation.metrics import foreground_psnr, psnr


def test_psnr_of_a_constant_error():
    image = torch.full((2, 4, 4, 3), 0.5)
    assert psnr(image + 0.1, image) == pytest.approx(20.0, abs=1e-4)
    assert psnr(image, image) == math.inf


def test_foreground_psnr_ignores_the_background_and_counts_a_wrong_silhouette():
    white, alpha = torch.ones(1, 4, 4, 3), torch.zeros(1, 4, 4, 1)
    reference, reference_alpha = white.clone(), alpha.clone()
    reference[:, :2] = 0.5
    reference_alpha[:, :2] = 1
    right = reference.clone()
    right[:, :2] += 0.1
    assert foreground_psnr(right, reference_alpha, reference, reference_alpha) == pytest.approx(20.0, abs=1e-4)
    assert foreground_psnr(white, alpha, reference, reference_alpha) == pytest.approx(-20 * math.log10(0.5), abs=1e-4)
    with pytest.raises(UserError, match="neither"):
        foreground_psnr(white, alpha, white, alpha)
