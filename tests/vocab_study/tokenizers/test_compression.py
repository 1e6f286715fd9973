import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from trainer_small.data.documents import read_documents
from vocab_study.tokenizers.compression import RARE_BELOW, count_tokens, curve, unmerge
from vocab_study.tokenizers.merge_tree import cut, take_apart
from vocab_study.tokenizers.tokenizer import train_tokenizer

UNICODE_TEXTS = st.lists(st.text(st.characters(codec="utf-8"), max_size=80), min_size=1, max_size=8)
REPETITIVE_TEXTS = st.lists(st.text("aab \n", max_size=80), min_size=1, max_size=8)


def histogram(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    """The counts by the plainest road: one text after the other, one id after the other."""
    counts = np.zeros(tokenizer.get_vocab_size(), dtype=np.int64)
    for text in texts:
        for id in tokenizer.encode(text).ids:
            counts[id] += 1
    return counts


def check_every_size(texts: list[str], held_out: list[str], largest: int, sizes) -> None:
    held_out = [*held_out, "x"]  # a study has some text
    tokenizer = train_tokenizer(texts, largest)
    counts = count_tokens(tokenizer, (("group", text) for text in held_out))["group"]
    drawn = curve(counts, take_apart(tokenizer))
    for size in sizes:
        if size > tokenizer.get_vocab_size():
            break
        expected = histogram(train_tokenizer(texts, size), held_out)
        total, index = expected.sum(), size - 257
        assert drawn.tokens[index] == total
        assert drawn.rare_tokens[index] == (expected < RARE_BELOW).sum()
        share = expected[expected > 0] / total
        assert drawn.entropy[index] == pytest.approx(-(share * np.log(share)).sum(), abs=1e-9)
        renyi = np.log((share**2.5).sum()) / -1.5 / np.log(size)
        assert drawn.renyi_efficiency[index] == pytest.approx(renyi, abs=1e-9)


def test_unmerging_equals_tokenizers_trained_and_encoded_separately(small_corpus):
    train, held_out = ([d.text for d in read_documents(small_corpus, split)] for split in ("train", "validation"))
    check_every_size(train, held_out, 3000, [257, 258, 300, 512, 777, 1024, 1500, 2000, 2999, 3000])


@settings(deadline=None, max_examples=30)
@given(texts=UNICODE_TEXTS, held_out=UNICODE_TEXTS)
def test_unmerging_any_text(texts, held_out):
    check_every_size(texts, held_out, 330, range(257, 331, 5))


@settings(deadline=None, max_examples=30)
@given(texts=REPETITIVE_TEXTS, held_out=REPETITIVE_TEXTS)
def test_unmerging_runs_of_one_letter(texts, held_out):
    """Where the two parts of a token are one token, and pairs overlap."""
    check_every_size(texts, held_out, 280, range(257, 281))


def test_the_whole_histogram_is_exact(small_corpus):
    texts = [document.text for document in read_documents(small_corpus, "validation")]
    tokenizer = train_tokenizer(texts, 1200)
    counts = count_tokens(tokenizer, (("group", text) for text in texts))["group"]
    tree = take_apart(tokenizer)
    undoing = unmerge(counts, tree.left, tree.right)
    for size in (300, 700, 1199):
        direct = histogram(cut(tokenizer, size), texts)
        for order in (1, 2, 3):  # three moments of all counts, in whole numbers
            assert undoing.sum_over_vocabulary(lambda n, order=order: n**order)[size - 257] == (direct**order).sum()


def test_groups_are_counted_apart(small_corpus):
    documents = list(read_documents(small_corpus, "validation"))
    tokenizer = train_tokenizer([document.text for document in documents], 600)
    counts = count_tokens(tokenizer, ((document.source, document.text) for document in documents))
    assert set(counts) == {"code", "english"}
    for group, found in counts.items():
        assert (found == histogram(tokenizer, [d.text for d in documents if d.source == group])).all()


def test_a_special_token_spelt_out_is_text():
    text = "before <|endoftext|> after"
    tokenizer = train_tokenizer([text], 257)
    counts = count_tokens(tokenizer, [("group", text)])["group"]
    assert counts[0] == 0 and counts.sum() == len(text)
