"""A Stable-Diffusion-style model folder as a `Prior`: latent, text-conditioned, perhaps trained on cameras and joint views."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor
from torch.nn import functional as F

from threedgen.errors import UserError
from threedgen.priors import folder as files
from threedgen.priors import precision as precisions
from threedgen.priors.base import Conditioning
from threedgen.priors.conditioner import Conditioner
from threedgen.priors.control import ControlBranch
from threedgen.priors.image_prompt import ImageAdapter
from threedgen.priors.lora import LoraCritic, Updates
from threedgen.priors.text import TextEncoder
from threedgen.priors.views import CAMERA_NUMBERS, ViewTraining, read_marker

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


class DiffusionPrior:
    """Frozen latent diffusion model read from a folder with tokenizer, text_encoder, unet, vae and scheduler.

    Stable Diffusion 1.x and 2.x folders and the embedded prior load alike. A UNet whose class embedding projects 16 numbers is
    told the camera; a folder whose marker says multiview attends jointly over `cond.views` consecutive rows. Others ignore both.
    Inpainting and image-to-view UNets take `cond.concat`, UNets with a guidance embedding `cond.guidance`. Every UNet can be pushed
    away from a negative prompt; a control branch and an image adapter come beside it. `from_folder` loads one.

    Attributes:
        alphas_cumprod: [T] of the noise schedule.
        native_resolution: height and width of the images the model was made for.
        latent_channels, latent_size: latents are [B, latent_channels, latent_size, latent_size].
        view_training: what the model knows of cameras, None for a plain text-to-image model.
        joint: whether rows of one object are answered together.
        text_fingerprint: changes when the same prompt would be embedded otherwise.
        conditioner: tells the UNet what a prediction is conditioned on.
        capabilities: what the model can be told beside text; see `Prior`.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        alphas_cumprod: Tensor,
        prediction_type: str = "epsilon",
        *,
        precision: precisions.Precision | None = None,
        view_training: ViewTraining | None = None,
        folder: Path | None = None,
        control: ControlBranch | None = None,
        image_adapter: ImageAdapter | None = None,
    ) -> None:
        """A prior of networks that are frozen, in evaluation mode, and where they are to compute.

        Args:
            unet, vae: in the number formats of `precision`.
            alphas_cumprod: [T] of the noise schedule.
            prediction_type: what the UNet's output means, see `to_noise`.
            precision: None is float32.
            view_training: what the model knows of cameras, None for a plain text-to-image model.
            folder: holds tokenizer and text encoder; without one, prompts cannot be encoded.
            control, image_adapter: made for this UNet; None without.

        Raises:
            UserError: the networks take or predict what is not supported, or do not fit together.
        """
        self.unet: Any = unet  # diffusers declares the configs of its networks as plain dictionaries
        self.vae: Any = vae
        self.folder, self.view_training, self.device = folder, view_training, unet.device
        self.precision = precision or precisions.Precision(torch.float32, torch.float32)
        self.prediction_type = prediction_type
        self._check_networks("prior" if folder is None else f"prior folder {folder}")
        self.alphas_cumprod = alphas_cumprod.to(self.device)
        self.latent_channels: int = self.vae.config.latent_channels
        self.latent_size: int = self.unet.config.sample_size
        self.native_resolution = self.latent_size * 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.joint = view_training is not None and view_training.multiview
        self.conditioner = Conditioner(self.unet, self.latent_channels, self.joint, control, image_adapter)
        self.capabilities = self.conditioner.capabilities
        self.text_fingerprint = "" if folder is None else files.text_fingerprint(folder)
        self._updates: Updates | None = None

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        device: torch.device | str = "cpu",
        precision: str = "auto",
        *,
        control: Path | None = None,
        image_adapter: Path | None = None,
    ) -> DiffusionPrior:
        """Load from a local folder; UserError names the part that is missing, damaged or not supported.

        Args:
            control: folder of a control branch; None is the folder `controlnet` of the prior's folder, where there is one.
            image_adapter: weights of an IP-Adapter, or their folder; None is the folder `ip_adapter` (with `image_encoder`), likewise.
        """
        files.check(folder)
        chosen = precisions.choose(torch.device(device), precision)
        view_training, layout = read_marker(folder), torch.channels_last
        unet = files.load_network(UNet2DConditionModel, folder, "unet", chosen.unet).to(device, memory_format=layout)
        vae = files.load_network(AutoencoderKL, folder, "vae", chosen.vae).to(device, memory_format=layout)
        prediction_type = files.read_json(folder, "scheduler/scheduler_config.json").get("prediction_type", "epsilon")
        schedule = files.alphas_cumprod(folder)
        branch, adapter = control or _present(folder / "controlnet"), image_adapter or _present(folder / "ip_adapter")
        return cls(
            unet,
            vae,
            schedule,
            prediction_type,
            precision=chosen,
            view_training=view_training,
            folder=folder,
            control=ControlBranch(branch, unet) if branch else None,
            image_adapter=ImageAdapter(adapter, unet, folder) if adapter else None,
        )

    def _check_networks(self, name: str) -> None:
        config = self.unet.config
        takes_camera = config.class_embed_type == "projection" and config.projection_class_embeddings_input_dim == CAMERA_NUMBERS
        if (config.class_embed_type is not None and not takes_camera) or config.addition_embed_type is not None:
            raise UserError(f"{name}: unet takes a conditioning that is not supported (class or added embeddings)")
        latent = self.vae.config.latent_channels
        if config.in_channels < latent or config.out_channels != latent:
            raise UserError(
                f"{name}: unet takes {config.in_channels} channels and gives {config.out_channels}, "
                f"but vae makes {latent}; use a text-to-image, inpainting or image-to-view model"
            )
        if self.prediction_type not in PREDICTION_TYPES:
            raise UserError(f"{name}: scheduler predicts '{self.prediction_type}', known are {', '.join(PREDICTION_TYPES)}")

    def encode_text(self, texts: list[str]) -> Tensor:
        """[N,T,D] float32 embeddings; "" is the null prompt. The text encoder is in memory during the call only."""
        if self.folder is None:
            raise ValueError("this prior was made of networks without a text encoder")
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

    def encode_beside(self, rgb: Tensor) -> Tensor:
        """Latents [B,C,h,h] of reference images [B,3,H,W] in [0,1] as image-to-view UNets take them: not scaled (Zero-1-to-3)."""
        return self.encode(rgb) / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0.0)

    def encode_image(self, rgb: Tensor) -> Tensor:
        """[B,N,D] float32 tokens of image prompts [B,3,H,W] in [0,1], for `Conditioning.image`; UserError without an image adapter."""
        return self.conditioner.adapter().encode(rgb)

    def decode(self, z: Tensor) -> Tensor:
        """Images [B,3,R,R] in [0,1] at the native resolution R of latents; gradient flows to the latents."""
        z_vae = z / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0.0)
        x = self.vae.decode(z_vae.to(self.precision.vae, memory_format=torch.channels_last)).sample
        return (0.5 * x.to(z.dtype) + 0.5).clamp(0, 1)

    @torch.no_grad()
    def predict_noise(self, z_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """[B,C,h,w] noise in z_t at timesteps t [B]; one UNet call for all rows."""
        return self.evaluate(z_t, t, cond)

    def evaluate(self, z_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """`predict_noise` of the network as it is, with the gradient that a critic's call asks for."""
        t = t.to(self.device)
        sample, told = self.conditioner.arguments(z_t, t, cond)
        output = self.unet(sample, t, **told, return_dict=False)[0].to(z_t.dtype)
        alpha_bar = self.alphas_cumprod[t].to(z_t.dtype)[:, None, None, None]
        return to_noise(output, z_t, alpha_bar, self.prediction_type)

    def critic(self, rank: int, checkpointing: bool = False, buckets: int = 1, seed: int = 0) -> LoraCritic:
        """A critic on this prior's UNet; several may live on it, and the prior's own predictions stay what they are."""
        if self._updates is None:
            self._updates = Updates(self.unet)
        return LoraCritic(self, self._updates, rank, checkpointing, buckets, seed)


def _present(folder: Path) -> Path | None:
    return folder if folder.is_dir() else None


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
