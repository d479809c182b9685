"""Did you mean: the known key or name that a misspelt one most likely stands for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from threedgen import registry
from threedgen.config.keys import Key
from threedgen.config.source import shown

ELSEWHERE = 2.5  # cost of writing a right name in the wrong group, in edits
UNCHOSEN = 0.5  # cost of a key that only variants have which were not chosen, in edits
NAMED = 3  # variants that a message names
FAR = 0.45  # edits per character above which a name is no hint


def distance(a: str, b: str) -> int:
    """Fewest insertions, deletions, substitutions and swaps of neighbours that turn a into b (optimal string alignment)."""
    a, b = _middles(a, b)
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


def _middles(a: str, b: str) -> tuple[str, str]:
    """What is left of two words without the beginning and the end they share, which costs no edits."""
    start = 0
    while start < min(len(a), len(b)) and a[start] == b[start]:
        start += 1
    a, b = a[start:], b[start:]
    end = 0
    while end < min(len(a), len(b)) and a[-1 - end] == b[-1 - end]:
        end += 1
    return a[: len(a) - end], b[: len(b) - end]


def closest(word: str, known: Collection[str]) -> str | None:
    """The nearest known name, or None where nothing is near."""
    if not known:
        return None
    found = nearest(word, known)
    return found if distance(word[:80].lower(), found.lower()) <= max(1, FAR * max(len(word[:80]), len(found))) else None


def nearest(word: str, known: Collection[str]) -> str:
    """The nearest of at least one known name, however far."""
    return min(known, key=lambda name: (distance(word[:80].lower(), name.lower()), name))


def choose(word: str, known: Sequence[str]) -> str:
    """End of a message about an unknown name."""
    near = closest(word, known)
    return (f"did you mean {near!r}? " if near else "") + f"choose one of {', '.join(known)}"


def inside(path: str, names: Sequence[str]) -> str:
    """End of a message about a group that was given a plain value."""
    examples = ", ".join(f"{path}.{name}" for name in names[:3])
    return f"set its keys instead ({examples}{', ...' if len(names) > 3 else ''})"


def ranked(path: str, every: Sequence[Key], types: Mapping[str, str]) -> list[Key]:
    """One key for each path, by its likeness to a dotted path, nearest first; a path that the chosen variants lack comes behind."""
    path = path[:200]
    keys: dict[str, Key] = {}
    for key in every:
        if key.path not in keys or _is_chosen(key, types):
            keys[key.path] = key

    def cost(key: Key) -> tuple[float, int, str]:
        whole = distance(path, key.path)
        moved = distance(path.rpartition(".")[2], key.name) + ELSEWHERE
        return min(whole, moved) + (0 if _is_chosen(key, types) else UNCHOSEN), whole, key.path

    return sorted(keys.values(), key=cost)


def unknown_key(path: str, source: str, every: Sequence[Key], types: Mapping[str, str]) -> str:
    """Message about a key that does not exist in any variant."""
    best = ranked(path, every, types)[0]
    start = f"unknown key {shown(path, 100)} ({source})"
    last = path.rpartition(".")[2][:200]
    if min(distance(path[:200], best.path), distance(last, best.name)) > max(2, FAR * len(last)):
        return f"{start}: --explain lists every key"
    if _is_chosen(best, types):
        return f"{start}: did you mean {best.path!r}?"
    return f"{start}: did you mean {best.path!r}? This key exists in {_elsewhere(_owners(best.path, every, types), best, types)}"


def other_variant(path: str, source: str, every: Sequence[Key], types: Mapping[str, str]) -> str:
    """Message about a key that exists, but not in the chosen variant."""
    key = next(key for key in every if key.path == path and key.variant)
    owners = _owners(path, every, types)
    start = f"unknown key {shown(path, 100)} ({source}): this key exists in {_elsewhere(owners, key, types)}"
    here = [other.name for other in every if other.group == key.group and other.variant == types.get(key.group)]
    near = closest(key.name, here)
    return start + (f"; did you mean {key.group}.{near}?" if near else f"; set {key.group}.type={owners[0]} to use it")


def _is_chosen(key: Key, types: Mapping[str, str]) -> bool:
    return not key.variant or types.get(key.group) == key.variant


def _owners(path: str, every: Sequence[Key], types: Mapping[str, str]) -> list[str]:
    """Variants that have a key: those first that a run from text can have, that are akin to the chosen one, that others build on."""
    owners = [key for key in every if key.path == path and key.variant]
    kind, chosen = owners[0].kind, types.get(owners[0].group)
    classes = {name: registry.lookup(kind, name) for name in registry.names(kind)}
    line = set(classes[chosen].__mro__) if chosen else set()

    def rank(name: str) -> tuple[bool, int, int, str]:
        cls = classes[name]
        heirs = sum(issubclass(other, cls) for other in classes.values())
        return bool(getattr(cls, "needs", ())), -len(line & set(cls.__mro__)), -heirs, name

    return sorted((key.variant for key in owners), key=rank)


def _elsewhere(owners: Sequence[str], key: Key, types: Mapping[str, str]) -> str:
    """ "guidance sds, csd and 12 more, not in guidance im3d"."""
    more = [f"{len(owners) - NAMED} more"] if len(owners) > NAMED else []
    *names, last = [*owners[:NAMED], *more]
    listed = f"{', '.join(names)} and {last}" if names else last
    current = f"{key.kind} {types[key.group]}" if key.group in types else f"this {key.kind}"
    return f"{key.kind} {listed}, not in {current}"
