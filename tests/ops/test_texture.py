"""Texture lookup and its mip pyramid against closed forms."""

from __future__ import annotations

import pytest
import torch

from threedgen.ops.texture import mip_level, mip_pyramid, sample_texture


def test_texture_lookup_is_bilinear_from_the_top_left() -> None:
    texture = torch.tensor([[0.0, 1.0], [2.0, 3.0]])[..., None]
    uv = torch.tensor([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.5, 0.5], [0.0, 0.0]])
    assert sample_texture(texture, uv)[:, 0].tolist() == pytest.approx([0.0, 1.0, 2.0, 1.5, 0.0])


def test_levels_mix_linearly_and_the_last_one_is_the_mean() -> None:
    texture = torch.rand(8, 8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    uv = torch.rand(50, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fine, coarse, between = (sample_texture(texture, uv, torch.full((50,), level, dtype=torch.float64)) for level in (1.0, 2.0, 1.25))
    torch.testing.assert_close(between, 0.75 * fine + 0.25 * coarse)
    torch.testing.assert_close(sample_texture(texture, uv, torch.zeros(50, dtype=torch.float64)), sample_texture(texture, uv))
    last = sample_texture(texture, uv, torch.full((50,), 99.0, dtype=torch.float64))
    torch.testing.assert_close(last, texture.mean((0, 1)).expand(50, -1))


@pytest.mark.parametrize("size", [(1, 1), (4, 16), (5, 7)])
def test_the_pyramid_ends_at_one_texel_and_keeps_constants(size: tuple[int, int]) -> None:
    pyramid = mip_pyramid(torch.full((*size, 3), 0.3))
    assert pyramid[-1].shape == (1, 1, 3)
    assert all(torch.allclose(image, torch.tensor(0.3)) for image in pyramid)


def test_a_pixel_of_four_texels_reads_level_two() -> None:
    slope = torch.tensor([[[4 / 64, 0.0], [0.0, 1 / 32]], [[0.0, 0.0], [0.0, 0.0]], [[3 / 64, 0.0], [4 / 32, 0.0]]])
    assert mip_level(slope, 32, 64).tolist() == pytest.approx([2.0, 0.0, 2.321928], abs=1e-5)


def test_gradcheck() -> None:
    rng = torch.Generator().manual_seed(2)
    texture = torch.rand(4, 4, 1, generator=rng, dtype=torch.float64).requires_grad_()
    uv = (torch.rand(6, 2, generator=rng, dtype=torch.float64) * 0.6 + 0.2).requires_grad_()
    level = (torch.rand(6, generator=rng, dtype=torch.float64) * 1.8 + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(sample_texture, (texture, uv, level))


def test_misfits_are_named() -> None:
    with pytest.raises(ValueError, match="uv must have shape"):
        sample_texture(torch.zeros(2, 2, 3), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="level must have shape"):
        sample_texture(torch.zeros(2, 2, 3), torch.zeros(4, 2), torch.zeros(3))
