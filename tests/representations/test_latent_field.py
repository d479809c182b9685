import dataclasses

import pytest
import torch
from torch.nn import functional as F

from tests.representations.fields import SMALL, random_rays, ring
from threedgen.config.schema import DMTetSettings, LatentFieldSettings
from threedgen.draws import Draws
from threedgen.materials.background import LatentBackground
from threedgen.representations import handed_over
from threedgen.representations.dmtet import DMTet
from threedgen.representations.hashgrid import HashGridField
from threedgen.representations.latent_field import LatentColours, LatentField, Refinement

WEIGHT = torch.tensor([[0.2, -0.1, 0.05, 0.1], [0.1, 0.15, -0.15, 0.1], [-0.05, 0.1, 0.1, 0.2]])
BIAS = torch.tensor([0.4, 0.5, 0.6])
CONSTANT = torch.tensor([3.0, -2.0, 0.5, -7.0])


def latent_field(seed: int = 0, **changes: object) -> LatentField:
    """A small field with a known map to colours, and latents that differ from place to place."""
    small = {field.name: getattr(SMALL, field.name) for field in dataclasses.fields(SMALL) if field.name != "background"}
    field = LatentField(LatentFieldSettings(**small | changes), seed)
    rng = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        field.colours.take(WEIGHT, BIAS)
        field.table.copy_(torch.randn(field.table.shape, generator=rng))
        field.background.bias.copy_(torch.randn(4, generator=rng))
    field.refresh_occupancy()
    return field


def constant_field(**changes: object) -> LatentField:
    """The blob of the start, with the same latents everywhere and no colour behind."""
    field = latent_field(**changes)
    with torch.no_grad():
        field.head.zero_()
        field.head_bias.copy_(torch.cat([torch.zeros(1), CONSTANT]))
        field.background.bias.zero_()
    field.occupancy.opacity.zero_()
    field.refresh_occupancy()
    return field


def test_latents_are_composited_as_they_are_over_those_behind():
    field, behind = constant_field(), torch.tensor([-1.0, 2.0, 5.0, 0.25])
    with torch.no_grad():
        field.background.bias.copy_(behind)
    seen = field.render(ring())
    assert seen.alpha.max() > 0.5
    assert torch.allclose(seen.latent, seen.alpha * CONSTANT + (1 - seen.alpha) * behind, atol=1e-5)
    assert torch.allclose(seen.rgb, (F.linear(seen.latent, WEIGHT, BIAS)).clamp(0, 1), atol=1e-6)
    assert seen.latent.shape == (2, 12, 12, 4)


def test_depth_and_normals_are_those_of_the_same_field_with_colours():
    latent, plain = latent_field(), HashGridField(SMALL)
    with torch.no_grad():
        for name in ("table", "hidden"):
            getattr(plain, name).copy_(getattr(latent, name))
        plain.head.copy_(latent.head[:4])
        plain.head_bias.copy_(latent.head_bias[:4])
    plain.refresh_occupancy()
    ours, theirs = (field.render(ring(), normals=True) for field in (latent, plain))
    for name in ("alpha", "depth", "normal"):
        assert torch.allclose(getattr(ours, name), getattr(theirs, name), atol=1e-6)
    assert ours.alpha.std() > 0.01


def test_colours_are_affine_stay_in_range_and_let_gradients_pass():
    colours = LatentColours(4)
    assert torch.equal(colours(CONSTANT), torch.full((3,), 0.5))
    colours.take(WEIGHT, BIAS)
    latent = torch.tensor([[0.1, 0.2, -0.1, 0.3], [40.0, 0, 0, 0]], requires_grad=True)
    rgb = colours(latent)
    assert torch.allclose(rgb[0], WEIGHT @ latent[0] + BIAS)
    assert rgb[1].tolist() == pytest.approx([1, 1, 0])
    (gradient,) = torch.autograd.grad(rgb.sum(), latent)
    assert torch.allclose(gradient, WEIGHT.sum(0).expand(2, 4))


def test_the_refinement_is_the_identity_at_first_and_looks_at_neighbours_later():
    refinement, latent = (
        Refinement(4, 8, torch.Generator().manual_seed(0)),
        torch.randn(2, 7, 9, 4, generator=torch.Generator().manual_seed(1)),
    )
    assert torch.equal(refinement(latent), latent)
    (gradient,) = torch.autograd.grad(refinement(latent).square().sum(), refinement.narrow.weight)
    assert gradient.abs().max() > 1e-3
    with torch.no_grad():
        refinement.narrow.weight.normal_(generator=torch.Generator().manual_seed(2))
    moved = latent.clone()
    moved[0, 3, 4] += 1
    changed = (refinement(moved) - refinement(latent)).abs().amax(-1) > 1e-6
    assert changed[0, 3, 3]
    assert not changed[1].any()


def test_the_prior_alone_sees_the_refinement():
    field, plain = latent_field(refinement=8), latent_field()
    assert torch.equal(field.render(ring()).latent, plain.render(ring()).latent)
    with torch.no_grad():
        field.refinement.narrow.bias.fill_(1.0)
    assert torch.allclose(field.render(ring()).latent, plain.render(ring()).latent + 1)
    assert torch.equal(field.render(ring()).rgb, plain.render(ring()).rgb)


def test_what_is_shown_decides_what_is_rendered_and_what_learns():
    names = {}
    for shows in ("latent", "rgb"):
        field = latent_field(shows=shows, refinement=8)
        seen = field.render(ring(), draws=Draws(0, 0, range(2)))
        assert (seen.latent is None) == (shows == "rgb")
        (seen.rgb if seen.latent is None else seen.latent).square().sum().backward()
        groups = field.param_groups(1.0, 0.5)
        behind = next(group for group in groups if group["name"] == "behind")
        assert (behind["lr"], behind["share"]) == (0.1, 0.1)
        names[shows] = {name for name, p in field.named_parameters() if any(p is q for group in groups for q in group["params"])}
        pulled = {name for name, p in field.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
        assert pulled <= names[shows]
    assert names["rgb"] - names["latent"] == {"colours.weight", "colours.bias"}
    assert all(name.startswith("refinement.") for name in names["latent"] - names["rgb"])


@pytest.mark.parametrize("shows", ["latent", "rgb"])
def test_chunks_change_neither_images_nor_gradients(shows):
    found = []
    for chunk in (2**20, 500):
        field = latent_field(shows=shows)
        field.chunk_samples = chunk
        seen = field.render(ring())
        image = seen.rgb if seen.latent is None else seen.latent
        image.square().sum().backward()
        found.append((image.detach(), field.table.grad, field.colours.weight.grad, field.background.bias.grad))
    (image, table, weight, behind), (image_2, table_2, weight_2, behind_2) = found
    assert torch.allclose(image, image_2, atol=1e-5)
    assert torch.allclose(table, table_2, rtol=1e-4, atol=1e-4)
    assert torch.allclose(behind, behind_2, rtol=1e-4, atol=1e-4)
    assert weight is weight_2 is None if shows == "latent" else torch.allclose(weight, weight_2, rtol=1e-4, atol=1e-3)


def test_single_rays_see_what_pixels_do():
    field = latent_field()
    origins, directions = random_rays(5)
    seen = field.render_rays(origins, directions, torch.full((5,), 0.5))
    assert seen.latent.shape == (5, 4)
    assert torch.allclose(seen.rgb, field.colours(seen.latent))


@pytest.mark.parametrize("kind", ["learned", "textured", "neural"])
def test_latents_behind_are_zero_at_first_and_know_no_bounds(kind):
    background, directions = LatentBackground(kind, 4), F.normalize(torch.tensor([[1.0, 2, 3], [-1, 0, 2]]), dim=-1)
    assert torch.equal(background(directions), torch.zeros(2, 4))
    latent = torch.tensor([9.0, -1.0, 0.5, 0.0])
    background.become(latent)
    assert torch.allclose(background(directions), latent.expand(2, 4))
    with torch.no_grad():
        for parameter in background.parameters():
            parameter.fill_(9.0)
    assert background(directions).max() > 8
    with pytest.raises(ValueError, match="learned"):
        LatentBackground("white", 4)


def test_a_stage_of_colours_begins_with_all_that_the_latents_were():
    before, after = latent_field(refinement=4), latent_field(seed=5, shows="rgb", refinement=4)
    after.start_from(before)
    assert all(torch.equal(value, after.state_dict()[name]) for name, value in before.state_dict().items())
    assert torch.equal(before.render(ring()).rgb, after.render(ring()).rgb)


def test_other_representations_take_its_surface_in_its_colours(monkeypatch):
    monkeypatch.setattr(handed_over, "BATCH", 512)
    monkeypatch.setattr(handed_over, "SAMPLES", 5_000)
    monkeypatch.setattr(handed_over, "COLOUR_STEPS", 60)
    field = constant_field(samples=64)
    with torch.no_grad():
        field.head_bias[1:] = torch.tensor([1.0, -1.0, 1.0, 0.0])
    colour = F.linear(field.head_bias[1:], WEIGHT, BIAS).expand(20, 3)
    on_surface = F.normalize(torch.randn(20, 3, generator=torch.Generator().manual_seed(3)), dim=-1) * 0.3
    assert torch.allclose(field.albedo(on_surface), colour, atol=1e-4)
    other = DMTet(DMTetSettings(resolution=16, levels=2, log2_table=8))
    other.start_from(field)
    assert torch.allclose(other.albedo(on_surface), colour, atol=0.05)
    assert 0.1 < field.to_mesh(32).vertices.norm(dim=-1).mean() < 0.6


def test_it_takes_a_coloured_surface_through_its_colours_and_leaves_their_map_alone(monkeypatch):
    monkeypatch.setattr(handed_over, "BATCH", 1024)
    monkeypatch.setattr(handed_over, "SAMPLES", 20_000)
    monkeypatch.setattr(handed_over, "VOLUME_STEPS", 120)
    field = LatentField(LatentFieldSettings(levels=4, log2_table=10, max_resolution=32, samples=48))
    field.colours.take(WEIGHT, BIAS)
    surface = DMTet(DMTetSettings(resolution=16, shape_radius=0.5))
    with torch.no_grad():
        surface.color.head_bias.copy_(torch.tensor([1.0, -1.0, 0.0]))
    field.start_from(surface)
    points = F.normalize(torch.randn(50, 3, generator=torch.Generator().manual_seed(4)), dim=-1) * 0.5
    assert (field.albedo(points) - surface.albedo(points)).abs().mean() < 0.03
    assert torch.equal(field.colours.weight, WEIGHT)
    assert torch.equal(field.colours.bias, BIAS)
