"""The prompts of a run, embedded once and looked up by the names that guidance rules use."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from threedgen.config.schema import VIEWS, PromptSettings
from threedgen.errors import UserError
from threedgen.priors import directions
from threedgen.priors.base import Prior
from threedgen.priors.debiasing import contradicting, without
from threedgen.storage import write_bytes

PERP_NEG = {"perp_0": "front", "perp_1": "side"}
BATCH = 64  # texts that are embedded in one call


class PromptBank:
    """Embeddings of "text" (the prompt), "plain" (the same whatever the view), "null" (the empty prompt), "negative" and a rule's own.

    "perp_0" and "perp_1" are the negative prompts of Perp-Neg, the prompt as a front and as a side view; they are embedded when they are
    first asked for. "text" and "negative" depend on the view where the settings say so.
    """

    def __init__(
        self,
        prior: Prior,
        prompt: str,
        negative: str = "",
        cache: Path | None = None,
        further: Mapping[str, str] | None = None,
        settings: PromptSettings | None = None,
    ) -> None:
        """Read the embeddings from the cache; encode and store those it lacks.

        Args:
            prior: embeds the prompts.
            prompt, negative: raw text; an empty negative prompt is the null prompt.
            further: more prompts by name; they do not depend on the view.
            cache: folder of embeddings, one safetensors file for each pair of text encoder and text; None keeps nothing.
            settings: how prompts depend on the view; None is not at all.

        Raises:
            UserError: the prior cannot embed a prompt, or nothing is left of the prompt for some view.
        """
        self.prior, self.cache, self.prompt, self.settings = prior, cache, prompt, settings or PromptSettings()
        self._embeddings: dict[str, Tensor] = {}
        # Of each name one text, or those of the views and, behind them, the one without a camera.
        self.texts: dict[str, tuple[str, ...]] = {"text": (prompt,), "plain": (prompt,), "null": ("",), "negative": (negative,)}
        self.texts |= {name: (text,) for name, text in (further or {}).items()}
        if self.settings.view_dependent != "none":
            self.texts["text"] = (*self.view_prompts.values(), prompt)
        if self.settings.negative_views == "words":
            self.texts["negative"] = (*self._view_negatives(negative), negative)
        self.encode(*self.texts)

    @cached_property
    def view_prompts(self) -> dict[str, str]:
        """Prompt of each view: without the words that contradict it, and with the words of the view."""
        settings, prompts = self.settings, {}
        view_words = dict(zip(VIEWS, settings.view_words, strict=True))
        found = self._contradicting(view_words) if settings.debias == "embedding" else {}
        for view, words in view_words.items():
            kept = without(self.prompt, [*getattr(settings.view_drop, view), *found.get(view, [])])
            if self.prompt.strip() and not kept.strip():
                raise UserError(f"nothing is left of the prompt in a {view} view: drop fewer words in prompts.view_drop.{view}")
            prompts[view] = kept + words
        return prompts

    def encode(self, *names: str) -> None:
        """Embed the prompts of these names, where that was not done; KeyError on an unknown name."""
        self._embedded([text for name in names for text in self._texts_of(name)])

    def rows(self, name: str, c2w: Tensor) -> Tensor:
        """[B,T,D] embeddings of a prompt for views with cameras c2w [B,4,4], zeros where the camera is withheld.

        Raises:
            KeyError: unknown name.
        """
        table = self._embedded(self._texts_of(name))
        if len(table) == 1:
            return table.expand(len(c2w), -1, -1)
        if name == "text" and self.settings.view_dependent == "interpolated":
            first, second, share = directions.neighbours(c2w, self.settings)
            return table[first].lerp(table[second], share[:, None, None].to(table))
        return table[directions.labels(c2w, self.settings)]

    def perp_neg_weights(self, c2w: Tensor) -> Tensor:
        """[B,2] weights (at most 0) of "perp_0" and "perp_1"; zeros from above and where the camera is withheld."""
        return directions.perp_neg_weights(c2w, self.settings)

    def _texts_of(self, name: str) -> tuple[str, ...]:
        if name in PERP_NEG and name not in self.texts:
            self.texts[name] = (self.view_prompts[PERP_NEG[name]],)
        return self.texts[name]

    def _view_negatives(self, negative: str) -> list[str]:
        """The negative prompt with the words of all other views, for each view."""
        words = self.settings.view_words
        others = ["".join(w for j, w in enumerate(words) if j != i) for i in range(len(words))]
        return [negative + other if negative else other.lstrip(" ,") for other in others]

    def _contradicting(self, view_words: Mapping[str, str]) -> dict[str, list[str]]:
        try:
            return contradicting(self.prompt, view_words, self._embedded, self.settings.debias_threshold)
        except UserError as error:
            raise UserError(f"prompts.debias=embedding asks this prior for parts of the prompt: {error}; use prompts.view_drop") from error

    def _embedded(self, texts: Sequence[str]) -> Tensor:
        """[N,T,D] embeddings of texts, each made once."""
        paths = {text: _path(self.cache, self.prior, text) for text in texts if text not in self._embeddings}
        self._embeddings |= {text: embedding for text, path in paths.items() if (embedding := _read(path, self.prior)) is not None}
        missing = [text for text in paths if text not in self._embeddings]
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            for text, embedding in zip(batch, self.prior.encode_text(batch).split(1), strict=True):
                self._embeddings[text] = embedding
                _write(paths[text], embedding)
        return torch.cat([self._embeddings[text] for text in texts])


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
    if path is not None:
        write_bytes(path, save({"embedding": embedding.contiguous().cpu()}))
