import random
import string

import pytest

from threedgen.config.find import shipped
from threedgen.config.keys import keys
from threedgen.config.loader import load
from threedgen.config.suggest import closest, distance, ranked
from threedgen.errors import UserError

TYPOS = 240
ALPHABET = string.ascii_lowercase + "_."


@pytest.mark.parametrize(
    ("a", "b", "edits"), [("", "", 0), ("abc", "", 3), ("seed", "sede", 1), ("kitten", "sitting", 3), ("ca", "abc", 3), ("cfg", "cfg", 0)]
)
def test_distance(a, b, edits):
    assert distance(a, b) == distance(b, a) == edits


def test_distant_words_are_no_hint():
    assert closest("zzzzzzz", ["embedded", "analytic"]) is None
    assert closest("anything", []) is None


def mistyped(word: str, rng: random.Random) -> str:
    for _ in range(rng.choice((1, 2))):
        i = rng.randrange(len(word))
        edit = rng.randrange(4)
        if edit == 0:
            word = word[:i] + word[i + 1 :]
        elif edit == 1:
            word = word[:i] + rng.choice(ALPHABET) + word[i:]
        elif edit == 2:
            word = word[:i] + rng.choice(ALPHABET) + word[i + 1 :]
        else:
            word = word[:i] + word[i : i + 2][::-1] + word[i + 2 :]
    return word


def test_the_first_hint_is_right_for_95_percent_of_typos_and_all_are_refused():
    rng = random.Random(20)
    keys = {(name, key) for name in shipped() for key in load(name, ["prompt=x"], inputs_needed=False).sources}
    right = total = 0
    while total < TYPOS:
        name, key = rng.choice(sorted(keys))
        typo = mistyped(key, rng)
        if (name, typo) in keys:
            continue
        with pytest.raises(UserError) as caught:
            load(name, ["prompt=x", f"{typo}=1"])
        total += 1
        right += f"did you mean '{key}'" in str(caught.value)
    assert right >= 0.95 * total, f"{right} of {total}"


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("steps", "stages.coarse.steps"),
        ("guidance.cfg", "stages.coarse.guidance.cfg"),
        ("stages.coarse.cfg", "stages.coarse.guidance.cfg"),
        ("coarse.optimizer.lr", "stages.coarse.optimizer.lr"),
        ("Prompt", "prompt"),
        ("export.textures", "export.texture"),
        ("stages.coarse.guidance.weigth", "stages.coarse.guidance.weight"),
    ],
)
def test_hints(typed, hint):
    with pytest.raises(UserError, match=f"did you mean '{hint}'"):
        load("quickstart-sds", ["prompt=x", f"{typed}=1"])


def test_a_typo_of_another_variants_key_says_where_it_lives():
    owners = r"This key exists in guidance sds, vsd, ism and \d+ more, not in guidance im3d$"
    with pytest.raises(UserError, match=r"did you mean 'stages.coarse.guidance.grad_clip'\? " + owners):
        load("quickstart", ["prompt=x", "stages.coarse.guidance.grad_clpi=1"])


@pytest.mark.parametrize(
    ("guidance", "key", "owners"),
    [("sds", "moves", "sdi, ism and csm"), ("esd", "delta", "ism and csm"), ("sjc", "shift", "asynchronous_sd")],
)
def test_a_key_of_other_guidances_names_those_nearest_to_the_chosen_one(guidance, key, owners):
    with pytest.raises(UserError, match=f"exists in guidance {owners}, not in guidance {guidance}; set"):
        load("quickstart", ["prompt=x", f"stages.coarse.guidance.type={guidance}", f"stages.coarse.guidance.{key}=1"])


def test_guidances_that_no_run_from_text_can_have_are_named_last():
    with pytest.raises(UserError, match=r"did you mean .* exists in guidance (?!.*(dds|zero123))"):
        load("quickstart", ["prompt=x", "stages.coarse.guidance.weigth=1"])


def test_the_key_of_the_chosen_guidance_is_the_first_hint():
    types = {"stages.coarse.guidance": "esd", "stages.coarse.representation": "hashgrid", "stages.coarse.cameras": "orbit"}
    every = list(keys(["coarse"]))
    mine = [key.path for key in every if types.get(key.group) == key.variant]
    others = {key.path for key in every} - set(mine)
    rng = random.Random(4)
    right = total = 0
    while total < 120:
        path = rng.choice(mine)
        typo = mistyped(path, rng)
        if typo in others or typo in mine:
            continue
        total += 1
        right += ranked(typo, every, types)[0].path == path
    assert right >= 0.97 * total, f"{right} of {total}"


def test_nothing_near():
    with pytest.raises(UserError, match="--explain lists every key"):
        load("quickstart", ["prompt=x", "completely.different.thing=1"])
