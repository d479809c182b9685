"""What a key accepts: text or YAML node to a checked value, and the same rule in words."""

from __future__ import annotations

import math
import re
from dataclasses import MISSING
from typing import Any

from yaml.nodes import Node

from threedgen.config.document import compose, items_of, number, plain, text_of
from threedgen.config.keys import Key
from threedgen.config.source import shown
from threedgen.errors import UserError
from threedgen.schedule import knots_of

YES = ("true", "yes", "on", "1")
NO = ("false", "no", "off", "0")
WORD = re.compile(r"[A-Za-z][A-Za-z0-9_-]*", re.ASCII)


def is_text(key: Key) -> bool:
    """Whether the value is raw text: whatever follows the first `=`."""
    return key.hint is str


def is_texts(key: Key) -> bool:
    """Whether the value is a list of texts, each kept as it is written."""
    return key.hint == list[str] and not key.meta.get("choices")


def convert(key: Key, raw: Node | str) -> Any:
    """Value of a key; ValueError says what is allowed and what was got."""
    try:
        if is_text(key):
            return _text(key, raw)
        return _texts(key, _node(raw)) if is_texts(key) else _value(key, _parsed(raw))
    except ValueError as error:
        joint = ", " if str(error).startswith("got ") else ": "
        raise ValueError(f"expected {allowed(key)}{joint}{error}") from error


def allowed(key: Key) -> str:
    """What a key accepts, in words."""
    meta, span = key.meta, _span(key)
    words = ", ".join(meta.get("choices", ()))
    if key.hint is str:
        return f"one of {words}" if words else "text"
    if is_texts(key):
        return f"a list of {meta['length']} texts" if meta.get("length") else "a list of texts"
    if key.hint == list[str]:
        return f"a list of {words}"
    if key.hint == list[float]:
        count = f"{meta['length']} " if meta.get("length") else ""
        return f"[lowest, highest], two numbers{span}" if meta.get("ascending") else f"a list of {count}numbers{span}"
    if key.hint is bool:
        return "true or false"
    if meta.get("milestones"):
        return f"a whole number{span} or milestones {{0: first, from_step: next, ...}}"
    if meta.get("scheduled"):
        return f"a number{span} or a schedule [start_step, start, end, end_step, ...]"
    return ("a whole number" if key.hint is int else "a number") + span + (f" or {words}" if words else "")


def default_text(key: Key) -> str:
    """Default of a key as one writes it in YAML, or what happens without it."""
    return "none, must be given" if key.default is MISSING else written(key.default)


def written(value: Any) -> str:
    """A value in YAML's flow style, on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value if value else '""'
    if isinstance(value, float):
        text = repr(value)
        return text.replace("e", ".0e") if "e" in text and "." not in text else text
    if isinstance(value, dict):
        return "{" + ", ".join(f"{written(k)}: {written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_item(v) for v in value) + "]"
    return str(value)


def quoted(text: str) -> str:
    """Double-quoted YAML scalar that reads back to the same text, whatever it holds; always one line."""
    return '"' + "".join(_escaped(character) for character in text) + '"'


def _item(value: Any) -> str:
    """An entry of a list; words that YAML would read otherwise are quoted."""
    plain_word = not isinstance(value, str) or (WORD.fullmatch(value) and value.lower() not in (*YES, *NO, "null"))
    return written(value) if plain_word else quoted(value)


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _parsed(raw: Node | str) -> object:
    node = _node(raw)
    return "" if node is None else plain(node)


def _node(raw: Node | str) -> Node | None:
    """The node that a value was written as, None for an empty one."""
    if not isinstance(raw, str):
        return raw
    try:
        return compose(raw, "text")
    except UserError as error:
        raise ValueError(f"got {shown(raw)}") from error


def _texts(key: Key, node: Node | None) -> list[str]:
    if node is None:
        raise ValueError("got ''")
    texts = [_text(key, item) for item in items_of(node)]
    if key.meta.get("length") and len(texts) != key.meta["length"]:
        raise ValueError(f"got {len(texts)}")
    return texts


def _text(key: Key, raw: Node | str) -> str:
    text = raw if isinstance(raw, str) else text_of(raw)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"got {shown(text)}, which is not valid UTF-8") from None
    if key.meta.get("choices") and text not in key.meta["choices"]:
        raise ValueError(f"got {shown(text)}")
    return text


def _value(key: Key, value: object) -> Any:
    if key.hint is bool:
        return _boolean(value)
    if key.hint is int:
        return _number(key, value, whole=True)
    if key.hint is float:
        return _number(key, value)
    if key.hint == list[float]:
        return _numbers(key, value)
    if key.hint == list[str]:
        return _words(key, value)
    if key.meta.get("milestones"):
        return _milestones(key, value)
    if key.meta.get("scheduled"):
        return _schedule(key, value)
    return value if value in key.meta["choices"] else _number(key, value)


def _boolean(value: object) -> bool:
    word = str(value).lower()
    if word not in YES + NO:
        raise ValueError(f"got {shown(value)}")
    return word in YES


def _number(key: Key, value: object, whole: bool = False) -> int | float:
    if not isinstance(value, int | float):
        raise ValueError(f"got {shown(value)}")
    if whole and isinstance(value, float) and value.is_integer():
        value = int(value)
    low, high = key.meta.get("low"), key.meta.get("high")
    outside = (low is not None and value < low) or (high is not None and value > high)
    if outside or (whole and isinstance(value, float)) or not _is_finite(value):
        raise ValueError(f"got {shown(value)}")
    return float(value) if key.hint is float else value


def _is_finite(value: int | float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _numbers(key: Key, value: object) -> list[float]:
    if not isinstance(value, list) or (key.meta.get("length") and len(value) != key.meta["length"]):
        raise ValueError(f"got {shown(value)}")
    numbers = [float(_number(key, item)) for item in value]
    if key.meta.get("ascending") and numbers != sorted(numbers):
        raise ValueError(f"got {shown(value)}, whose lowest comes last")
    return numbers


def _words(key: Key, value: object) -> list[str]:
    words = [number(word) if isinstance(word, str) else word for word in value] if isinstance(value, list) else [value]
    wrong = [word for word in words if word not in key.meta["choices"]]
    if wrong:
        raise ValueError(f"got {shown(wrong[0])}")
    return [str(word) for word in words]


def _milestones(key: Key, value: object) -> int | dict[int, int]:
    if not isinstance(value, dict):
        return int(_number(key, value, whole=True))
    if 0 not in value or any(not isinstance(step, int) or step < 0 for step in value):
        raise ValueError(f"got {shown(value)}, whose steps are not whole numbers that begin with 0")
    return {step: int(_number(key, value[step], whole=True)) for step in sorted(value)}


def _schedule(key: Key, value: object) -> Any:
    if isinstance(value, str | dict):
        raise ValueError(f"got {shown(value)}")
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, int | float) or not _is_finite(item):
            raise ValueError(f"got {shown(value)}")
    for step, height in knots_of(value):  # type: ignore[arg-type]
        if step < 0:
            raise ValueError(f"got {shown(value)}, which has a negative step")
        _number(key, height)
    return value


def _span(key: Key) -> str:
    low, high, unit = key.meta.get("low"), key.meta.get("high"), key.meta.get("unit")
    span = ""
    if low is not None and high is not None:
        span = f" from {low} to {high}" if low != high else f" equal to {low}"
    elif low is not None:
        span = f" of at least {low}"
    elif high is not None:
        span = f" of at most {high}"
    return span + (f" ({unit})" if unit else "")
