"""What a step costs: operations at the size of Stable Diffusion 2.1 on shapes alone, calls of the networks, networks held."""

import gc

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cost import TOKENS, UNET, cost_of, shape_prior
from tests.oracles import CountingPrior, Prompts, two_image_prior, views_and_draws
from threedgen import guidance, registry
from threedgen.guidance.core import Teacher, distill
from threedgen.guidance.rule import Rule
from threedgen.priors.base import Conditioning

guidance.discover()
# Calls of the prior at timestep 500 of 1,000, where a rule needs more than one: predictions that wait for earlier ones.
CALLS = {"cds": 2, "csm": 4, "hifa": 4, "ism": 4, "sdi": 6}
RULES = [
    name
    for name in registry.names("guidance")
    if issubclass(registry.lookup("guidance", name), Rule) and not registry.lookup("guidance", name).needs
]


@pytest.fixture(scope="module")
def prior():
    return shape_prior()


def test_the_counter_sees_attention():
    q, k = (torch.empty(2, 8, tokens, 40, device="meta", requires_grad=True) for tokens in (64, 48))
    with FlopCounterMode(display=False) as counter:
        F.scaled_dot_product_attention(q, k, k).sum().backward()
    products = 2 * (2 * 2 * 8 * 64 * 48 * 40)
    assert counter.get_total_flops() == 3 * products, "two products forward, four backward"


def test_the_counter_agrees_with_the_layers_of_the_unet(prior):
    """Twice the multiplications of every convolution, projection and attention, reckoned from the shapes that pass through them."""
    reckoned = []

    def layer(module, arguments, output):
        reckoned.append(2 * output.numel() * module.weight[0].numel())

    def attention(module, arguments, options, output):
        keys = options.get("encoder_hidden_states")
        keys = arguments[0] if keys is None else keys
        reckoned.append(2 * 2 * arguments[0].shape[0] * arguments[0].shape[1] * keys.shape[1] * module.inner_dim)

    handles = []
    for module in prior.unet.modules():
        if isinstance(module, Attention):
            handles.append(module.register_forward_hook(attention, with_kwargs=True))
        elif isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            handles.append(module.register_forward_hook(layer))
    text = torch.empty(1, TOKENS, UNET["cross_attention_dim"], device="meta")
    z_t, t = torch.empty(1, 4, 64, 64, device="meta"), torch.zeros(1, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter:
        prior.predict_noise(z_t, t, Conditioning(text))
    for handle in handles:
        handle.remove()
    assert counter.get_total_flops() == sum(reckoned)


def test_sds_stays_below_its_budget(prior):
    cost = cost_of("sds", prior, "meta")
    assert (cost.prior, cost.critic) == (2, 0)
    assert 3.5 < cost.total <= 3.9, "TFLOP: two predictions, and the encoder forward and backward"


def test_vsd_with_its_critic_step_stays_below_its_budget_and_holds_one_unet(prior):
    """On the meta device, where a step that waits for a number raises."""

    def unets() -> int:
        gc.collect()
        return sum(type(thing) is UNet2DConditionModel for thing in gc.get_objects())

    before, frozen = unets(), sum(p.numel() for p in prior.unet.parameters())
    cost, prediction = cost_of("vsd", prior, "meta"), 0.8
    assert (cost.prior, cost.critic) == (2, 1)
    assert cost.critic_step > 2 * prediction, "forward, and backward through the whole network"
    assert 6.0 < cost.total <= 6.5, "TFLOP"
    assert unets() == before
    assert sum(p.numel() for p in prior.unet.parameters()) < 1.01 * frozen


@pytest.mark.parametrize("name", RULES)
def test_the_particles_step_takes_one_call_of_each_network(name):
    rule = registry.lookup("guidance", name)(t_min=0.5, t_max=0.5)
    prior, critic = CountingPrior(two_image_prior()), CountingPrior(two_image_prior())
    prompts = Prompts(prior.prior, "red", **dict.fromkeys(rule.texts(), ""))
    rgb = torch.rand(4, 6, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    distill(rule, Teacher(prior, prompts, {"critic": critic}), rgb, *views_and_draws())
    assert len(prior.calls) == CALLS.get(name, 1)
    assert len(critic.calls) == int(rule.critic)


@pytest.mark.parametrize("name", ["vsd", "esd", "adversarial_sd"])
def test_a_density_ratio_by_likelihood_adds_rows_and_no_call(name):
    rule = registry.lookup("guidance", name)(divergence="forward_kl", ratio="likelihood", ratio_samples=6)
    prior, critic = CountingPrior(two_image_prior()), CountingPrior(two_image_prior())
    rgb = torch.rand(4, 6, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    distill(rule, Teacher(prior, Prompts(prior.prior, "red"), {"critic": critic}), rgb, *views_and_draws())
    critics = 2 if name == "esd" else 1
    assert [rows for rows, _, _ in prior.calls] == [4 * (2 + 6)]
    assert [rows for rows, _, _ in critic.calls] == [4 * critics * (1 + 6)]
