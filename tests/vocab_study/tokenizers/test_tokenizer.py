import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from fits.errors import UserError
from trainer_small.data.documents import read_documents
from vocab_study.tokenizers.merge_tree import cut
from vocab_study.tokenizers.tokenizer import END_OF_TEXT, load, save, train_tokenizer

UNICODE_TEXTS = st.lists(st.text(st.characters(codec="utf-8"), max_size=60), max_size=8)


@pytest.fixture(scope="module")
def texts(small_corpus) -> list[str]:
    return [document.text for document in read_documents(small_corpus, "train")]


def test_the_layout_of_ids(texts):
    tokenizer = train_tokenizer(texts, 600)
    by_id = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    assert [id for _, id in by_id] == list(range(600))
    assert by_id[0][0] == END_OF_TEXT
    assert all(len(token) == 1 for token, _ in by_id[1:257])
    assert [token for token, _ in by_id[257:]] == [
        left + right for left, right in json.loads(tokenizer.to_str())["model"]["merges"]
    ]


def test_training_is_deterministic(texts):
    assert train_tokenizer(texts, 1000).to_str() == train_tokenizer(texts, 1000).to_str()


@pytest.mark.parametrize("size", [257, 258, 300, 777, 1500])
def test_a_prefix_equals_a_tokenizer_trained_at_that_size(texts, size):
    smaller, trained = cut(train_tokenizer(texts, 1500), size), train_tokenizer(texts, size)
    assert json.loads(smaller.to_str()) == json.loads(trained.to_str())
    assert [smaller.encode(text).ids for text in texts] == [trained.encode(text).ids for text in texts]


@settings(deadline=None, max_examples=40)
@given(texts=UNICODE_TEXTS, size=st.integers(257, 400))
def test_prefixes_of_any_text(texts, size):
    largest = train_tokenizer(texts, 400)
    size = min(size, largest.get_vocab_size())
    smaller, trained = cut(largest, size), train_tokenizer(texts, size)
    assert json.loads(smaller.to_str()) == json.loads(trained.to_str())
    for text in texts:
        assert smaller.decode(smaller.encode(text).ids) == text


def test_a_small_text_gives_what_it_can_fill():
    assert train_tokenizer(["abab"], 10_000).get_vocab_size() == 257 + 2  # ab, abab


def test_saved_and_read_back(texts, tmp_path):
    tokenizer = train_tokenizer(texts, 500)
    save(tokenizer, tmp_path / "deep" / "tokenizer.json")
    assert Tokenizer.from_file(str(tmp_path / "deep" / "tokenizer.json")).to_str() == tokenizer.to_str()
    assert load(tmp_path / "deep" / "tokenizer.json").to_str() == tokenizer.to_str()


def test_faults_are_named(texts, tmp_path):
    with pytest.raises(UserError, match="vocabulary size 256 is below 257"):
        train_tokenizer(texts, 256)
    with pytest.raises(UserError, match="size 401 is not between 257 and 400"):
        cut(train_tokenizer(texts, 400), 401)
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"no Hugging Face tokenizer\.json"):
        load(tmp_path / "tokenizer.json")
