"""Prompts to embeddings: the tokenizer and text encoder of a model folder."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, CLIPTextModel

from threedgen.errors import UserError
from threedgen.priors import folder as files


class TextEncoder:
    """CLIP text encoder of a Stable-Diffusion-style folder, in float32 (it runs a few times a run)."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.device = device
        with files.quiet():
            try:
                self.tokenizer: Any = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
                loaded: Any = CLIPTextModel.from_pretrained(
                    folder / "text_encoder",
                    dtype=torch.float32,
                    variant=files.weights_variant(folder, "text_encoder"),
                    local_files_only=True,
                    use_safetensors=True,
                    output_loading_info=True,
                )
            except Exception as error:
                raise UserError(f"prior folder {folder}: tokenizer or text_encoder cannot be loaded: {files.first_line(error)}") from error
        self.model, report = loaded
        if report["missing_keys"]:
            raise UserError(f"prior folder {folder}: text_encoder lacks the weights of {sorted(report['missing_keys'])[0]}")
        self.model.to(device).eval().requires_grad_(False)

    def cut(self, text: str) -> str:
        """The end of a prompt that does not fit into the tokenizer's limit; empty where all of it fits."""
        tokens = self.tokenizer(text, truncation=False, verbose=False, return_offsets_mapping=True)
        limit = self.tokenizer.model_max_length
        if len(tokens["input_ids"]) <= limit:
            return ""
        return text[tokens["offset_mapping"][limit - 1][0] :]

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> Tensor:
        """[N,T,D] last hidden states; warns (UserWarning) about a prompt that is too long."""
        for text in texts:
            if cut := self.cut(text):
                limit = self.tokenizer.model_max_length
                warnings.warn(f"the prompt is longer than the {limit} tokens of this prior; ignored: '{cut.strip()}'", stacklevel=2)
        length = self.tokenizer.model_max_length
        tokens = self.tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return self.model(tokens["input_ids"].to(self.device)).last_hidden_state
