import torch

from threedgen.draws import Draws, generator


def test_draws_depend_on_the_four_keys_alone():
    first = torch.rand(4, generator=generator(1, 2, 3, "noise"))
    torch.rand(100)
    assert torch.equal(first, torch.rand(4, generator=generator(1, 2, 3, "noise")))
    for other in [(0, 2, 3, "noise"), (1, 3, 3, "noise"), (1, 2, 4, "noise"), (1, 2, 3, "camera"), (12, 3, 3, "noise")]:
        assert not torch.equal(first, torch.rand(4, generator=generator(*other)))


def test_views_split_over_processes_draw_what_one_process_draws():
    whole = Draws(7, 5, range(4))
    parts = [Draws(7, 5, [0, 1]), Draws(7, 5, [2, 3])]
    assert torch.equal(whole.normal("noise", (3, 2)), torch.cat([p.normal("noise", (3, 2)) for p in parts]))
    assert torch.equal(whole.shared_uniform("azimuth"), parts[1].shared_uniform("azimuth"))


def test_uniform_stays_within_its_range_and_fills_it():
    drawn = Draws(0, 0, range(2)).uniform("x", (20_000,), low=-3.0, high=5.0)
    assert drawn.shape == (2, 20_000)
    assert drawn.min() >= -3
    assert drawn.max() < 5
    assert abs(drawn.mean().item() - 1) < 0.05


def test_normal_has_unit_variance_and_views_are_independent():
    a, b = Draws(0, 0, range(2)).normal("x", (50_000,))
    assert abs(a.std().item() - 1) < 0.02
    assert abs((a * b).mean().item()) < 0.02


def test_the_global_generator_is_left_alone():
    state = torch.get_rng_state()
    Draws(0, 0, range(2)).normal("x", (8,))
    assert torch.equal(state, torch.get_rng_state())
