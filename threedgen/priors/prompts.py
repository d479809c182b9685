"""The prompts of a run, embedded once and looked up by the names that guidance rules use."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from threedgen.priors.base import Prior


class PromptBank:
    """Embeddings of "text" (the prompt), "plain" (the same whatever the view), "null" (the empty prompt), "negative" and a rule's own."""

    def __init__(
        self, prior: Prior, prompt: str, negative: str = "", cache: Path | None = None, further: Mapping[str, str] | None = None
    ) -> None:
        """Read the embeddings from the cache; encode and store those it lacks.

        Args:
            prior: embeds the prompts.
            prompt, negative: raw text; an empty negative prompt is the null prompt.
            further: more prompts by name.
            cache: folder of embeddings, one safetensors file for each pair of text encoder and text; None keeps nothing.
        """
        self.texts = {"text": prompt, "plain": prompt, "null": "", "negative": negative, **(further or {})}
        paths = {text: _path(cache, prior, text) for text in self.texts.values()}
        found = {text: embedding for text, path in paths.items() if (embedding := _read(path, prior)) is not None}
        missing = [text for text in paths if text not in found]
        if missing:
            found.update(zip(missing, prior.encode_text(missing).split(1), strict=True))
        for text in missing:
            _write(paths[text], found[text])
        self._embeddings = {name: found[text] for name, text in self.texts.items()}

    def rows(self, name: str, c2w: Tensor) -> Tensor:
        """[B,T,D] embeddings of a prompt for views with cameras c2w [B,4,4]; KeyError on an unknown name."""
        return self._embeddings[name].expand(len(c2w), -1, -1)


def _path(cache: Path | None, prior: Prior, text: str) -> Path | None:
    key = hashlib.blake2b(f"{prior.text_fingerprint}\0{text}".encode(), digest_size=16).hexdigest()
    return None if cache is None else cache / f"{key}.safetensors"


def _read(path: Path | None, prior: Prior) -> Tensor | None:
    if path is None or not path.is_file():
        return None
    try:
        return load_file(path)["embedding"].to(prior.device)
    except SafetensorError:  # cut short by a full disk: encoding again mends it
        return None


def _write(path: Path | None, embedding: Tensor) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_bytes(save({"embedding": embedding.contiguous().cpu()}))
    partial.replace(path)
