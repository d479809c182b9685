"""Texts about keys, made from the schema: one key, a group, or everything."""

from __future__ import annotations

from collections.abc import Sequence

from threedgen.config import suggest
from threedgen.config.keys import STAGE, Key, keys
from threedgen.config.source import shown
from threedgen.config.values import allowed, default_text
from threedgen.errors import UserError


def explain(word: str) -> list[Key]:
    """Keys that a word means: a full path (with <stage> or any stage name), a group, the end of a path; all for "".

    Raises:
        UserError: no key is meant; suggests one.
    """
    every = list(keys())
    segments = word.split(".") if word else []
    for found in (_below(every, segments), _ending(every, segments)):
        if found:
            return found
    raise UserError(f"there is no key {shown(word)}: {_hint(word, every)} --explain without a key lists all")


def describe(key: Key, who: str = "") -> list[tuple[str, str]]:
    """Label and text of what there is to know about a key; `who` says which variants have it, where that matters."""
    rows = [("meaning", key.meta["doc"]), ("allowed", allowed(key)), ("default", default_text(key))]
    if key.meta.get("unit"):
        rows.insert(1, ("unit", key.meta["unit"]))
    if who:
        rows.append(("found in", who))
    if not key.meta.get("affects_result", True):
        rows.append(("note", "does not change the result, nor the name of the run folder"))
    return rows


def _hint(word: str, every: Sequence[Key]) -> str:
    """The nearest key; for a single word also the nearest group or variant, as they can be explained too."""
    if "." in word:
        return f"did you mean {suggest.ranked(word, every, {})[0].path!r}?"
    words = {part for key in every for part in (*key.path.split("."), key.variant) if part not in ("", STAGE)}
    if near := suggest.closest(word, words):
        return f"did you mean {near!r}?"
    return f"the nearest is {suggest.nearest(word, words)!r};"


def _below(every: Sequence[Key], segments: Sequence[str]) -> list[Key]:
    return [key for key in every if _starts(key.path.split("."), segments)]


def _ending(every: Sequence[Key], segments: Sequence[str]) -> list[Key]:
    """Keys with the segments anywhere in their path (`cfg`, `guidance`, `optimizer.lr`), or of the variant so named (`sds`)."""
    found = []
    for key in every:
        parts = key.path.split(".")
        within = any(list(segments) == parts[i : i + len(segments)] for i in range(len(parts)))
        if within or [key.variant] == list(segments):
            found.append(key)
    return found


def _starts(parts: Sequence[str], segments: Sequence[str]) -> bool:
    return len(segments) <= len(parts) and all(p in (s, STAGE) for p, s in zip(parts, segments, strict=False))
