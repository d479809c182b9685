"""Words go from a prompt as whole words, and the embedding finds those that speak for another view."""

import pytest
import torch

from threedgen.priors.debiasing import contradicting, without

VIEW_WORDS = {"front": ", front view", "side": ", side view", "back": ", back view", "overhead": ", overhead view"}
AXES = ["front", "side", "back", "overhead", "dog"]
MEANING = {"smiling": "front", "tail": "back"}


def embed(texts: list[str]) -> torch.Tensor:
    """[N,2,6] sums of the words' unit vectors: views and the dog have axes, a smile lies half on the front's; one constant token."""
    rows = torch.zeros(len(texts), 2, len(AXES) + 1)
    rows[:, 0, -1] = 100.0
    for row, text in zip(rows, texts, strict=True):
        for word in text.replace(",", " ").split():
            axis = MEANING.get(word, word)
            if axis in AXES:
                row[1, AXES.index(axis)] += 1.0
    return rows


@pytest.mark.parametrize(
    ("prompt", "words", "expected"),
    [
        ("a smiling dog, smiling", ["smiling"], "a dog"),
        ("a dog, smiling, on grass", ["smiling"], "a dog, on grass"),
        ("A Face and a FACE", ["face", "a"], "and"),
        ("a dog with a smiling face", ["face", "a smiling face"], "a dog with"),
        ("a surface, a face-less dog's paw", ["face", "dog"], "a surface, a face-less dog's paw"),
        ("  odd \t\n spaces ,", ["face"], "  odd \t\n spaces ,"),
        ("x (y) .* z", [".*", "(y)"], "x z"),
        ("a  dog ,", [], "a  dog ,"),
        ("ein Gesicht, große Ohren", ["GROSSE", "gesicht"], "ein große Ohren"),
    ],
)
def test_whole_words_and_phrases_go(prompt, words, expected):
    assert without(prompt, words) == expected


def test_words_that_speak_for_another_view_are_found():
    found = contradicting("a smiling dog with a tail", VIEW_WORDS, embed, 0.1)
    assert found["front"] == ["tail"]
    assert found["back"] == ["smiling"]
    assert set(found["side"]) == set(found["overhead"]) == {"smiling", "tail"}
    assert contradicting("a dog with", VIEW_WORDS, embed, 0.1) == {view: [] for view in VIEW_WORDS}


def test_the_threshold_decides():
    # cos([smile, tail, dog], view) is 1/sqrt(3); without the smile the back has 1/sqrt(2), the front 0, the other views 0 as before.
    gain = 1 / 2**0.5 - (1 - 1 / 3) / 3**0.5
    found = [contradicting("smiling dog tail", VIEW_WORDS, embed, gain + shift)["back"] for shift in (-1e-4, 1e-4)]
    assert found == [["smiling"], []]


def test_something_is_left_and_views_without_words_keep_all():
    assert contradicting("smiling tail", {**VIEW_WORDS, "front": "", "side": ""}, embed, -10.0) == {
        "front": [],
        "side": [],
        "back": ["smiling"],
        "overhead": ["tail"],
    }
    assert contradicting("smiling", VIEW_WORDS, embed, -10.0)["back"] == []
    assert contradicting("", VIEW_WORDS, embed, -10.0)["back"] == []
