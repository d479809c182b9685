"""Prompt debiasing: words of a prompt that contradict a view are left out of that view's prompt (arXiv 2303.15413).

The publication asks a masked language model which words make a view unlikely. Here the words are given by the user, or found with the
prior's own text encoder: a variant of ours, whose judgement is as coarse as the pooled embeddings it compares.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

JOINT = "[-'\u2019]"
WORDS = re.compile(rf"\w+(?:{JOINT}\w+)*")


def without(prompt: str, words: Sequence[str]) -> str:
    """The prompt without words or phrases, found as whole words of any case; as it stands where it holds none of them."""
    if not words:
        return prompt
    longest_first = sorted(words, key=len, reverse=True)
    choice = "|".join(re.escape(word.strip()) for word in longest_first)
    pattern = rf"(?<!\w)(?<!\w{JOINT})(?:{choice})(?!\w|{JOINT}\w)[\s,]*"
    shorter, count = re.subn(pattern, "", prompt, flags=re.IGNORECASE)
    return shorter.rstrip(" ,") if count else prompt


def contradicting(
    prompt: str, view_words: Mapping[str, str], embed: Callable[[list[str]], Tensor], threshold: float
) -> dict[str, list[str]]:
    """Words of the prompt to leave out, by view.

    The agreement of a prompt with a view is the cosine between the pooled embeddings of the prompt and of the view's words, minus the mean
    of that cosine over the other views. A word goes where leaving it out raises the agreement by more than the threshold; the word with
    the least gain stays where all would go.

    Args:
        prompt: raw text.
        view_words: words of each view; views without words keep the whole prompt.
        embed: texts to embeddings [N,T,D].
        threshold: least gain, a difference of cosines.
    """
    words = list({word.casefold(): word for word in WORDS.findall(prompt)}.values())
    views = {view: text.strip(" ,") for view, text in view_words.items() if text.strip(" ,")}
    if len(words) < 2 or len(views) < 2:
        return {view: [] for view in view_words}
    texts = [prompt, *(without(prompt, [word]) for word in words)]
    null, *rows = pooled(embed(["", *texts, *views.values()]))
    prompts, directions = torch.stack(rows).sub(null).split([len(texts), len(views)])
    cosines = F.cosine_similarity(prompts[:, None], directions[None], dim=-1)
    agreement = cosines - (cosines.sum(1, keepdim=True) - cosines) / (len(views) - 1)
    gains = agreement[1:] - agreement[:1]
    found = {view: [] for view in view_words}
    for view, gain in zip(views, gains.T.tolist(), strict=True):
        ranked = sorted(zip(gain, words, strict=True), key=lambda pair: -pair[0])
        found[view] = [word for value, word in ranked if value > threshold][: len(words) - 1]
    return found


def pooled(embeddings: Tensor) -> Tensor:
    """[N,D] mean over the tokens of embeddings [N,T,D]."""
    return embeddings.float().mean(1)
