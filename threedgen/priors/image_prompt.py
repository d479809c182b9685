"""Image prompts: an adapter that gives every cross-attention layer its own keys and values for the tokens of an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPVisionModelWithProjection
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from threedgen.errors import UserError
from threedgen.priors import folder as files

PROJECTION = ("proj.weight", "proj.bias", "norm.weight", "norm.bias")


class ImageAdapter:
    """IP-Adapter (arXiv 2308.06721) in its plain form: a few tokens from the pooled embedding of a CLIP image encoder.

    Attributes:
        layers: (key, value) projections [C,D] of each cross-attention layer, in the order of the UNet's attention processors.
        null: [1,N,D] tokens of no image, as the adapter was trained: those of an embedding of zeros.
    """

    def __init__(self, place: Path, unet: Any, beside: Path) -> None:
        """
        Args:
            place: safetensors file of the adapter, or a folder that holds one.
            unet: the network it steers; gives its number format and device.
            beside: the prior's folder; `image_encoder/` is looked for beside the adapter, then here.

        Raises:
            UserError: the file is missing, damaged, of another kind, or made for another UNet.
        """
        self.path = weights_file(place)
        self.device = unet.device
        tensors = read(self.path)
        self.projection = {name: tensors[f"image_proj.{name}"].float().to(unet.device) for name in PROJECTION}
        self.encoder = next((f / "image_encoder" for f in (self.path.parent, beside) if (f / "image_encoder").is_dir()), None)
        crossing = [module for name, module in unet.named_modules() if name.endswith("attn2")]
        self.layers = [
            tuple(tensors[f"ip_adapter.{2 * n + 1}.{part}_ip.weight"].to(unet.device, unet.dtype) for part in ("to_k", "to_v"))
            for n in range(sum(key.endswith("to_k_ip.weight") for key in tensors))
        ]
        shapes = [layer[0].shape for layer in self.layers]
        if shapes != [layer.to_k.weight.shape for layer in crossing]:
            raise UserError(f"image adapter {self.path} does not fit this prior's unet: it was made for another model")
        self.null = self.tokens(self.projection["proj.weight"].new_zeros(1, self.projection["proj.weight"].shape[1]))

    def tokens(self, embedding: Tensor) -> Tensor:
        """[B,N,D] tokens of pooled image embeddings [B,E]."""
        weight, bias, scale, shift = (self.projection[name] for name in PROJECTION)
        return F.layer_norm(F.linear(embedding, weight, bias).unflatten(1, (-1, len(scale))), (len(scale),), scale, shift)

    def filled(self, tokens: Tensor) -> Tensor:
        """Tokens [B,N,D] with those of no image in rows of zeros."""
        return torch.where(tokens.flatten(1).any(1)[:, None, None], tokens, self.null.to(tokens))

    @torch.no_grad()
    def encode(self, rgb: Tensor) -> Tensor:
        """[B,N,D] float32 tokens of images [B,3,H,W] in [0,1]. The encoder is in memory during the call only."""
        if self.encoder is None:
            raise UserError(f"image adapter {self.path} has no image encoder: put its folder `image_encoder` beside it")
        encoder = load_encoder(self.encoder).to(self.device)
        if encoder.config.projection_dim != self.projection["proj.weight"].shape[1]:
            raise UserError(f"image encoder {self.encoder} does not fit the adapter {self.path.name}: it was made for another encoder")
        return self.tokens(encoder(prepared(rgb.to(self.device).float(), encoder.config.image_size)).image_embeds)


def weights_file(place: Path) -> Path:
    """The safetensors file itself, or the only one of a folder; UserError where there is none, or a choice."""
    if place.is_file():
        return place
    found = sorted(place.glob("*.safetensors")) if place.is_dir() else []
    if len(found) != 1:
        count = f"{len(found)} safetensors files, name one of them" if found else "no safetensors file"
        raise UserError(f"image adapter {place}: {count}")
    return found[0]


def read(path: Path) -> dict[str, Tensor]:
    """Tensors of an adapter's file; UserError unless it is one of the plain form."""
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"image adapter {path} cannot be read: {files.first_line(error)}") from error
    keys = sorted(key for key in tensors if key.startswith("ip_adapter."))
    if not keys or any(f"image_proj.{name}" not in tensors for name in PROJECTION):
        raise UserError(f"image adapter {path} is not of the plain IP-Adapter form (image_proj.proj, image_proj.norm, ip_adapter.<n>)")
    expected = [f"ip_adapter.{2 * n + 1}.{part}_ip.weight" for n in range(len(keys) // 2) for part in ("to_k", "to_v")]
    if sorted(expected) != keys:
        raise UserError(f"image adapter {path} is not of the plain IP-Adapter form: its layers are not ip_adapter.1, .3, .5, ...")
    return tensors


def load_encoder(folder: Path) -> Any:
    """The frozen CLIP image encoder (CLIPVisionModelWithProjection) of a folder, in float32; UserError where it is damaged."""
    with files.quiet():
        try:
            loaded: Any = CLIPVisionModelWithProjection.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except Exception as error:
            raise UserError(f"image encoder {folder} cannot be loaded: {files.first_line(error)}") from error
    encoder, report = loaded
    if report["missing_keys"]:
        raise UserError(f"image encoder {folder} lacks the weights of {sorted(report['missing_keys'])[0]}")
    return encoder.eval().requires_grad_(False)


def prepared(rgb: Tensor, size: int) -> Tensor:
    """[B,3,size,size] middle square of the images, resized and normalised as CLIP was trained."""
    side = min(rgb.shape[-2:])
    top, left = ((length - side) // 2 for length in rgb.shape[-2:])
    square = rgb[..., top : top + side, left : left + side]
    small = F.interpolate(square, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(v, device=rgb.device)[:, None, None] for v in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return (small - mean) / std
