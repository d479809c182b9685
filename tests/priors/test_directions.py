"""Views are told apart by where the camera stands, and Perp-Neg's weights are its closed form."""

import math

import pytest
import torch

from threedgen.cameras import orbit
from threedgen.config.schema import PromptSettings
from threedgen.priors.directions import BACK, FRONT, NOWHERE, OVERHEAD, SIDE, labels, neighbours, perp_neg_weights

SETTINGS = PromptSettings()


def cameras(azimuth: list[float], elevation: float = 10.0) -> torch.Tensor:
    angles = torch.tensor(azimuth, dtype=torch.float64)
    return orbit(angles, torch.full_like(angles, elevation), torch.full_like(angles, 2.6))


def f(a: float, b: float, c: float, r: float) -> float:
    return a * math.exp(-b * r) + c


def test_labels_change_at_the_thresholds():
    around = cameras([0, 44.9, -44.9, 45.1, -45.1, 90, 134.9, 135.1, 180, -179, 315.1, 360])
    assert labels(around, SETTINGS).tolist() == [FRONT] * 3 + [SIDE] * 4 + [BACK] * 3 + [FRONT] * 2
    narrow = PromptSettings(front_degrees=20, back_degrees=100)
    assert labels(cameras([19, 21, 79, 81, -81]), narrow).tolist() == [FRONT, SIDE, SIDE, BACK, BACK]


def test_high_cameras_are_overhead_views_whatever_the_azimuth():
    for elevation, expected in [(59.9, [FRONT, BACK]), (60.1, [OVERHEAD] * 2), (89, [OVERHEAD] * 2), (-80, [FRONT, BACK])]:
        assert labels(cameras([0, 180], elevation), SETTINGS).tolist() == expected


def test_a_withheld_camera_has_no_view_and_no_weights():
    c2w = torch.cat([cameras([0]), torch.zeros(1, 4, 4, dtype=torch.float64)])
    assert labels(c2w, SETTINGS).tolist() == [FRONT, NOWHERE]
    assert [part[1].item() for part in neighbours(c2w, SETTINGS)] == [NOWHERE, NOWHERE, 0]
    assert perp_neg_weights(c2w, SETTINGS)[1].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("azimuth", "expected"),
    [(0, (FRONT, 0)), (30, (FRONT, 1 / 3)), (-30, (FRONT, 1 / 3)), (89.9, (FRONT, 0.9989)), (90.1, (SIDE, 0.0011)), (225, (SIDE, 0.5))],
)
def test_a_view_lies_between_its_neighbours(azimuth, expected):
    first, second, share = neighbours(cameras([azimuth]), SETTINGS)
    assert (first.item(), second.item()) == (expected[0], expected[0] + 1)
    assert share.item() == pytest.approx(expected[1], abs=1e-4)


def test_weights_are_the_published_functions():
    # r = 1, 1/2, 0 in front of the side, then r = 1, 1/2, 0 behind it; (front, side).
    weights = perp_neg_weights(cameras([0, 45, 89.99999, 90, 135, 180]), SETTINGS)
    ahead = [(-f(4, 0.5, -2.426, r), -f(4, 0.5, -2.426, 1 - r)) for r in (1, 0.5, 0)]
    behind = [(-f(1, 0.5, 0.967, r), -f(1, 0.5, -0.606, r)) for r in (1, 0.5, 0)]
    torch.testing.assert_close(weights, torch.tensor(ahead + behind, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(weights[0], torch.tensor([0.0, -1.574], dtype=torch.float64), atol=2e-4, rtol=0)
    torch.testing.assert_close(weights[-1], torch.tensor([-1.967, -0.394], dtype=torch.float64), atol=1e-9, rtol=0)


def test_weights_are_never_positive_symmetric_and_continuous():
    azimuth = torch.linspace(0, 360, 1441).tolist()
    weights = perp_neg_weights(cameras(azimuth), SETTINGS)
    assert weights.max() <= 0
    assert torch.allclose(weights, weights.flip(0), atol=1e-9)
    assert (weights[1:] - weights[:-1]).abs().max() < 0.01
    assert perp_neg_weights(cameras(azimuth, 61.0), SETTINGS).abs().max() == 0
