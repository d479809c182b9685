import torch
from torch.nn import functional as F

from tests.priors.test_analytic import images_at
from threedgen.priors.analytic import ImageMixturePrior
from threedgen.priors.latent_colours import PICTURES, linear_colours, picture, white_latent

WEIGHT = torch.tensor([[0.3, -0.1, 0.05, 0.2], [0.1, 0.25, -0.15, 0.1], [-0.05, 0.2, 0.1, 0.3]])
BIAS = torch.tensor([0.4, 0.5, 0.6])


class LinearPrior:
    """Latents on a map an eighth as wide, of four channels that a known affine map decodes."""

    device, native_resolution = torch.device("cpu"), 64

    def encode(self, rgb: torch.Tensor) -> torch.Tensor:
        small = F.interpolate(rgb, scale_factor=1 / 8, mode="area")
        return torch.cat([small, small[:, :1].square() - small[:, 1:2]], 1)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        rgb = torch.einsum("oc,bchw->bohw", WEIGHT, z) + BIAS[:, None, None]
        return rgb.repeat_interleave(8, 2).repeat_interleave(8, 3)


def test_a_linear_decoder_is_found_again():
    weight, bias = linear_colours(LinearPrior())
    assert torch.allclose(weight, WEIGHT, atol=1e-5)
    assert torch.allclose(bias, BIAS, atol=1e-5)


def test_latents_of_the_closed_form_prior_are_its_colours():
    weight, bias = linear_colours(ImageMixturePrior(images_at, ["a", "b"], 16))
    assert torch.allclose(weight, 0.5 * torch.eye(3), atol=1e-5)
    assert torch.allclose(bias, torch.full((3,), 0.5), atol=1e-5)


def test_white_is_the_latent_of_a_white_picture():
    assert torch.allclose(white_latent(LinearPrior()), torch.tensor([1.0, 1.0, 1.0, 0.0]))


def test_pictures_are_discs_of_their_own_before_white():
    pictures = torch.cat([picture(number, 32) for number in range(PICTURES)])
    assert 0 <= pictures.min() < pictures.max() == 1
    assert len({tuple(p.flatten().tolist()) for p in pictures}) == PICTURES
    colours = [len(torch.unique(p.flatten(1), dim=1).T) for p in pictures]
    assert 3 <= min(colours) <= max(colours) <= 7
