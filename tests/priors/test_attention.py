"""Cross-attention with a negative prompt, alone and beside joint views."""

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from tests.tiny import save_prior, seeded
from threedgen.draws import generator
from threedgen.priors.attention import ConditionedAttention
from threedgen.priors.base import Conditioning
from threedgen.priors.loading import load_prior


def normal(*shape: int, key: str = "test") -> torch.Tensor:
    return torch.randn(shape, generator=generator(0, 0, 0, key))


@pytest.fixture(scope="module")
def layer():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Attention(16, cross_attention_dim=12, heads=4, dim_head=4).requires_grad_(False)


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    folder = seeded(save_prior, tmp_path_factory.mktemp("prior"), camera=True, multiview=True)
    return load_prior(str(folder), precision="float32")


def test_the_push_is_the_difference_of_two_attentions_before_one_output_projection(layer):
    hidden, text, negative, scale = normal(3, 5, 16), normal(3, 7, 12, key="a"), normal(3, 6, 12, key="b"), torch.tensor([0.0, 0.5, 2.0])
    found = ConditionedAttention()(layer, hidden, text, negative=negative, negative_scale=scale)

    def z(row: int, tokens: torch.Tensor) -> torch.Tensor:
        heads = []
        for h in range(4):
            q, k, v = (x[row, :, 4 * h : 4 * h + 4] for x in (layer.to_q(hidden), layer.to_k(tokens), layer.to_v(tokens)))
            heads.append((q @ k.T / 2).softmax(-1) @ v)
        return torch.cat(heads, -1)

    for row in range(3):
        torch.testing.assert_close(found[row], layer.to_out[0](z(row, text) - scale[row] * z(row, negative)))


def test_a_scale_of_zero_is_the_attention_without(layer):
    hidden, text, negative = normal(2, 5, 16), normal(2, 7, 12, key="a"), normal(2, 7, 12, key="b")
    plain = AttnProcessor2_0()(layer, hidden, text)
    processor = ConditionedAttention(normal(16, 12, key="k"), normal(16, 12, key="v"))
    off = processor(layer, hidden, text, negative=negative, negative_scale=torch.zeros(2), image=negative, image_scale=torch.zeros(2))
    assert torch.equal(off, plain)
    assert not torch.equal(processor(layer, hidden, text, negative=negative, negative_scale=torch.ones(2)), plain)


def test_self_attention_knows_nothing_of_prompts(layer):
    own = Attention(16, heads=4, dim_head=4).requires_grad_(False)
    hidden, other = normal(4, 5, 16), normal(4, 7, 12)
    for views in (1, 4):
        pushed = ConditionedAttention()(own, hidden, views=views, negative=other, negative_scale=torch.ones(4))
        assert torch.equal(pushed, ConditionedAttention()(own, hidden, views=views))


def predict(prior, rows: int = 4, **given) -> torch.Tensor:
    text = normal(rows, 32, 16, key="text")
    return prior.predict_noise(normal(rows, 4, 8, 8), torch.full((rows,), 500), Conditioning(text, **given))


def test_a_push_of_zero_is_the_same_prediction_to_the_bit(prior):
    negative = normal(4, 32, 16, key="negative")
    for views in (1, 4):
        off = predict(prior, views=views, negative=negative, negative_scale=torch.zeros(4))
        assert torch.equal(off, predict(prior, views=views))
        assert not torch.equal(predict(prior, views=views, negative=negative, negative_scale=torch.full((4,), 0.3)), off)


def test_the_push_is_a_rows_own(prior):
    negative, scale = normal(4, 32, 16, key="negative"), torch.tensor([0.0, 0.2, 0.0, 0.4])
    changed = (predict(prior, negative=negative, negative_scale=scale) - predict(prior)).flatten(1).abs().amax(1) > 1e-6
    assert changed.tolist() == [False, True, False, True]


def test_the_push_reaches_the_other_views_through_joint_attention_alone(prior):
    negative, scale = normal(4, 32, 16, key="negative"), torch.tensor([0.0, 0.5, 0.0, 0.0])
    given = {"negative": negative, "negative_scale": scale}
    joint = (predict(prior, views=4, **given) - predict(prior, views=4)).flatten(1).abs().amax(1)
    single = (predict(prior, **given) - predict(prior)).flatten(1).abs().amax(1)
    assert (joint > 1e-7).all()
    assert (single > 0).tolist() == [False, True, False, False]
