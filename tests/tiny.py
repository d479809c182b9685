"""Tiny random networks in the formats that real ones come in, built and saved by the tests that read them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from threedgen.draws import generator
from threedgen.priors import folder as files
from threedgen.priors.loading import EMBEDDED

MARKER = json.loads((EMBEDDED / "threedgen.json").read_text())
TOKENS = 2279
WIDTH = 16  # of text and image tokens
CROSS_LAYERS = 4  # of the tiny UNet


def normal(*shape: int, key: str = "test") -> torch.Tensor:
    """Standard normal numbers, another draw for another key."""
    return torch.randn(shape, generator=generator(0, 0, 0, key))


def save_prior(
    folder: Path,
    prediction_type: str = "epsilon",
    camera: bool = False,
    multiview: bool = False,
    in_channels: int = 4,
    time_cond: int | None = None,
) -> None:
    """A text-to-image folder; more than 4 channels are an inpainting or image-to-view UNet, `time_cond` a guidance embedding's width."""
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
        class_embed_type="projection" if camera else None,
        projection_class_embeddings_input_dim=16 if camera else None,
        time_cond_proj_dim=time_cond,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=16,
        scaling_factor=0.6,
        shift_factor=0.1,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=TOKENS,
            hidden_size=WIDTH,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=32,
            bos_token_id=TOKENS - 2,
            eos_token_id=TOKENS - 1,
            pad_token_id=TOKENS - 1,
        )
    )
    with files.quiet():
        unet.save_pretrained(folder / "unet")
        vae.save_pretrained(folder / "vae")
        text.save_pretrained(folder / "text_encoder")
        DDIMScheduler(beta_schedule="scaled_linear", prediction_type=prediction_type).save_pretrained(folder / "scheduler")
    shutil.copytree(EMBEDDED / "tokenizer", folder / "tokenizer")
    if multiview:
        (folder / "threedgen.json").write_text(json.dumps(MARKER))


def save_control(folder: Path, channels: int = 3, width: int = WIDTH) -> None:
    """A control branch for the tiny UNet; its last layers, zero in a fresh one, are random."""
    network = ControlNetModel(
        conditioning_channels=channels,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=2,
        norm_num_groups=4,
        conditioning_embedding_out_channels=(4, 8),
    )
    for part in (network.controlnet_down_blocks, network.controlnet_mid_block, network.controlnet_cond_embedding.conv_out):
        for p in part.parameters():
            torch.nn.init.normal_(p, std=0.3)
    with files.quiet():
        network.save_pretrained(folder)


def adapter_tensors(tokens: int = 4, embedding: int = 12) -> dict[str, torch.Tensor]:
    """Weights of an image adapter for the tiny UNet, whose cross-attention layers are all 16 wide."""
    tensors = {
        "image_proj.proj.weight": torch.randn(tokens * WIDTH, embedding),
        "image_proj.proj.bias": torch.randn(tokens * WIDTH),
        "image_proj.norm.weight": torch.rand(WIDTH) + 0.5,
        "image_proj.norm.bias": torch.randn(WIDTH),
    }
    for n in range(CROSS_LAYERS):
        tensors |= {f"ip_adapter.{2 * n + 1}.{part}_ip.weight": 0.3 * torch.randn(16, WIDTH) for part in ("to_k", "to_v")}
    return tensors


def save_image_adapter(folder: Path, embedding: int = 12) -> None:
    """The adapter's weights and its image encoder, in one folder."""
    encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
            projection_dim=embedding,
        )
    )
    with files.quiet():
        encoder.save_pretrained(folder / "image_encoder")
    save_file(adapter_tensors(embedding=embedding), folder / "ip-adapter.safetensors")


def seeded(save, folder: Path, *args, **kwargs) -> Path:
    """What `save` makes in a folder with torch's seed at 0; leaves the generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save(folder, *args, **kwargs)
    return folder
