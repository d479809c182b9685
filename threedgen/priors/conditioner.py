"""What a Conditioning becomes in the call of a UNet, and what a UNet cannot be told."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from threedgen.errors import UserError
from threedgen.priors.attention import ConditionedAttention
from threedgen.priors.base import Conditioning
from threedgen.priors.control import ControlBranch
from threedgen.priors.guidance_scale import guidance_embedding
from threedgen.priors.image_prompt import ImageAdapter
from threedgen.priors.views import camera_numbers

FURTHER_CHANNELS = {4: "the latents of a reference image (guidance zero123)", 5: "a mask and masked latents (guidance di_sds)"}


class Conditioner:
    """A frozen UNet with its control branch and image adapter; installs its attention processors.

    Attributes:
        capabilities: what the network can be told beside text; see `Prior`.
    """

    def __init__(
        self, unet: Any, latent_channels: int, joint: bool, control: ControlBranch | None = None, image_adapter: ImageAdapter | None = None
    ) -> None:
        """
        Args:
            latent_channels: of the noisy latent; the UNet's further channels take `cond.concat`.
            joint: whether self-attention runs over the views of an object.
        """
        self.unet, self.joint, self.control, self.image_adapter = unet, joint, control, image_adapter
        # Of the frozen weights: what a critic adds to the network may have another format.
        self.dtype, self.device = unet.dtype, unet.device
        self.further: int = unet.config.in_channels - latent_channels
        self.takes_camera = unet.config.class_embed_type is not None
        layers = iter(image_adapter.layers if image_adapter else ())
        unet.set_attn_processor(
            {name: ConditionedAttention(*(next(layers, ()) if name.endswith("attn2.processor") else ())) for name in unet.attn_processors}
        )
        able = {
            "negative": True,
            "camera": self.takes_camera,
            "no camera": True,
            "multiview": joint,
            "guidance": unet.config.time_cond_proj_dim is not None,
            "control": control is not None,
            "image": image_adapter is not None,
            f"concat:{self.further}": self.further > 0,
        }
        self.capabilities = frozenset(name for name, can in able.items() if can)

    def arguments(self, z_t: Tensor, t: Tensor, cond: Conditioning) -> tuple[Tensor, dict[str, Any]]:
        """The UNet's input [B,C+K,h,w] for noisy latents z_t [B,C,h,w] at t [B], and its further arguments, in its number format.

        Raises:
            UserError: the network cannot be told what it is given, or lacks what it must be told.
        """
        z, text = z_t.to(self.dtype, memory_format=torch.channels_last), cond.text.to(self.dtype)
        labels = self.camera(cond, len(z)) if self.takes_camera else None
        return self.beside(z, cond.concat), {
            "encoder_hidden_states": text,
            "class_labels": labels,
            "timestep_cond": self.guidance(cond.guidance, z),
            "cross_attention_kwargs": self.attention(cond) or None,
            **self.controlled(z, t, text, cond.control, labels),
        }

    def camera(self, cond: Conditioning, rows: int) -> Tensor:
        """[B,16] embeddings of the cameras, zeros without."""
        return camera_numbers(cond.c2w, rows, self.device).to(self.dtype)

    def beside(self, z: Tensor, concat: Tensor | None) -> Tensor:
        """[B,C+K,h,w] the noisy latents and what lies beside them."""
        given = 0 if concat is None else concat.shape[1]
        if given != self.further:
            kind = f", {FURTHER_CHANNELS[self.further]}," if self.further in FURTHER_CHANNELS else ""
            raise UserError(f"this prior takes {self.further} channels beside the noisy latent{kind} and was given {given}")
        return z if concat is None else torch.cat([z, concat.to(z)], 1).contiguous(memory_format=torch.channels_last)

    def guidance(self, guidance: Tensor | None, z: Tensor) -> Tensor | None:
        """[B,G] embeddings of the guidance scales [B]; none given is a scale of 1."""
        size = self.unet.config.time_cond_proj_dim
        if size is None:
            if guidance is not None:
                raise UserError("this prior does not take the guidance scale as an input: use cfg_mode=two_branch")
            return None
        return guidance_embedding(z.new_ones(len(z)) if guidance is None else guidance.to(z.device), size).to(z)

    def attention(self, cond: Conditioning) -> dict[str, Any]:
        """What the attention processors are told."""
        given: dict[str, Any] = {"views": cond.views} if self.joint else {}
        pushes = {"negative": (cond.negative, cond.negative_scale), "image": (cond.image, cond.image_scale)}
        for name, (tokens, scale) in pushes.items():
            if tokens is not None:
                rows = tokens if name == "negative" else self.adapter().filled(tokens)
                scale = rows.new_ones(len(rows)) if scale is None else scale
                given |= {name: rows.to(self.dtype), f"{name}_scale": scale.to(self.dtype)}
        return given

    def adapter(self) -> ImageAdapter:
        """The image adapter; UserError without one."""
        if self.image_adapter is None:
            raise UserError("this prior has no image adapter: put an IP-Adapter's weights and its image_encoder into its folder ip_adapter")
        return self.image_adapter

    def controlled(self, z: Tensor, t: Tensor, text: Tensor, control: Tensor | None, labels: Tensor | None) -> dict[str, Any]:
        """What the control branch adds."""
        if control is None:
            return {}
        if self.control is None:
            raise UserError("this prior has no control branch: put a ControlNet into its folder controlnet")
        return self.control.residuals(z, t, text, control, labels)
