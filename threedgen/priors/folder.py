"""Reading the parts of a Stable-Diffusion-style model folder: offline, quietly, safetensors only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers.utils.logging as diffusers_logging
import torch
import transformers.utils.logging as transformers_logging
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from threedgen.errors import UserError

NETWORKS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no log lines below errors from diffusers and transformers."""
    before = [(log, log.get_verbosity(), log.is_progress_bar_enabled()) for log in (diffusers_logging, transformers_logging)]
    for log, _, _ in before:
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, verbosity, bars in before:
            log.set_verbosity(verbosity)
            if bars:
                log.enable_progress_bar()


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON file of the folder; UserError where it is missing or unreadable."""
    path = folder / name
    if not path.is_file():
        raise UserError(f"prior folder {folder}: {name} is missing")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"prior folder {folder}: {name} is not valid JSON: {error}") from error


def weights_variant(folder: Path, part: str) -> str | None:
    """Variant of a part's safetensors weights: None for the plain file, "fp16" where only that one is there."""
    stem = NETWORKS.get(part, "diffusion_pytorch_model")
    if any((folder / part / f"{stem}.{ending}").is_file() for ending in ("safetensors", "safetensors.index.json")):
        return None
    if (folder / part / f"{stem}.fp16.safetensors").is_file():
        return "fp16"
    raise UserError(f"prior folder {folder}: {part}/{stem}.safetensors is missing (pickled weights are not read)")


def check(folder: Path) -> None:
    """UserError naming the first part that a folder lacks."""
    if not folder.is_dir():
        raise UserError(f"prior folder {folder} does not exist")
    if (folder / "text_encoder_2").is_dir():
        raise UserError(f"prior folder {folder}: models with two text encoders are not supported; use a Stable Diffusion 1.x or 2.x folder")
    for part in NETWORKS:
        read_json(folder, f"{part}/config.json")
        weights_variant(folder, part)
    read_json(folder, "scheduler/scheduler_config.json")
    if not any((folder / "tokenizer" / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise UserError(f"prior folder {folder}: tokenizer/tokenizer.json is missing")


def load_network(cls: Any, folder: Path, part: str, dtype: torch.dtype) -> Any:
    """A frozen network of the folder in evaluation mode; `cls` is its diffusers class."""
    with quiet():
        try:
            network, report = cls.from_pretrained(
                folder / part,
                torch_dtype=dtype,
                variant=weights_variant(folder, part),
                local_files_only=True,
                use_safetensors=True,
                low_cpu_mem_usage=False,
                output_loading_info=True,
            )
        except Exception as error:
            raise UserError(
                f"prior folder {folder}: {part} cannot be loaded, its weights are damaged or do not fit config.json: {first_line(error)}"
            ) from error
    if report["missing_keys"]:
        raise UserError(f"prior folder {folder}: {part} lacks the weights of {sorted(report['missing_keys'])[0]}")
    return network.eval().requires_grad_(False)


def first_line(error: Exception) -> str:
    """First line of an error's message, for messages that hold one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def alphas_cumprod(folder: Path) -> torch.Tensor:
    """[T] float32 product of (1 - beta) of the folder's noise schedule."""
    config = read_json(folder, "scheduler/scheduler_config.json")
    names = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
    return DDIMScheduler(**{name: config[name] for name in names if name in config}).alphas_cumprod.float()


def text_fingerprint(folder: Path) -> str:
    """Hexadecimal digest of every file that embeddings of prompts depend on."""
    digest = hashlib.blake2b(digest_size=16)
    for part in ("tokenizer", "text_encoder"):
        for path in sorted(p for p in (folder / part).iterdir() if p.is_file()):
            with path.open("rb") as file:
                digest.update(f"{part}/{path.name}".encode() + hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()
