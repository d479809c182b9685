"""Prompts are embedded once, kept, and never cut silently."""

import pytest
import torch

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
