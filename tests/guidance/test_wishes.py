"""A guidance is refused before work starts where the prior cannot be told what it wishes."""

from types import SimpleNamespace

import pytest

from tests.oracles import Prompts, gaussian_prior
from threedgen.cameras import OrbitSampler
from threedgen.config.schema import OrbitSettings
from threedgen.errors import UserError
from threedgen.guidance.c_sds import CSDS
from threedgen.guidance.core import Teacher
from threedgen.guidance.di_sds import DISDS
from threedgen.guidance.im3d import IM3D
from threedgen.guidance.sds import SDS
from threedgen.guidance.wishes import check_fit
from threedgen.guidance.zero123 import Zero123
from threedgen.systems.objectives import objective_of


def prior_of(*capabilities: str):
    return SimpleNamespace(capabilities=frozenset(capabilities))


@pytest.mark.parametrize(
    ("rule", "wish", "line"),
    [
        (SDS(cfg_mode="embedded"), "guidance", "guidance sds, as it is set, needs a prior that takes the guidance scale"),
        (SDS(negative_attention=0.3), "negative", "needs a diffusion model with cross-attention"),
        (SDS(image_scale=[0, 0.0, 0.5, 100]), "image", "needs a prior with an image adapter"),
        (CSDS(), "control", "guidance c_sds, as it is set, needs a prior with a control branch"),
    ],
)
def test_a_wish_needs_its_capability(rule, wish, line):
    check_fit(rule, prior_of(wish))
    with pytest.raises(UserError, match=line):
        check_fit(rule, prior_of())


def test_further_channels_belong_to_one_guidance():
    check_fit(DISDS(), prior_of("concat:5", "control", "negative"))
    check_fit(Zero123(), prior_of("concat:4", "camera"))
    with pytest.raises(UserError, match="needs an inpainting prior"):
        check_fit(DISDS(), prior_of("concat:4", "control"))
    with pytest.raises(UserError, match="takes 5 channels beside the noisy latent, which sds does not give: use guidance di_sds"):
        check_fit(SDS(), prior_of("concat:5"))
    with pytest.raises(UserError, match="which im3d does not give: use guidance zero123"):
        check_fit(IM3D(), prior_of("camera", "multiview", "concat:4"))


def test_what_is_not_wished_for_need_not_be():
    check_fit(SDS(), prior_of())
    check_fit(SDS(image_scale=[0, 0.0, 0.0, 100]), prior_of())
    check_fit(IM3D(), prior_of("negative", "camera", "multiview", "control", "image", "guidance"))


@pytest.mark.parametrize(
    ("guidance", "able", "line"),
    [
        (SDS(cfg_mode="embedded"), {"negative"}, "cfg_mode=two_branch"),
        (IM3D(), {"camera", "multiview", "concat:5"}, "use guidance di_sds"),
        (SDS(image_scale=0.5), {"image"}, "guidance sds needs image: a text-to-3D run has only renderings"),
        (CSDS(), {"control"}, "guidance c_sds needs control: a text-to-3D run has only renderings"),
    ],
)
def test_an_objective_asks_before_it_works(guidance, able, line):
    prior = gaussian_prior()
    prior.capabilities = frozenset(able)
    with pytest.raises(UserError, match=line):
        objective_of(guidance, OrbitSampler(OrbitSettings()), Teacher(prior, Prompts(prior, "")), 10)
