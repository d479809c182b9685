"""Did you mean: the known key or name that a misspelt one most likely stands for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from threedgen.config.keys import Key
from threedgen.config.source import shown

ELSEWHERE = 2.5  # cost of writing a right name in the wrong group, in edits
FAR = 0.45  # edits per character above which a name is no hint


def distance(a: str, b: str) -> int:
    """Fewest insertions, deletions, substitutions and swaps of neighbours that turn a into b (optimal string alignment)."""
    older: list[int] = []
    old = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        new = [i]
        for j, y in enumerate(b, 1):
            best = min(old[j] + 1, new[j - 1] + 1, old[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and y == a[i - 2]:
                best = min(best, older[j - 2] + 1)
            new.append(best)
        older, old = old, new
    return old[-1]


def closest(word: str, known: Iterable[str]) -> str | None:
    """The nearest known name, or None where nothing is near."""
    word = word[:80].lower()
    ranked = sorted((distance(word, name.lower()), name) for name in known)
    if not ranked or ranked[0][0] > max(1, FAR * max(len(word), len(ranked[0][1]))):
        return None
    return ranked[0][1]


def choose(word: str, known: Sequence[str]) -> str:
    """End of a message about an unknown name."""
    near = closest(word, known)
    return (f"did you mean {near!r}? " if near else "") + f"choose one of {', '.join(known)}"


def inside(path: str, names: Sequence[str]) -> str:
    """End of a message about a group that was given a plain value."""
    examples = ", ".join(f"{path}.{name}" for name in names[:3])
    return f"set its keys instead ({examples}{', ...' if len(names) > 3 else ''})"


def ranked(path: str, every: Sequence[Key], types: Mapping[str, str]) -> list[Key]:
    """Keys by their likeness to a dotted path, nearest first; keys of the chosen variants win ties."""
    path = path[:200]

    def cost(key: Key) -> tuple[float, bool, int, str]:
        whole = distance(path, key.path)
        moved = distance(path.rpartition(".")[2], key.name) + ELSEWHERE
        chosen = not key.variant or types.get(key.group) == key.variant
        return min(whole, moved), not chosen, whole, key.path

    return sorted(every, key=cost)


def unknown_key(path: str, source: str, every: Sequence[Key], types: Mapping[str, str]) -> str:
    """Message about a key that does not exist in any variant."""
    best = ranked(path, every, types)[0]
    start = f"unknown key {shown(path, 100)} ({source})"
    last = path.rpartition(".")[2][:200]
    if min(distance(path[:200], best.path), distance(last, best.name)) > max(2, FAR * len(last)):
        return f"{start}: --explain lists every key"
    if best.variant and types.get(best.group) != best.variant:
        return f"{start}: did you mean {best.path!r}? This key exists in {best.kind} {best.variant}, not in {_current(best, types)}"
    return f"{start}: did you mean {best.path!r}?"


def other_variant(path: str, source: str, every: Sequence[Key], types: Mapping[str, str]) -> str:
    """Message about a key that exists, but not in the chosen variant."""
    owners = [key for key in every if key.path == path and key.variant]
    names = " and ".join(key.variant for key in owners)
    start = f"unknown key {shown(path, 100)} ({source}): this key exists in {owners[0].kind} {names}, not in {_current(owners[0], types)}"
    here = [key for key in every if key.group == owners[0].group and types.get(key.group) == key.variant]
    near = closest(path.rpartition(".")[2], [key.name for key in here])
    return start + (f"; did you mean {owners[0].group}.{near}?" if near else f"; set {owners[0].group}.type={owners[0].variant} to use it")


def _current(key: Key, types: Mapping[str, str]) -> str:
    return f"{key.kind} {types[key.group]}" if key.group in types else f"this {key.kind}"
