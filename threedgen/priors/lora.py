"""A trainable critic on a frozen UNet: low-rank updates of its attention projections (LoRA, arXiv 2106.09685) and of its camera embedding.

The critic and the prior are one network in memory: the updates lie beside the frozen weights and are active during the critic's calls
only, so that between them the network is the prior to the last bit.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from threedgen.draws import generator
from threedgen.priors.base import Conditioning
from threedgen.priors.views import CAMERA_NUMBERS, camera_numbers

if TYPE_CHECKING:
    from threedgen.priors.diffusion import DiffusionPrior

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
# Gradients of a mean over the entries of latents are smaller than float16 resolves: on their way through a network that computes in
# it they are this much larger. 1 elsewhere.
FLOAT16_SCALE = 1024.0


class Updates:
    """The sets of low-rank updates on one UNet; none is active except inside `active`.

    Not for several threads at a time: the network is in one state.
    """

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self.unet = unet
        self.layers: dict[str, LoraLayer] = {}
        self._names: list[str] = []
        self._recomputed: set[str] = set()
        self._active: str | None = None

    def add(self, rank: int, purpose: str, recompute: bool = False, seed: int = 0) -> tuple[str, nn.ModuleDict]:
        """A new set, off and without effect: its name, and its two factors by layer.

        Args:
            rank: of the updates.
            purpose, seed: keys of the draws of the first factor, uniform in +-1/sqrt(inputs); the second is zero.
            recompute: whether activations are recomputed in the backward pass of calls with this set.
        """
        name = f"updates_{len(self._names)}"
        self._names.append(name)
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(PROJECTIONS))
        with flags_kept(self.unet), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Already found a `peft_config`", category=UserWarning)
            # As shapes alone, for the weights are drawn below, and the global generator is not to be touched.
            inject_adapter_in_model(config, self.unet, name, low_cpu_mem_usage=True)
        self.layers = {path: module for path, module in self.unet.named_modules() if isinstance(module, LoraLayer)}
        self._switch(self._active)
        if recompute:
            self._recomputed.add(name)
            self.unet.enable_gradient_checkpointing(self._maybe_recomputed)
        factors = {path.replace(".", "_"): materialised(layer, name, f"{purpose} {path}", seed) for path, layer in self.layers.items()}
        return name, nn.ModuleDict(factors)

    def remove(self, name: str) -> None:
        """Forget a set."""
        for layer in self.layers.values():
            layer.delete_adapter(name)
        self._switch(self._active)

    @contextmanager
    def active(self, name: str) -> Iterator[None]:
        """The network with one set of updates."""
        before = self._active
        self._switch(name)
        try:
            yield
        finally:
            self._switch(before)

    def _switch(self, name: str | None) -> None:
        """Set what peft's own switches set but requires_grad, which belongs to whoever trains the updates."""
        self._active = name
        for layer in self.layers.values():
            layer._active_adapter = [] if name is None else [name]
            layer._disable_adapters = name is None

    def _maybe_recomputed(self, block: Callable[..., Any], *arguments: Any) -> Any:
        """A block of the network, checkpointed where the active set asks for it.

        The backward pass comes after the call, when the updates are off again: the recomputation has to turn them on.
        """
        name = self._active
        if name is None or name not in self._recomputed:
            return block(*arguments)
        return checkpoint(
            block, *arguments, use_reentrant=False, preserve_rng_state=False, context_fn=lambda: (nullcontext(), self.active(name))
        )


class CameraEmbedding(nn.Module):
    """What the critic adds to the time embedding for the camera of a row: a perceptron of 16 numbers, at first nothing."""

    def __init__(self, width: int, device: torch.device, seed: int) -> None:
        super().__init__()
        self.hidden = linear(drawn((width, CAMERA_NUMBERS), "critic camera", seed, device), torch.zeros(width, device=device))
        self.out = linear(torch.zeros(width, width, device=device), torch.zeros(width, device=device))

    def forward(self, numbers: Tensor) -> Tensor:
        """[B,width] of the camera's numbers [B,16]; zeros are no camera."""
        return self.out(nn.functional.silu(self.hidden(numbers)))


class LoraCritic(nn.Module):
    """A `Critic` on the UNet of a prior; holds the updates and the camera embedding, in float32, and not the UNet.

    A UNet that is told the camera sees the sum of its own embedding and the critic's; one that is not is told by the critic alone.
    """

    def __init__(
        self, prior: DiffusionPrior, updates: Updates, rank: int, checkpointing: bool = False, buckets: int = 1, seed: int = 0
    ) -> None:
        """
        Args:
            prior: shares its weights.
            updates: of the prior's UNet, to which the critic adds its own.
            rank, checkpointing, buckets, seed: see `Prior.critic`.
        """
        super().__init__()
        self._prior, self._updates = prior, updates
        made = [updates.add(rank, f"critic {bucket}", checkpointing, seed) for bucket in range(buckets)]
        self._names = [name for name, _ in made]
        self.updates = nn.ModuleList(factors for _, factors in made)
        self.camera = CameraEmbedding(prior.unet.time_embedding.linear_2.out_features, prior.device, seed)
        self._scale = FLOAT16_SCALE if prior.precision.unet == torch.float16 else 1.0
        if self._scale != 1:
            for parameter in self.parameters():
                parameter.register_hook(lambda gradient: gradient / self._scale)

    def close(self) -> None:
        """Take the updates off the prior's UNet; the critic cannot be asked any more."""
        for name in self._names:
            self._updates.remove(name)

    def predict_noise(self, z_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """[B,C,h,w] noise in z_t at timesteps t [B], with gradient to the critic's parameters where gradients are on.

        One UNet call, or one for each bucket that the rows fall in. Where the prior attends jointly to the views of an object, the
        turn of their ring decides for all of them; rows without a camera are in the first bucket.
        """
        if len(self._names) == 1:
            return self._predicted(0, z_t, t, cond)
        buckets = azimuth_buckets(cond.c2w, len(z_t), len(self._names), cond.views if self._prior.joint else 1)
        groups = [(bucket, torch.nonzero(buckets == bucket)[:, 0].to(z_t.device)) for bucket in buckets.unique().tolist()]
        parts = [self._predicted(bucket, z_t[rows], t[rows.to(t.device)], cond.select(rows)) for bucket, rows in groups]
        return torch.cat(parts)[torch.cat([rows for _, rows in groups]).argsort()]

    def _predicted(self, bucket: int, z_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        camera = self.camera(camera_numbers(cond.c2w, len(z_t), z_t.device))
        with self._updates.active(self._names[bucket]), added(self._prior.unet.time_embedding, camera):
            eps = self._prior.evaluate(z_t.detach(), t, cond)
        if eps.requires_grad and self._scale != 1:
            eps.register_hook(lambda gradient: gradient * self._scale)
        return eps


def azimuth_buckets(c2w: Tensor | None, rows: int, count: int, views: int) -> Tensor:
    """[B] bucket of each row, on the CPU: the azimuth in `count` equal parts, the first centred on the front (+x).

    Views that share a bucket stand evenly around the object, so it is the turn of their ring, a `views`-th of the circle, that is
    divided: by the azimuth itself the first view of a ring would leave all but the first buckets empty.

    Args:
        c2w: [B,4,4] cameras, or None; zeros are no camera.
        rows: B.
        views: consecutive rows that share a bucket.
    """
    if c2w is None:
        return torch.zeros(rows, dtype=torch.long)
    position = c2w[::views, :3, 3].detach().cpu()
    part = torch.atan2(position[:, 1], position[:, 0]) * (views * count / (2 * math.pi))
    return (part.round().long() % count).repeat_interleave(views)


@contextmanager
def added(module: nn.Module, summand: Tensor) -> Iterator[None]:
    """A module whose output has a summand added to it."""

    def hook(_module: nn.Module, _arguments: Any, output: Tensor) -> Tensor:
        return output + summand.to(output.dtype)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def flags_kept(module: nn.Module) -> Iterator[None]:
    """requires_grad of the parameters that a module already has, as it was before; peft's early releases clear it in the other sets."""
    flags = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def materialised(layer: LoraLayer, name: str, purpose: str, seed: int) -> nn.ModuleDict:
    """The two factors of a set in a layer, with trainable float32 weights on the layer's device."""
    base: Any = layer.get_base_layer()
    down, up = layer.lora_A[name], layer.lora_B[name]
    down.weight = nn.Parameter(drawn((layer.r[name], base.in_features), purpose, seed, base.weight.device))
    up.weight = nn.Parameter(torch.zeros(base.out_features, layer.r[name], device=base.weight.device))
    return nn.ModuleDict({"down": down, "up": up})


def drawn(shape: tuple[int, int], purpose: str, seed: int, device: torch.device) -> Tensor:
    """[outputs, inputs] uniform in +-1/sqrt(inputs), keyed on the seed and the purpose."""
    uniform = torch.rand(shape, generator=generator(seed, 0, -1, purpose))
    return ((2 * uniform - 1) / math.sqrt(shape[1])).to(device)


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A layer of given weight and bias; the global generator is not touched."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return layer
