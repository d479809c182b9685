import pytest
import torch
from torch.nn import functional as F

from threedgen.materials.background import Background, direction_basis, on_sphere


def sphere_points(count: int) -> torch.Tensor:
    """[N,3] evenly spread unit vectors (Fibonacci sphere), float64."""
    i = torch.arange(count, dtype=torch.float64) + 0.5
    z = 1 - 2 * i / count
    angle = i * torch.pi * (3 - 5**0.5)
    r = (1 - z * z).sqrt()
    return torch.stack([r * angle.cos(), r * angle.sin(), z], -1)


def test_the_basis_is_orthogonal_over_the_sphere_and_complete_to_degree_two():
    d = sphere_points(20_000)
    basis = direction_basis(d)
    gram = basis.T @ basis / len(d)
    assert torch.allclose(gram, torch.diag(gram.diag()), atol=1e-3)
    assert gram.diag().min() > 0.01
    a = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    quadratic = ((d @ a) * d).sum(-1, keepdim=True) + d @ a[:, :1] + 0.3
    fitted = basis @ torch.linalg.lstsq(basis, quadratic).solution
    assert torch.allclose(fitted, quadratic, atol=1e-9)


@pytest.mark.parametrize(("kind", "value"), [("white", 1.0), ("grey", 0.5), ("black", 0.0), ("random", 1.0)])
def test_plain_kinds_show_one_colour_and_learn_nothing(kind, value):
    background = Background(kind)
    assert torch.equal(background(torch.eye(3)), torch.full((3, 3), value))
    assert not list(background.parameters())


def test_only_the_random_kind_shows_the_drawn_colour():
    drawn = torch.tensor([[0.1, 0.2, 0.3]] * 3)
    assert torch.equal(Background("random")(torch.eye(3), drawn), drawn)
    assert torch.equal(Background("black")(torch.eye(3), drawn), torch.zeros(3, 3))


@pytest.mark.parametrize("kind", ["learned", "textured", "neural"])
def test_learned_kinds_are_nearly_white_at_first_and_stay_in_range(kind):
    background = Background(kind)
    d = sphere_points(50).float()
    first = background(d)
    assert first.min() > 0.98
    assert torch.allclose(first, first[:1].expand_as(first))
    for parameter in background.parameters():
        torch.nn.init.normal_(parameter, std=30, generator=torch.Generator().manual_seed(1))
    assert 0 <= background(d).min() <= background(d).max() <= 1
    assert background(d.reshape(5, 10, 3)).shape == (5, 10, 3)


@pytest.mark.parametrize(("kind", "allowed"), [("learned", 0.02), ("textured", 0.02), ("neural", 0.05)])
def test_learned_kinds_can_learn_a_sky(kind, allowed):
    background = Background(kind)
    d = sphere_points(200).float()
    sky = torch.stack([0.4 + 0.2 * d[:, 2], 0.5 + 0.1 * d[:, 2], 0.7 + 0.2 * d[:, 2]], -1)
    optimizer = torch.optim.Adam(background.parameters(), lr=0.05 if kind == "neural" else 0.2)
    for _ in range(150):
        optimizer.zero_grad()
        F.mse_loss(background(d), sky).backward()
        optimizer.step()
    assert (background(d) - sky).abs().max() < allowed


def test_a_texture_on_the_sphere_has_its_texels_where_they_belong_and_no_seam():
    height = 16
    azimuth = (torch.arange(32) + 0.5) / 32 * 2 * torch.pi - torch.pi
    inclination = (torch.arange(height) + 0.5) / height * torch.pi
    around, down = torch.meshgrid(azimuth, inclination, indexing="xy")
    directions = torch.stack([down.sin() * around.cos(), down.sin() * around.sin(), down.cos()], -1)
    texture = torch.randn(2, height, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(on_sphere(texture, directions).permute(2, 0, 1), texture, atol=1e-4, rtol=0)
    seam = torch.tensor([[-1.0, 1e-6, 0.0], [-1.0, -1e-6, 0.0]])
    above, below = on_sphere(texture, F.normalize(seam, dim=-1))
    torch.testing.assert_close(above, below, atol=1e-4, rtol=0)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="white, grey, black, learned, textured, neural, random"):
        Background("pink")
