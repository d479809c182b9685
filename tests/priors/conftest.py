"""Tiny random diffusers folders, saved once a session for each combination that is asked for."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from threedgen.priors import folder as files
from threedgen.priors.loading import EMBEDDED, load_prior

MARKER = json.loads((EMBEDDED / "threedgen.json").read_text())
TOKENS = 2279


def _save(folder: Path, prediction_type: str, camera: bool, multiview: bool) -> None:
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
        class_embed_type="projection" if camera else None,
        projection_class_embeddings_input_dim=16 if camera else None,
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
            hidden_size=16,
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


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Callable[..., Path]:
    """Folder of a tiny random model; read only, copy it before damaging it."""
    made: dict[tuple[str, bool, bool], Path] = {}

    def make(prediction_type: str = "epsilon", camera: bool = False, multiview: bool = False) -> Path:
        key = (prediction_type, camera, multiview)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("prior")
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                _save(made[key], *key)
        return made[key]

    return make


@pytest.fixture(scope="session")
def embedded():
    """The prior that comes with the package, in float32 on the CPU."""
    return load_prior("embedded", precision="float32")
