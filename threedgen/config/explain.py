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
    near = suggest.ranked(word, every, {})[0].path if "." in word else suggest.closest(word, {key.name for key in every})
    if near is None:
        raise UserError(f"there is no key {shown(word)}: --explain without a key lists all")
    raise UserError(f"there is no key {shown(word)}: did you mean {near!r}? --explain without a key lists all")


def describe(key: Key) -> list[tuple[str, str]]:
    """Label and text of what there is to know about a key."""
    rows = [("meaning", key.meta["doc"]), ("allowed", allowed(key)), ("default", default_text(key))]
    if key.meta.get("unit"):
        rows.insert(1, ("unit", key.meta["unit"]))
    if key.variant:
        rows.append(("only in", f"{key.kind} {key.variant}"))
    if not key.meta.get("affects_result", True):
        rows.append(("note", "does not change the result, nor the name of the run folder"))
    return rows


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
