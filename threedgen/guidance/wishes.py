"""Whether a prior can be told what a guidance wishes to tell it; asked before any work starts."""

from __future__ import annotations

from threedgen.errors import UserError
from threedgen.guidance.rule import GuidanceSettings
from threedgen.priors.base import Prior
from threedgen.registry import name_of

HOW = {
    "camera": "a prior that is told the camera, such as embedded",
    "multiview": "a prior that answers the views of an object together, such as embedded",
    "no camera": "a prior that also answers without a camera, such as embedded",
    "negative": "a diffusion model with cross-attention (negative_attention=0 is without)",
    "image": "a prior with an image adapter: an IP-Adapter's weights and image_encoder in its folder ip_adapter (image_scale=0 is without)",
    "guidance": "a prior that takes the guidance scale as an input, such as a latent consistency model (cfg_mode=two_branch is for others)",
    "control": "a prior with a control branch: a ControlNet in its folder controlnet",
    "concat:4": "an image-to-view prior, whose unet takes a reference's latents beside the noisy ones (8 channels)",
    "concat:5": "an inpainting prior, whose unet takes a mask and masked latents beside the noisy ones (9 channels)",
}
SERVED = {"concat:4": "zero123", "concat:5": "di_sds"}


def check_fit(guidance: GuidanceSettings, prior: Prior) -> None:
    """UserError where the guidance wishes for what the prior cannot be told, or does not tell it what it must be told."""
    wishes, able = guidance.wishes(), prior.capabilities
    for wish in sorted(wishes - able):
        raise UserError(f"guidance {name_of(guidance)}, as it is set, needs {HOW.get(wish, wish)}")
    for must in sorted(able - wishes):
        if must.startswith("concat:"):
            use = f": use guidance {SERVED[must]}" if must in SERVED else ""
            raise UserError(f"this prior takes {must[7:]} channels beside the noisy latent, which {name_of(guidance)} does not give{use}")
