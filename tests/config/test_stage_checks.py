"""Settings that are fine each for itself, but do not go together: one line before torch is imported."""

import pytest

from threedgen.config.loader import load
from threedgen.errors import UserError

GUIDANCE = "stages.coarse.guidance"
NO_SAMPLES = ["stages.coarse.regularizers.distortion=0"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stages.coarse.steps=20"], "warm_up .25. must be below the 20 steps"),
        ([f"{GUIDANCE}.boot=true", f"{GUIDANCE}.keep=0.5"], "leave keep at 0"),
        ([f"{GUIDANCE}.boot=true", f"{GUIDANCE}.t_max=0.5"], "falls from round to round"),
        ([f"{GUIDANCE}.type=mv_sds", f"{GUIDANCE}.views=tiled", "stages.coarse.cameras.views=3"], "a multiple of 4 views"),
        ([f"{GUIDANCE}.type=cds", f"{GUIDANCE}.t_max=0.9"], "end within the schedule"),
        ([f"{GUIDANCE}.type=cds", f"{GUIDANCE}.interval=[0,0.1]"], "must begin above 0"),
        ([f"{GUIDANCE}.type=vsd", f"{GUIDANCE}.divergence=forward_kl", "stages.coarse.cameras.views=1"], "it does nothing"),
        ([f"{GUIDANCE}.type=vsd", f"{GUIDANCE}.path_steps=5"], "path_steps needs path"),
        ([f"{GUIDANCE}.t_min=0.5", f"{GUIDANCE}.t_max=[0,.9,.9,100,.1,100,.9,200]"], "t_min must not exceed t_max"),
        ([f"{GUIDANCE}.type=csd", f"{GUIDANCE}.rescale=0.5"], "rescale plays no part in this rule"),
        ([f"{GUIDANCE}.type=csd", f"{GUIDANCE}.cfg=20"], "cfg plays no part in this rule"),
        ([f"{GUIDANCE}.type=csm", f"{GUIDANCE}.cfg_mode=none"], "needs cfg_mode two_branch"),
        (["representation=gaussians"], "looks at samples along rays"),
        (["stages.coarse.regularizers.laplacian=1"], "looks at the faces of a mesh"),
        (["negative_prompt=blur", f"{GUIDANCE}.type=nfsd"], "negative_prompt plays no part"),
        (["negative_prompt=blur", f"{GUIDANCE}.type=sds", f"{GUIDANCE}.perp_neg=1"], "negative_prompt plays no part"),
        (["negative_prompt=blur", f"{GUIDANCE}.type=sds", f"{GUIDANCE}.cfg_mode=none"], "negative_prompt plays no part"),
        (["representation=latent_nerf"], "this guidance makes pictures.*set representation.shows to rgb"),
        (["representation=latent_nerf", f"{GUIDANCE}.type=sds", f"{GUIDANCE}.space=pixel"], "set guidance.space to latent"),
        (["representation=latent_nerf", f"{GUIDANCE}.type=sds", f"{GUIDANCE}.space=both"], "set guidance.space to latent"),
        (
            ["representation=latent_nerf", f"{GUIDANCE}.type=ism", f"{GUIDANCE}.space=latent", f"{GUIDANCE}.crop=0.5"],
            "leave guidance.crop at 1",
        ),
        (
            ["representation=latent_nerf", f"{GUIDANCE}.type=mv_sds", f"{GUIDANCE}.space=latent", f"{GUIDANCE}.views=tiled"],
            "set guidance.views to joint",
        ),
        (["representation=dmtet", "stages.coarse.representation.shape=hull", *NO_SAMPLES], "hull to start from is carved"),
        (["prompts.view_drop.back=[face]"], "do nothing while prompts.view_dependent is none"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        load("quickstart", ["prompt=x", *overrides])


@pytest.mark.parametrize("words", [[], [f"{GUIDANCE}.type=vsd"], [f"{GUIDANCE}.type=csd", f"{GUIDANCE}.negative=-1"]])
def test_a_negative_prompt_is_taken_where_it_plays_a_part(words):
    assert load("quickstart", ["prompt=x", "negative_prompt=blur", *words]).settings.negative_prompt == "blur"


def test_words_may_be_left_out_where_a_prompt_depends_on_the_view():
    load("quickstart", ["prompt=x", "prompts.view_drop.back=[face]", "prompts.view_dependent=words"])
    load("quickstart-sds", ["prompt=x", "prompts.view_drop.back=[face]", f"{GUIDANCE}.perp_neg=1"])
