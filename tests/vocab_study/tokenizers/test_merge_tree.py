"""Tokenizers made elsewhere: Hugging Face files of every habit, and tiktoken's."""

import base64
import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from fits.errors import UserError
from trainer_small.data.documents import read_documents
from vocab_study.study.make_study import study_vocabulary
from vocab_study.tokenizers.byte_characters import byte_of
from vocab_study.tokenizers.compression import count_tokens, curve
from vocab_study.tokenizers.merge_tree import cut, take_apart
from vocab_study.tokenizers.tokenizer import build_tokenizer, train_tokenizer, tree_of_bytes
from vocab_study.tokenizers.tokenizer_files import read_tokenizer


@pytest.fixture(scope="module")
def texts(small_corpus) -> list[str]:
    return [document.text for document in read_documents(small_corpus, "train")]


def tokens_at_every_size(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    tree = take_apart(tokenizer)
    return curve(count_tokens(tokenizer, [("all", text) for text in texts])["all"][tree.ids], tree).tokens


def check(tokenizer: Tokenizer, texts: list[str]) -> None:
    """Undone merges against the tokenizer cut and used, at ten sizes."""
    tree, tokens = take_apart(tokenizer), tokens_at_every_size(tokenizer, texts)
    for size in np.linspace(tree.smallest_size, len(tree.ids), 10).astype(int).tolist():
        smaller = cut(tokenizer, size)
        assert smaller.get_vocab_size() == size
        assert sorted(smaller.get_vocab().values()) == list(range(size))
        alone = count_tokens(smaller, [("all", text) for text in texts])["all"].sum()
        assert tokens[size - tree.smallest_size] == alone


def test_special_and_added_tokens_stay_at_every_size(texts):
    """As in GPT-2 and Llama 3: special tokens after the merges, a word added by hand, ids far apart."""
    tokenizer = train_tokenizer(texts, 900)
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] += [
        {"id": 5000 + number, "content": name, "special": special, "single_word": False, "lstrip": False}
        | {"rstrip": False, "normalized": not special}
        for number, (name, special) in enumerate([("<|im_start|>", True), ("<|im_end|>", True), ("return None", False)])
    ]
    given = Tokenizer.from_str(json.dumps(content))
    tree = take_apart(given)
    assert tree.smallest_size == 257 + 3 and len(tree.ids) == 903
    check(given, [*texts, "return None", "a <|im_start|> b"])
    smaller = cut(given, 400)
    assert (
        smaller.token_to_id("<|im_end|>") == 398 and smaller.decode(smaller.encode("return None").ids) == "return None"
    )


def test_every_way_to_merge_and_whole_words_first(texts):
    """As converters write them: each token with all its splits, and ignore_merges."""
    content = json.loads(train_tokenizer(texts, 900).to_str())
    vocabulary = content["model"]["vocab"]
    merges = []
    for token in sorted(vocabulary, key=vocabulary.__getitem__)[257:]:
        merges += [
            [token[:at], token[at:]] for at in range(1, len(token)) if {token[:at], token[at:]} <= vocabulary.keys()
        ]
    content["model"] |= {"merges": merges, "ignore_merges": True}
    check(Tokenizer.from_str(json.dumps(content)), texts)


def test_a_sentencepiece_like_tokenizer_with_byte_fallback(texts):
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=["<unk>", *names], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = content["added_tokens"][:1]  # the bytes are tokens, not text to be matched
    given = Tokenizer.from_str(json.dumps(content))
    check(given, [*texts, "안녕 日本"])
    tree = take_apart(given)
    partial = curve(count_tokens(given, [("all", "안녕")])["all"][tree.ids], tree).partial_tokens
    assert (partial == 6).all()  # two characters of three bytes each, at every size


def test_pieces_of_characters_are_counted(small_corpus):
    tokenizer = train_tokenizer(["안녕하세요 " * 50, "plain text"], 300)
    tree = take_apart(tokenizer)
    text = "안녕 x"
    drawn = curve(count_tokens(tokenizer, [("all", text)])["all"][tree.ids], tree)
    for size in range(tree.smallest_size, len(tree.ids) + 1):
        tokens = cut(tokenizer, size).encode(text).tokens
        whole = 0
        for token in tokens:
            try:
                bytes(map(byte_of, token)).decode()
                whole += 1
            except UnicodeDecodeError:
                pass
        assert drawn.partial_tokens[size - tree.smallest_size] == len(tokens) - whole


@given(seed=st.integers(0, 10**6), size=st.integers(258, 330))
@settings(max_examples=30, deadline=None)
def test_any_text_with_every_way_to_merge(seed, size):
    """Repeated letters are where different ways to make one token could matter."""
    generator = random.Random(seed)
    words = ["".join(generator.choices("aab", k=generator.randint(1, 9))) for _ in range(60)]
    text = " ".join(words)
    check(train_tokenizer([text], size), [text, " ".join(words[::2])])


def tiktoken_file(tokenizer: Tokenizer, path) -> None:
    vocabulary = [token for token, id in sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1]) if id > 0]
    lines = [
        base64.b64encode(bytes(map(byte_of, token))) + f" {rank}".encode() for rank, token in enumerate(vocabulary)
    ]
    path.write_bytes(b"\n".join(lines))


def test_tiktoken_files(texts, small_corpus, tmp_path):
    trained = train_tokenizer(texts, 800, pretokenizer="cl100k")
    tiktoken_file(trained, tmp_path / "cl100k_small.tiktoken")
    read = read_tokenizer(tmp_path / "cl100k_small.tiktoken")
    assert read.get_vocab_size() == 800
    check(read, texts)
    study = study_vocabulary(
        small_corpus, tmp_path / "study", tokenizer=tmp_path / "cl100k_small.tiktoken", sizes=[500]
    )
    assert (study.summary.smallest_size, study.summary.largest_size) == (257, 800)
    tiktoken_file(trained, tmp_path / "mine.tiktoken")
    with pytest.raises(UserError, match="does not say how it splits text"):
        read_tokenizer(tmp_path / "mine.tiktoken")
    (tmp_path / "cl100k_bad.tiktoken").write_text("IQ== 0\n!! x\n")
    with pytest.raises(UserError, match="line 2 is no token in base64"):
        read_tokenizer(tmp_path / "cl100k_bad.tiktoken")


def test_a_given_tokenizer_is_studied_as_it_is(texts, small_corpus, tmp_path):
    (tmp_path / "tokenizer.json").write_text(train_tokenizer(texts, 700).to_str())
    given = study_vocabulary(small_corpus, tmp_path / "given", tokenizer=tmp_path)
    trained = study_vocabulary(small_corpus, tmp_path / "trained", max_size=700)
    assert (given.directory / "compression.csv").read_bytes() == (trained.directory / "compression.csv").read_bytes()
    assert given.summary.tokenizer and given.summary.pretokenizer is None
    with pytest.raises(UserError, match="leave --max-size out"):
        study_vocabulary(small_corpus, tmp_path / "given", tokenizer=tmp_path, max_size=600)
    with pytest.raises(UserError, match="no such file"):
        study_vocabulary(small_corpus, tmp_path / "other", tokenizer=tmp_path / "gone.json")


def test_other_models_are_refused(texts, small_corpus, tmp_path):
    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.decoder = decoders.Metaspace()
    unigram.train_from_iterator(texts, trainers.UnigramTrainer(vocab_size=300, show_progress=False))
    (tmp_path / "tokenizer.json").write_text(unigram.to_str())
    with pytest.raises(UserError, match=r"is a Unigram model; only in byte-pair encoding"):
        study_vocabulary(small_corpus, tmp_path / "study", tokenizer=tmp_path)
    assert not (tmp_path / "study").exists()


def test_a_tokenizer_whose_cuts_do_not_follow_is_refused(texts, small_corpus, tmp_path):
    """Merges out of the order they were learnt in: undoing them is no longer what a cut one does."""
    content = json.loads(train_tokenizer(texts, 900).to_str())
    vocabulary, merges = content["model"]["vocab"], content["model"]["merges"]
    made = {token for token, _ in sorted(vocabulary.items(), key=lambda pair: pair[1])[:257]}
    late = [pair for pair in merges if set(pair) <= made]
    content["model"]["merges"] = [pair for pair in merges if pair not in late[:40]] + late[:40]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="uses a token that is made later"):
        study_vocabulary(small_corpus, tmp_path / "study", tokenizer=tmp_path)


def test_the_tree_that_training_knows_is_the_one_that_is_read(small_corpus, texts):
    tokenizer = train_tokenizer([*texts, "안녕하세요 안녕 日本語 日本 " * 200], 1200)
    read = take_apart(tokenizer)
    known = tree_of_bytes(read.left, read.right)
    assert (known.ids == read.ids).all() and (known.partial == read.partial).all() and read.partial[257:].any()
    assert build_tokenizer(read.left, read.right).to_str() == tokenizer.to_str()
