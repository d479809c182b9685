"""Finding a prior by the name a config gives it. Never imports torch before a prior is really loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from threedgen.config.aliases import ALIASES, Alias
from threedgen.errors import UserError
from threedgen.shipped import shipped_folder

if TYPE_CHECKING:
    import torch

    from threedgen.priors.diffusion import DiffusionPrior

EMBEDDED = shipped_folder("assets") / "priors" / "embedded"


def folder_of(name: str) -> Path:
    """Folder of the prior `name`: "embedded", an alias, or a local folder.

    Raises:
        UserError: the name is none of these, or the alias stands for a model that was never downloaded (nothing is fetched).
    """
    if name == "embedded":
        return EMBEDDED
    if name in ALIASES:
        return _cached_snapshot(name, ALIASES[name])
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    raise UserError(f"unknown prior '{name}': choose embedded, {', '.join(sorted(ALIASES))}, or give a folder in diffusers format")


def _cached_snapshot(name: str, alias: Alias) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    for repository in alias.repositories:
        try:
            return Path(snapshot_download(repository, local_files_only=True))
        except LocalEntryNotFoundError:
            continue
    raise UserError(f"prior '{name}' is not on this machine: run `hf download {alias.repositories[0]}` once, or give a local folder")


def load_prior(name: str, device: torch.device | str = "cpu", precision: str = "auto") -> DiffusionPrior:
    """The frozen prior a config names: "embedded", an alias, or a folder in diffusers format.

    Args:
        name: see `folder_of`.
        device: where it computes.
        precision: "auto", "float32", "bfloat16" or "float16" (threedgen.priors.precision).

    Raises:
        UserError: one line that names what is unknown, missing, damaged or not supported.
    """
    folder = folder_of(name)

    from threedgen.priors.diffusion import DiffusionPrior

    return DiffusionPrior.from_folder(folder, device, precision)
