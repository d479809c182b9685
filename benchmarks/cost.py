"""What does a step of each guidance rule cost? Floating-point operations of one 512 x 512 view on Stable Diffusion 2.1-base.

    python benchmarks/cost.py

Runs the steps on shapes alone (PyTorch's meta device), so it needs neither weights nor a GPU and takes seconds. Counted are the
matrix products and convolutions of the forward pass and of the backward pass to the view; for a rule with a critic also those of the
critic's own step. Attention counts as its two products, backward four. Prints one table and writes benchmarks/results/cost.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from threedgen import guidance, registry  # noqa: E402
from threedgen.cameras import Cameras, orbit_cameras  # noqa: E402
from threedgen.config.schema import POSED_IMAGES  # noqa: E402
from threedgen.draws import Draws  # noqa: E402
from threedgen.errors import UserError  # noqa: E402
from threedgen.guidance.core import Teacher, distill  # noqa: E402
from threedgen.guidance.critics import critic_loss  # noqa: E402
from threedgen.guidance.rule import GuidanceSettings, Rule  # noqa: E402
from threedgen.guidance.vsd import VSD  # noqa: E402
from threedgen.priors.analytic import scaled_linear  # noqa: E402
from threedgen.priors.diffusion import DiffusionPrior  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "cost.json"
SIZE = 512

# The configurations that stabilityai/stable-diffusion-2-1-base was published with; what is left out is the default of diffusers.
UNET = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
VAE = {
    "sample_size": SIZE,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
TOKENS = 77


@dataclass
class Cost:
    """Operations of a step in TFLOP, and the rows that went through the UNet, for one view.

    Attributes:
        rule: its registered name.
        prior, critic: rows through the frozen and through the trained network in the step of the particles.
        step: operations of the step of the particles, forward and backward.
        critic_step: operations of the critic's own step; 0 where there is none.
    """

    rule: str
    prior: int = 0
    critic: int = 0
    step: float = 0.0
    critic_step: float = 0.0
    total: float = field(init=False, default=0.0)


class Shapes:
    """Embeddings of any prompt, as shapes."""

    def rows(self, name: str, c2w: Tensor) -> Tensor:
        return torch.empty(len(c2w), TOKENS, UNET["cross_attention_dim"], device="meta")

    def perp_neg_weights(self, c2w: Tensor) -> Tensor:
        return torch.empty(len(c2w), 2, device="meta")


def shape_prior() -> DiffusionPrior:
    """Stable Diffusion 2.1-base as shapes."""
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**UNET), AutoencoderKL(**VAE)
    frozen = [network.eval().requires_grad_(False) for network in (unet, vae)]
    return DiffusionPrior(*frozen, scaled_linear().float())


def inputs_of(rule: GuidanceSettings, cameras: Cameras) -> dict[str, Tensor]:
    """What a rule needs beside the view, as shapes."""
    image, mask = torch.empty(1, 3, SIZE, SIZE, device="meta"), torch.empty(1, 1, SIZE, SIZE, device="meta")
    known = {"source": image, "reference": image, "control": image, "depth": image, "mask": mask, "reference_c2w": cameras.c2w[0]}
    return {name: known[name] for name in getattr(rule, "needs", ())}


@contextmanager
def rows_counted(prior: DiffusionPrior, critics: dict[str, torch.nn.Module]) -> Iterator[dict[str, int]]:
    """Rows through the UNet by network, while the context is open."""
    rows = {"all": 0, "critic": 0}

    def count(name: str):
        return lambda _module, arguments, *_: rows.update({name: rows[name] + len(arguments[0])})

    handles = [prior.unet.register_forward_pre_hook(count("all"))]
    handles += [critic.camera.register_forward_pre_hook(count("critic")) for critic in critics.values()]
    try:
        yield rows
    finally:
        for handle in handles:
            handle.remove()


def cost_of(name: str, prior: DiffusionPrior, device: str = "cpu") -> Cost:
    """Cost of a rule with its default settings at step 0 for one view; UserError where the prior cannot serve it.

    Draws and cameras are on `device`. Rules that count with their timestep need it on the CPU; on the meta device to read it is an error.
    """
    rule, cost = registry.lookup("guidance", name)(), Cost(name)
    cameras, draws = orbit_cameras([30.0], 15.0, 2.6, 40.0, SIZE, SIZE).to(device), Draws(0, 0, (0,), device)
    rgb = torch.empty(1, SIZE, SIZE, 3, device="meta", requires_grad=True)
    critics = {"critic": prior.critic(rule.rank)} if isinstance(rule, VSD) else {}
    teacher = Teacher(prior, Shapes(), critics)
    with rows_counted(prior, critics) as rows, FlopCounterMode(display=False) as counter:
        if isinstance(rule, Rule):
            out = distill(rule, teacher, rgb, cameras, draws, inputs=inputs_of(rule, cameras))
            out.loss.backward()
        else:
            rule.targets(teacher, rgb.detach(), cameras, Draws(0, rule.first_fit, (0,)))
    cost.critic, cost.prior = rows["critic"], rows["all"] - rows["critic"]
    cost.step = counter.get_total_flops() / 1e12
    if isinstance(rule, VSD):
        with FlopCounterMode(display=False) as counter:
            critic_loss(teacher, out.step).backward()
        cost.critic_step = rule.critic_steps * counter.get_total_flops() / 1e12
    cost.total = cost.step + cost.critic_step
    return cost


def main() -> None:
    guidance.discover()
    prior, found = shape_prior(), []
    print(f"{'rule':<18}{'prior rows':>11}{'critic rows':>13}{'step':>9}{'critic step':>13}{'total TFLOP':>13}")
    for name in registry.names("guidance"):
        if POSED_IMAGES in getattr(registry.lookup("guidance", name), "needs", ()):  # asks no prior
            continue
        try:
            cost = cost_of(name, prior)
        except UserError as error:
            print(f"{name:<18}  left out: {error}")
            continue
        found.append(cost)
        print(f"{name:<18}{cost.prior:>11}{cost.critic:>13}{cost.step:>9.2f}{cost.critic_step:>13.2f}{cost.total:>13.2f}")
    RESULTS.parent.mkdir(exist_ok=True)
    content = {"torch": torch.__version__, "prior": "stable-diffusion-2-1-base", "view": SIZE, "costs": [asdict(cost) for cost in found]}
    RESULTS.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
