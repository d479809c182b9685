"""A control branch beside a frozen UNet: what it makes of a depth, normal or other control image is added inside the UNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from torch import Tensor
from torch.nn import functional as F

from threedgen.errors import UserError
from threedgen.priors import folder as files

FITTING = ("block_out_channels", "layers_per_block", "cross_attention_dim")  # in which the branch is a copy of its UNet


class ControlBranch:
    """A ControlNet (arXiv 2302.05543), frozen."""

    def __init__(self, folder: Path, unet: Any) -> None:
        """
        Args:
            folder: of the network, in diffusers format.
            unet: the network it steers; gives its number format and device.

        Raises:
            UserError: the folder is damaged, or made for another kind of UNet.
        """
        network = files.load_network(ControlNetModel, folder.parent, folder.name, unet.dtype)
        for name in FITTING:
            theirs, ours = (str(config[name]).strip("()[]") for config in (network.config, unet.config))
            if theirs != ours:
                raise UserError(f"control branch {folder} does not fit this prior's unet: its {name} is {theirs}, the unet's {ours}")
        self.network = network.to(unet.device, memory_format=torch.channels_last)
        self.channels: int = network.config.conditioning_channels
        self.shrink = 2 ** (len(network.config.conditioning_embedding_out_channels) - 1)

    def residuals(self, z_t: Tensor, t: Tensor, text: Tensor, control: Tensor, labels: Tensor | None) -> dict[str, Any]:
        """What the branch adds in the UNet, as arguments of its call; rows whose control image is all zeros get exactly nothing.

        Args:
            z_t: [B,C,h,w] the noisy latents alone, without further channels.
            control: [B,K,H,W] in [0,1], resized bilinearly to what the branch expects; K = 1 serves for any number of channels.
            labels: [B,L] class labels, or None.
        """
        shown = control.flatten(1).any(1).nonzero().flatten()
        if not len(shown):
            return {}
        down, middle = self.network(
            z_t[shown],
            t[shown],
            encoder_hidden_states=text[shown],
            controlnet_cond=self.fitted(control[shown], z_t),
            class_labels=labels[shown] if labels is not None and self.network.config.class_embed_type else None,
            return_dict=False,
        )
        spread = [r.new_zeros(len(z_t), *r.shape[1:]).index_copy(0, shown, r) for r in (*down, middle)]
        return {"down_block_additional_residuals": tuple(spread[:-1]), "mid_block_additional_residual": spread[-1]}

    def fitted(self, control: Tensor, z_t: Tensor) -> Tensor:
        """The control images in the channels, size and number format of the branch."""
        if control.shape[1] not in (1, self.channels):
            raise UserError(f"the control image has {control.shape[1]} channels, the control branch takes {self.channels}")
        size = [self.shrink * side for side in z_t.shape[-2:]]
        image = control.to(z_t).expand(-1, self.channels, -1, -1)
        return image if list(image.shape[-2:]) == size else F.interpolate(image, size, mode="bilinear", antialias=True)
