"""A Stable-Diffusion-style model folder as a `Prior`: latent, text-conditioned, perhaps trained on cameras and joint views."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor
from torch.nn import functional as F

from threedgen.errors import UserError
from threedgen.priors import folder as files
from threedgen.priors import precision as precisions
from threedgen.priors.base import Conditioning
from threedgen.priors.text import TextEncoder
from threedgen.priors.views import CAMERA_NUMBERS, JointSelfAttention, camera_embedding, read_marker

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


class DiffusionPrior:
    """Frozen latent diffusion model read from a folder with tokenizer, text_encoder, unet, vae and scheduler.

    Stable Diffusion 1.x and 2.x folders and the embedded prior load alike. A UNet whose class embedding projects 16 numbers is
    told the camera; a folder whose marker says multiview attends jointly over `cond.views` consecutive rows. Others ignore both.

    Attributes:
        alphas_cumprod: [T] of the noise schedule.
        native_resolution: height and width of the images the model was made for.
        latent_channels, latent_size: latents are [B, latent_channels, latent_size, latent_size].
        view_training: what the model knows of cameras, None for a plain text-to-image model.
        text_fingerprint: changes when the same prompt would be embedded otherwise.
    """

    def __init__(self, folder: Path, device: torch.device | str = "cpu", precision: str = "auto") -> None:
        """Load from a local folder; UserError names the part that is missing, damaged or not supported."""
        files.check(folder)
        self.folder, self.device = folder, torch.device(device)
        self.view_training = read_marker(folder)
        self.precision = precisions.choose(self.device, precision)
        layout = torch.channels_last
        self.unet = files.load_network(UNet2DConditionModel, folder, "unet", self.precision.unet).to(self.device, memory_format=layout)
        self.vae = files.load_network(AutoencoderKL, folder, "vae", self.precision.vae).to(self.device, memory_format=layout)
        self._check_unet()
        self.alphas_cumprod = files.alphas_cumprod(folder).to(self.device)
        self.prediction_type = files.read_json(folder, "scheduler/scheduler_config.json").get("prediction_type", "epsilon")
        if self.prediction_type not in PREDICTION_TYPES:
            raise UserError(f"prior folder {folder}: scheduler predicts '{self.prediction_type}', known are {', '.join(PREDICTION_TYPES)}")
        self.latent_channels: int = self.unet.config.in_channels
        self.latent_size: int = self.unet.config.sample_size
        self.native_resolution = self.latent_size * 2 ** (len(self.vae.config.block_out_channels) - 1)
        self._joint = self.view_training is not None and self.view_training.multiview
        if self._joint:
            self.unet.set_attn_processor(JointSelfAttention())
        self.text_fingerprint = files.text_fingerprint(folder)

    def _check_unet(self) -> None:
        config = self.unet.config
        self._takes_camera = config.class_embed_type == "projection" and config.projection_class_embeddings_input_dim == CAMERA_NUMBERS
        if (config.class_embed_type is not None and not self._takes_camera) or config.addition_embed_type is not None:
            raise UserError(f"prior folder {self.folder}: unet takes a conditioning that is not supported (class or added embeddings)")
        if config.in_channels != self.vae.config.latent_channels:
            raise UserError(
                f"prior folder {self.folder}: unet takes {config.in_channels} channels but vae makes {self.vae.config.latent_channels}; "
                "use a text-to-image model"
            )

    def encode_text(self, texts: list[str]) -> Tensor:
        """[N,T,D] float32 embeddings; "" is the null prompt. The text encoder is in memory during the call only."""
        return TextEncoder(self.folder, self.device)(texts)

    def encode(self, rgb: Tensor) -> Tensor:
        """Latents [B,C,h,h] of images [B,3,H,W] in [0,1], the mode of the encoder's Gaussian; gradient flows to the images.

        Other sizes are resized to the native resolution, bilinearly, with a low-pass filter where that shrinks.
        """
        size = (self.native_resolution, self.native_resolution)
        if tuple(rgb.shape[-2:]) != size:
            rgb = F.interpolate(rgb, size, mode="bilinear", antialias=max(rgb.shape[-2:]) > size[0])
        x = (2 * rgb - 1).to(self.precision.vae, memory_format=torch.channels_last)
        z = self.vae.encode(x).latent_dist.mode().to(rgb.dtype)
        return (z - (self.vae.config.shift_factor or 0.0)) * self.vae.config.scaling_factor

    def decode(self, z: Tensor) -> Tensor:
        """Images [B,3,R,R] in [0,1] at the native resolution R of latents; gradient flows to the latents."""
        z_vae = z / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0.0)
        x = self.vae.decode(z_vae.to(self.precision.vae, memory_format=torch.channels_last)).sample
        return (0.5 * x.to(z.dtype) + 0.5).clamp(0, 1)

    @torch.no_grad()
    def predict_noise(self, z_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """[B,C,h,w] noise in z_t at timesteps t [B]; one UNet call for all rows."""
        dtype = self.precision.unet
        labels = self._camera_labels(cond, len(z_t), dtype) if self._takes_camera else None
        output = self.unet(
            z_t.to(dtype, memory_format=torch.channels_last),
            t,
            encoder_hidden_states=cond.text.to(dtype),
            class_labels=labels,
            cross_attention_kwargs={"views": cond.views} if self._joint else None,
            return_dict=False,
        )[0].to(z_t.dtype)
        alpha_bar = self.alphas_cumprod[t].to(z_t.dtype)[:, None, None, None]
        return to_noise(output, z_t, alpha_bar, self.prediction_type)

    def _camera_labels(self, cond: Conditioning, rows: int, dtype: torch.dtype) -> Tensor:
        if cond.c2w is None:
            return torch.zeros(rows, CAMERA_NUMBERS, dtype=dtype, device=self.device)
        return camera_embedding(cond.c2w).to(self.device, dtype)


def to_noise(output: Tensor, z_t: Tensor, alpha_bar: Tensor, prediction_type: str) -> Tensor:
    """Noise meant by a network's output; with a = sqrt(alpha_bar), s = sqrt(1 - alpha_bar).

    "epsilon" is the noise itself, "v_prediction" is a eps - s z0 (arXiv 2202.00512), "sample" is the clean latent z0.
    """
    alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    if prediction_type == "epsilon":
        return output
    if prediction_type == "v_prediction":
        return alpha * output + sigma * z_t
    if prediction_type == "sample":
        return (z_t - alpha * output) / sigma
    raise ValueError(f"unknown prediction type '{prediction_type}'")
