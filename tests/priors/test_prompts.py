"""Prompts are embedded once, kept, and never cut silently."""

import pytest
import torch

from tests.oracles import two_image_prior
from threedgen.cameras import orbit
from threedgen.config.schema import VIEWS, PromptSettings, ViewDropSettings
from threedgen.errors import UserError
from threedgen.priors.debiasing import contradicting, without
from threedgen.priors.loading import load_prior
from threedgen.priors.prompts import PromptBank
from threedgen.priors.text import TextEncoder

ONE_VIEW = torch.eye(4)[None]


@pytest.fixture
def prior(tiny_folder, monkeypatch):
    """A prior that counts which texts it embeds."""
    prior = load_prior(str(tiny_folder()))
    prior.seen = []
    encode = prior.encode_text
    monkeypatch.setattr(prior, "encode_text", lambda texts: prior.seen.extend(texts) or encode(texts))
    return prior


def test_names_resolve_to_the_embeddings_of_their_texts(prior):
    bank = PromptBank(prior, "a red apple", "a pear")
    for name, text in (("text", "a red apple"), ("null", ""), ("negative", "a pear")):
        assert bank.rows(name, ONE_VIEW).shape == (1, 32, 16)
        torch.testing.assert_close(bank.rows(name, ONE_VIEW), prior.encode_text([text]))
    with pytest.raises(KeyError):
        bank.rows("front", ONE_VIEW)


def test_each_text_is_embedded_once(prior):
    bank = PromptBank(prior, "a red apple")
    assert prior.seen == ["a red apple", ""]
    assert torch.equal(bank.rows("negative", ONE_VIEW), bank.rows("null", ONE_VIEW))


def test_cache_serves_the_same_bits_and_other_prompts_share_the_null_prompt(prior, tmp_path):
    first = PromptBank(prior, "a red apple", "a pear", tmp_path / "prompts")
    prior.seen.clear()
    again = PromptBank(prior, "a red apple", "a pear", tmp_path / "prompts")
    assert prior.seen == []
    for name in ("text", "null", "negative"):
        assert torch.equal(first.rows(name, ONE_VIEW), again.rows(name, ONE_VIEW))
    PromptBank(prior, "a plum", cache=tmp_path / "prompts")
    assert prior.seen == ["a plum"]


def test_cache_of_another_text_encoder_is_not_used(prior, tmp_path):
    PromptBank(prior, "a red apple", cache=tmp_path)
    prior.seen.clear()
    prior.text_fingerprint = "other"
    PromptBank(prior, "a red apple", cache=tmp_path)
    assert prior.seen == ["a red apple", ""]


def test_cache_file_cut_short_is_made_again(prior, tmp_path):
    expected = PromptBank(prior, "a red apple", cache=tmp_path).rows("text", ONE_VIEW)
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:20])
    assert torch.equal(PromptBank(prior, "a red apple", cache=tmp_path).rows("text", ONE_VIEW), expected)
    prior.seen.clear()
    PromptBank(prior, "a red apple", cache=tmp_path)
    assert prior.seen == []


def test_words_beyond_the_limit_are_named(prior):
    prompt = "a red apple and " * 10 + "a pear at the end"
    with pytest.warns(UserWarning, match="longer than the 32 tokens") as caught:
        embedding = prior.encode_text([prompt])
    (line,) = [str(w.message) for w in caught]
    cut = line.split("'")[1]
    assert "\n" not in line
    assert cut.endswith("a pear at the end")
    torch.testing.assert_close(prior.encode_text([prompt[: -len(cut)]]), embedding), "what is named is all that is ignored"


def test_prompt_at_the_limit_is_whole(prior):
    words = "a red apple and a red apple and a red apple and a red apple and a red apple and a red apple and a red apple and a red"
    encoder = TextEncoder(prior.folder, prior.device)
    assert len(encoder.tokenizer(words)["input_ids"]) == 32
    assert encoder.cut(words) == ""
    assert encoder.cut(words + " apple") == "apple"


AROUND = orbit(torch.tensor([0.0, 90.0, 180.0, 0.0]), torch.tensor([10.0, 10.0, 10.0, 75.0]), torch.full((4,), 2.6))
NO_CAMERA = torch.zeros(1, 4, 4)
WORDS = PromptSettings(view_dependent="words")


def test_view_words_follow_the_camera_and_plain_does_not(prior):
    bank = PromptBank(prior, "a dog", "a pear", further={"flaws": "ugly"}, settings=WORDS)
    expected = prior.encode_text([f"a dog, {view} view" for view in ("front", "side", "back", "overhead")] + ["a dog"])
    assert torch.equal(bank.rows("text", torch.cat([AROUND, NO_CAMERA])), expected)
    for name, text in (("plain", "a dog"), ("negative", "a pear"), ("null", ""), ("flaws", "ugly")):
        assert torch.equal(bank.rows(name, AROUND), prior.encode_text([text]).expand(4, -1, -1))


def test_views_of_a_batch_are_not_mixed_up(prior):
    bank = PromptBank(prior, "a dog", settings=WORDS)
    order = [2, 0, 1]
    assert torch.equal(bank.rows("text", AROUND[order]), bank.rows("text", AROUND)[order])


def test_interpolated_embeddings_are_the_views_own_and_continuous_between_them(prior):
    bank = PromptBank(prior, "a dog", settings=PromptSettings(view_dependent="interpolated"))
    words = PromptBank(prior, "a dog", settings=WORDS)
    where = torch.cat([AROUND, NO_CAMERA])
    torch.testing.assert_close(bank.rows("text", where), words.rows("text", where), atol=1e-5, rtol=0)
    azimuth = torch.linspace(-180, 180, 721)
    rows = bank.rows("text", orbit(azimuth, torch.zeros(721), torch.ones(721)))
    front, side, back, _ = words.rows("text", AROUND)
    largest = max((side - front).abs().max(), (back - side).abs().max())
    assert (rows[1:] - rows[:-1]).abs().max() < 1.01 * largest / 180
    torch.testing.assert_close(rows[360 + 60], front.lerp(side, 1 / 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows, rows.flip(0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("settings", [PromptSettings(), WORDS, PromptSettings(view_dependent="interpolated")])
def test_perp_neg_prompts_are_embedded_when_asked_for_and_each_text_once(prior, settings, tmp_path):
    bank = PromptBank(prior, "a dog", cache=tmp_path, settings=settings)
    dependent = settings.view_dependent != "none"
    assert len(prior.seen) == (6 if dependent else 2)
    bank.encode("perp_0", "perp_1")
    assert len(prior.seen) == len(set(prior.seen)) == (6 if dependent else 4)
    seen = list(prior.seen)
    front, side = bank.rows("perp_0", AROUND), bank.rows("perp_1", AROUND)
    again = PromptBank(prior, "a dog", cache=tmp_path, settings=settings)
    assert torch.equal(again.rows("perp_0", AROUND), front)
    assert prior.seen == seen
    assert torch.equal(front, prior.encode_text(["a dog, front view"]).expand(4, -1, -1))
    assert torch.equal(side, prior.encode_text(["a dog, side view"]).expand(4, -1, -1))
    assert bank.perp_neg_weights(torch.cat([AROUND, NO_CAMERA]))[3:].abs().max() == 0


def test_negative_prompts_may_name_the_other_views(prior):
    settings = PromptSettings(negative_views="words", view_words=[", front", ", side", ", back", ""])
    bank = PromptBank(prior, "a dog", "ugly", settings=settings)
    assert bank.texts["negative"] == ("ugly, side, back", "ugly, front, back", "ugly, front, side", "ugly, front, side, back", "ugly")
    assert torch.equal(bank.rows("negative", NO_CAMERA), prior.encode_text(["ugly"]))
    assert PromptBank(prior, "a dog", settings=settings).texts["negative"] == (
        "side, back",
        "front, back",
        "front, side",
        "front, side, back",
        "",
    )


def test_words_are_dropped_from_the_views_they_contradict(prior):
    settings = PromptSettings(view_dependent="words", view_drop=ViewDropSettings(back=["face", "smiling"], side=["smiling"]))
    bank = PromptBank(prior, "a smiling dog, face", settings=settings)
    assert bank.texts["text"] == (
        "a smiling dog, face, front view",
        "a dog, face, side view",
        "a dog, back view",
        "a smiling dog, face, overhead view",
        "a smiling dog, face",
    )
    assert bank.texts["plain"] == ("a smiling dog, face",)
    with pytest.raises(UserError, match=r"^nothing is left of the prompt in a back view: .*view_drop\.back$"):
        PromptBank(prior, "smiling face", settings=settings)


def test_the_embedding_may_choose_the_words(prior):
    settings = PromptSettings(view_dependent="words", debias="embedding", debias_threshold=0.0)
    bank = PromptBank(prior, "a smiling dog", settings=settings)
    view_words = dict(zip(VIEWS, settings.view_words, strict=True))
    found = contradicting("a smiling dog", view_words, prior.encode_text, 0.0)
    assert any(found.values())
    assert bank.texts["text"][:4] == tuple(without("a smiling dog", found[view]) + words for view, words in view_words.items())


def test_closed_form_priors_take_view_words_but_cannot_judge_them():
    prior = two_image_prior()
    bank = PromptBank(prior, "a red ball", settings=WORDS)
    assert torch.equal(bank.rows("text", AROUND), bank.rows("plain", AROUND))
    assert torch.equal(bank.rows("perp_1", AROUND), bank.rows("plain", AROUND))
    with pytest.raises(UserError, match=r"use prompts\.view_drop$") as caught:
        PromptBank(prior, "a red ball", settings=PromptSettings(view_dependent="words", debias="embedding"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "prompt", ["${oc.env:HOME}", "{0} %s \\1 \\g<0>", "a\0b", " two  spaces\t", "[face](x) .*", "face" * 500, "\u202eface"]
)
def test_hostile_prompts_stay_raw_text(prompt):
    class Echo:
        text_fingerprint, device = "echo", torch.device("cpu")

        def encode_text(self, texts: list[str]) -> torch.Tensor:
            return torch.zeros(len(texts), 1, 1)

    settings = PromptSettings(
        view_dependent="words", view_drop=ViewDropSettings(back=["smiling", "\\1", "(", "a|b"]), negative_views="words"
    )
    bank = PromptBank(Echo(), prompt, settings=settings)
    assert bank.texts["text"][2] in (prompt + ", back view", "{0} %s \\g<0>, back view")
    assert bank.texts["text"][0] == prompt + ", front view"
    assert bank.texts["plain"] == (prompt,)
