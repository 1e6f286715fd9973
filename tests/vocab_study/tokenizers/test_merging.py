import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from trainer_small.data.documents import read_documents
from vocab_study.study.make_study import study_vocabulary
from vocab_study.tokenizers import merging, pretokens, training
from vocab_study.tokenizers.byte_characters import byte_characters
from vocab_study.tokenizers.compression import count_tokens
from vocab_study.tokenizers.merging import learn_merges
from vocab_study.tokenizers.split_patterns import PATTERNS, byte_level_splitter
from vocab_study.tokenizers.tokenizer import build_tokenizer, train_tokenizer

TEXTS = st.lists(
    st.one_of(st.text(st.characters(codec="utf-8"), max_size=80), st.text("ab \n", max_size=200)), max_size=8
)


def pretokens_of(texts: list[str]) -> Counter[bytes]:
    byte_of = {character: byte for byte, character in enumerate(byte_characters())}
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = (word for text in texts for word, _ in split.pre_tokenize_str(text))
    return Counter(bytes(byte_of[character] for character in word) for word in words)


def check(texts: list[str], held_out: list[str], size: int) -> None:
    """The tokenizer and the counts of both texts, against Hugging Face tokenizers."""
    train, other = pretokens_of(texts), pretokens_of(held_out)
    words = list(train | other)
    merged = learn_merges(words, np.array([train[word] for word in words]), size)
    reference = train_tokenizer(texts, size)
    assert json.loads(build_tokenizer(merged.left, merged.right).to_str()) == json.loads(reference.to_str())
    for counter, some in ((train, texts), (other, held_out)):
        expected = count_tokens(reference, (("group", text) for text in [*some, ""]))["group"]
        assert (merged.histogram(np.array([counter[word] for word in words])) == expected).all()


@settings(deadline=None, max_examples=60)
@given(texts=TEXTS, held_out=TEXTS, size=st.integers(257, 500))
def test_merges_and_counts_of_any_text(texts, held_out, size):
    check([*texts, "x"], held_out, size)


@settings(deadline=None, max_examples=40)
@given(texts=TEXTS, held_out=TEXTS, data=st.data())
def test_the_thresholds_change_nothing(texts, held_out, data):
    with pytest.MonkeyPatch.context() as patch:
        for name, values in (
            ("ONE_BY_ONE", (0, 2)),
            ("LONG", (0, 3)),
            ("FIRST_FLOOR", (1, 5, 30)),
            ("HASH_BITS", (1, 8)),
        ):
            patch.setattr(merging, name, data.draw(st.sampled_from(values)))
        check([*texts, "x"], held_out, 400)


def test_merges_and_counts_of_code_and_english(small_corpus):
    train, held_out = ([d.text for d in read_documents(small_corpus, split)] for split in ("train", "validation"))
    check(train, held_out, 4000)


@pytest.mark.slow
def test_merges_and_counts_of_the_standard_library(stdlib_corpus):
    train, held_out = ([d.text for d in read_documents(stdlib_corpus, split)] for split in ("train", "validation"))
    check(train[::3], held_out, 32_768)


def by_the_reference(corpus, out, monkeypatch, **options):
    """A study whose fast road is closed."""
    with monkeypatch.context() as patched:
        patched.setattr(training, "count_pretokens", lambda texts, pretokenizer: None)
        return study_vocabulary(corpus, out, **options)


@pytest.mark.parametrize("pretokenizer", list(PATTERNS))
def test_both_roads_give_the_same_study(small_corpus, tmp_path, monkeypatch, pretokenizer):
    options = {"max_size": 1500, "pretokenizer": pretokenizer}
    fast = study_vocabulary(small_corpus, tmp_path / "fast", **options)
    reference = by_the_reference(small_corpus, tmp_path / "reference", monkeypatch, **options)
    assert fast.summary.trainer.startswith(("gigatoken", "regex")) and reference.summary.trainer.startswith(
        "tokenizers"
    )
    assert fast.tokenizer_file(1500).read_bytes() == reference.tokenizer_file(1500).read_bytes()
    assert (fast.directory / "compression.csv").read_bytes() == (reference.directory / "compression.csv").read_bytes()


@pytest.mark.parametrize("pretokenizer", list(PATTERNS))
@given(
    texts=st.lists(
        st.text(alphabet="aAbéÉß\u017f'\u2019sTll12\u0663 \n\r\t\u3000.-/!가나日本😀\u0301", max_size=30),
        min_size=1,
        max_size=5,
    )
)
@settings(max_examples=60, deadline=None)
def test_pretokens_are_those_of_the_reference(pretokenizer, texts):
    found = pretokens.count_pretokens(((("train", "all"), text) for text in texts), pretokenizer)
    assert found is not None
    splitter, shown = byte_level_splitter(pretokenizer), byte_characters()
    expected = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(text))
    counts = found.counts.get(("train", "all"), [])
    words = ("".join(shown[byte] for byte in word) for word in found.pretokens)
    assert dict(zip(words, counts, strict=True)) == expected


def test_a_counter_that_disagrees_is_not_trusted(small_corpus, tmp_path, monkeypatch):
    """One that splits at spaces only, as if it knew another Unicode."""

    def count_words(texts: list[str]) -> list[tuple[bytes, int]]:
        return list(Counter(word for text in texts for word in text.encode().split(b" ")).items())

    monkeypatch.setattr(pretokens, "fastest_counter", lambda pretokenizer: ("regex", count_words))
    study = study_vocabulary(small_corpus, tmp_path / "study", max_size=600)
    assert study.summary.trainer.startswith("tokenizers ")


def test_batches_change_nothing(small_corpus, tmp_path, monkeypatch):
    whole = study_vocabulary(small_corpus, tmp_path / "whole", max_size=900)
    monkeypatch.setattr(pretokens, "BATCH_CHARACTERS", 5000)
    parts = study_vocabulary(small_corpus, tmp_path / "parts", max_size=900)
    assert (whole.directory / "compression.csv").read_bytes() == (parts.directory / "compression.csv").read_bytes()
