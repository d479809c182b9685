"""Short names of published models. Never imports torch."""

PRIOR_ALIASES: dict[str, str] = {
    "stable-diffusion-1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "stable-diffusion-2-1": "stabilityai/stable-diffusion-2-1-base",
}
