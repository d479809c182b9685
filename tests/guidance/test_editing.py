"""Rules that compare with something given: DDS, C-SDS and DI-SDS."""

import pytest
import torch
from torch.nn import functional as F

from tests.guidance.bench import PRIORS, Bench, random
from threedgen.errors import UserError
from threedgen.guidance.c_sds import CSDS
from threedgen.guidance.dds import DDS
from threedgen.guidance.di_sds import DISDS
from threedgen.guidance.sds import SDS

BOTH_PRIORS = pytest.mark.parametrize("prior", PRIORS)
AT = {"t_min": 0.4, "t_max": 0.4}
T = 400


@BOTH_PRIORS
@pytest.mark.parametrize("cfg", [1.0, 7.5])
def test_dds_is_the_difference_of_two_guided_predictions_at_the_same_noise(prior, cfg):
    bench = Bench(PRIORS[prior](), inputs={"source": random(4, 3, 6, 6)})
    z_source = bench.noised(T, z=2 * bench.inputs["source"] - 1)
    residual = bench.cfg(bench.noised(T), T, cfg) - bench.cfg(z_source, T, cfg, "source")
    bench.assert_residual(DDS(cfg=cfg, **AT), residual, T)


@BOTH_PRIORS
def test_equal_prompts_and_images_leave_nothing(prior):
    bench = Bench(PRIORS[prior]())
    bench.inputs["source"] = bench.x
    bench.texts["source"] = bench.texts["text"]
    assert bench.latent(DDS(source_prompt="red")).abs().max() < 1e-9


def test_dds_on_a_gaussian_is_its_closed_form_without_noise():
    bench = Bench(inputs={"source": random(4, 3, 6, 6)})
    alpha, sigma = bench.alpha(T), bench.sigma(T)
    share = sigma * alpha / (alpha**2 * 0.09 + sigma**2)
    images = bench.z - (2 * bench.inputs["source"] - 1)
    expected = share * (images - 3.0 * (bench.mean("text") - bench.mean("source")))
    torch.testing.assert_close(bench.latent(DDS(cfg=3.0, **AT)), expected)


def test_the_source_prompt_is_a_prompt_of_the_run():
    assert DDS(source_prompt="a horse").texts() == {"source": "a horse"}
    assert CSDS(category="chair").texts() == {"category": "chair"}


@BOTH_PRIORS
def test_c_sds_subtracts_the_prediction_for_the_category_which_is_told_no_control(prior):
    control = random(4, 2, 6, 6)
    bench = Bench(PRIORS[prior](), inputs={"control": control})
    z_t = bench.noised(T)
    residual = bench.cfg(z_t, T, 7.5, control=control) - bench.eps("category", z_t, T)
    bench.assert_residual(CSDS(**AT), residual, T)


def test_the_control_moves_c_sds():
    bench = Bench(inputs={"control": random(4, 2, 6, 6)})
    before = bench.latent(CSDS(**AT))
    bench.inputs["control"] = random(4, 2, 6, 6, seed=6)
    assert not torch.allclose(before, bench.latent(CSDS(**AT)))


def inpainting(size: int = 6) -> Bench:
    mask = torch.zeros(4, 1, size, size, dtype=torch.float64)
    mask[..., : size // 2] = 1
    return Bench(inputs={"mask": mask, "source": random(4, 3, size, size), "depth": random(4, 1, size, size, seed=8)})


@pytest.mark.parametrize("cfg", [1.0, 7.5])
def test_di_sds_tells_the_mask_the_masked_latents_and_the_depth_and_moves_what_is_masked(cfg):
    bench = inpainting()
    mask, source, depth = (bench.inputs[name] for name in ("mask", "source", "depth"))
    known = torch.where(mask.bool(), 0.5, source)
    told = {"concat": torch.cat([mask, 2 * known - 1], 1), "control": depth}
    residual = mask * (bench.cfg(bench.noised(T), T, cfg, **told) - bench.noise())
    bench.assert_residual(DISDS(cfg=cfg, **AT), residual, T)


def test_outside_of_the_mask_di_sds_gives_no_gradient():
    bench = inpainting()
    gradient = bench.gradient(DISDS(space="both", **AT))
    assert gradient[..., 3:].abs().max() < 1e-12
    assert gradient[..., :3].abs().min() > 0


def test_a_larger_mask_is_told_and_applied_at_the_size_of_the_latents():
    bench = inpainting()
    small = bench.latent(DISDS(**AT))
    bench.inputs["mask"] = F.interpolate(bench.inputs["mask"], scale_factor=4)
    bench.inputs["source"] = F.interpolate(bench.inputs["source"], scale_factor=4)
    # Beside the mask's edge the low-pass filter of the encoder mixes grey with what is known.
    torch.testing.assert_close(bench.latent(DISDS(**AT))[..., :2], small[..., :2])
    assert bench.latent(DISDS(**AT))[..., 3:].abs().max() < 1e-12


def test_without_anything_told_di_sds_is_sds_inside_of_the_mask():
    bench = inpainting()
    bench.inputs = {"mask": torch.ones(4, 1, 6, 6), "source": bench.inputs["source"], "depth": torch.zeros(4, 1, 6, 6)}
    bench.prior.mean = lambda cond, mean=bench.prior.mean: mean(type(cond)(cond.text, cond.c2w, cond.fovy, cond.views))
    torch.testing.assert_close(bench.latent(DISDS(**AT)), bench.latent(SDS(**AT)))


@pytest.mark.parametrize(("rule", "missing"), [(DDS(), "source"), (CSDS(), "control"), (DISDS(), "mask")])
def test_what_is_missing_is_named(rule, missing):
    with pytest.raises(UserError, match=f"needs '{missing}' images"):
        Bench().latent(rule)
