"""Token shards: exact counts, whole or not at all, and an order that only seed and position decide."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from fits.errors import UserError
from trainer_small.token_reader import TokenReader, ValidationTokens
from trainer_small.tokens import prepare_tokens, read_manifest


def _texts(corpus: Path, split: str) -> list[str]:
    return [json.loads(line)["text"] for line in (corpus / f"{split}.jsonl").open(encoding="utf-8")]


def test_counts_are_those_of_the_text(corpus: Path, tokens: Path) -> None:
    manifest = read_manifest(tokens)
    texts = _texts(corpus, "train")
    assert manifest.train.documents == len(texts)
    assert manifest.train.bytes == sum(len(text.encode()) for text in texts)
    stored = np.fromfile(tokens / "train.tokens", dtype=manifest.dtype)
    assert len(stored) == manifest.train.tokens
    assert (stored == manifest.end_of_text).sum() == len(texts)
    decoded = Tokenizer.from_file(str(corpus / "tokenizer.json")).decode(stored.tolist(), skip_special_tokens=False)
    assert decoded == "".join(text + "<|endoftext|>" for text in texts)


def test_preparing_again_does_nothing_and_other_text_is_refused(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokens"
    first = prepare_tokens(corpus, corpus / "tokenizer.json", out)
    written = (out / "train.tokens").stat().st_mtime_ns
    assert prepare_tokens(corpus, corpus / "tokenizer.json", out) == first
    assert (out / "train.tokens").stat().st_mtime_ns == written
    other = tmp_path / "other"
    shutil.copytree(corpus, other)
    with (other / "train.jsonl").open("a") as handle:
        handle.write(json.dumps({"id": "x", "source": "x", "text": "more"}) + "\n")
    with pytest.raises(UserError, match="another corpus"):
        prepare_tokens(other, other / "tokenizer.json", out)


def test_a_text_that_spells_the_special_token_stays_text(corpus: Path, tmp_path: Path) -> None:
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"id": "a", "source": "a", "text": "a<|endoftext|>b"}))
    prepare_tokens(tmp_path, corpus / "tokenizer.json", tmp_path / "tokens")
    stored = np.fromfile(tmp_path / "tokens" / "train.tokens", dtype=np.uint16)
    assert (stored == 0).sum() == 1 and stored[-1] == 0


@pytest.mark.parametrize("fault", ["no tokenizer", "not a tokenizer", "no end of text", "empty split", "bad line"])
def test_faults_leave_nothing_behind(corpus: Path, tmp_path: Path, fault: str) -> None:
    source = tmp_path / "corpus"
    shutil.copytree(corpus, source)
    tokenizer = source / "tokenizer.json"
    if fault == "no tokenizer":
        tokenizer.unlink()
    elif fault == "not a tokenizer":
        tokenizer.write_text("{}")
    elif fault == "no end of text":
        tokenizer.write_text(tokenizer.read_text().replace("<|endoftext|>", "<|other|>"))
    elif fault == "empty split":
        (source / "validation.jsonl").write_text("")
    else:
        with (source / "validation.jsonl").open("a") as handle:
            handle.write("{}\n")
    with pytest.raises(UserError):
        prepare_tokens(source, tokenizer, tmp_path / "out" / "tokens")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_window_depends_on_seed_and_position_alone(tokens: Path) -> None:
    reader = TokenReader(tokens, 16, seed=3)
    together = reader.batch(5, 6)
    again = TokenReader(tokens, 16, seed=3)
    apart = np.concatenate([again.batch(position, 1) for position in range(10, 4, -1)])[::-1]
    assert (together == apart).all()
    assert not (together == TokenReader(tokens, 16, seed=4).batch(5, 6)).all()


def test_an_epoch_shows_every_token_once_in_another_order_each_time(tokens: Path) -> None:
    reader = TokenReader(tokens, 16, seed=0)
    size = reader.windows
    first, second = reader.batch(0, size), reader.batch(size, size)
    stored = np.fromfile(tokens / "train.tokens", dtype=np.uint16)
    for epoch in (first, second):
        seen = np.bincount(epoch[:, 1:].ravel(), minlength=512)
        missing = np.bincount(stored, minlength=512) - seen
        assert missing.sum() == len(stored) - size * 16 < 17  # the first token, and the rest below a window
        assert (missing >= 0).all()
    assert not (first == second).all()
    assert reader.epochs(size * 16) == 1.0
    assert reader.text_bytes(len(stored)) == read_manifest(tokens).train.bytes


def test_windows_are_pieces_of_the_joined_documents(corpus: Path, tokens: Path) -> None:
    manifest = read_manifest(tokens)
    stored = np.fromfile(tokens / "train.tokens", dtype=manifest.dtype)
    pieces = {
        tuple(document.tolist())
        for document in np.split(stored, np.flatnonzero(stored == manifest.end_of_text) + 1)
        if len(document)
    }
    for window in TokenReader(tokens, 64, seed=1).batch(0, 20):
        inner = np.split(window, np.flatnonzero(window == manifest.end_of_text) + 1)[1:-1]
        assert all(tuple(document.tolist()) in pieces for document in inner)


def test_too_little_text_and_a_damaged_shard_are_named(tokens: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fewer than sequence_length"):
        TokenReader(tokens, 10**6, seed=0)
    copy = tmp_path / "copy"
    shutil.copytree(tokens, copy)
    (copy / "train.tokens").write_bytes(b"short")
    with pytest.raises(UserError, match=r"train\.tokens"):
        TokenReader(copy, 16, seed=0)
    with pytest.raises(UserError, match="holds no tokens"):
        TokenReader(tmp_path, 16, seed=0)


def test_validation_is_the_same_text_up_to_a_budget(corpus: Path, tokens: Path) -> None:
    whole, part = ValidationTokens(tokens, None), ValidationTokens(tokens, 5000)
    sizes = [len(text.encode()) for text in _texts(corpus, "validation")]
    assert whole.bytes.sum() == sum(sizes)
    assert part.bytes.sum() >= 5000 > part.bytes[:-1].sum()
    assert set(part.bytes.tolist()) <= set(sizes)
    assert set(part.bytes.tolist()) >= {size for size in sizes if size <= 5000 // 16}
    assert part.bytes.max() < max(sizes)  # no long document decides the loss
    assert (whole.inputs[1:] == whole.targets[:-1]).all() and whole.inputs[0] == 0
    assert (np.bincount(whole.document) > 1).all()


def test_groups_and_unigrams_of_the_validation_text(corpus: Path, tokens: Path) -> None:
    text, manifest = ValidationTokens(tokens, None), read_manifest(tokens)
    sources = [json.loads(line)["source"] for line in (corpus / "validation.jsonl").read_text().splitlines()]
    assert sorted(text.groups[index] for index in text.group) == sorted(sources)
    trained = np.fromfile(tokens / "train.tokens", dtype=manifest.dtype)
    counts = np.maximum(np.bincount(trained, minlength=manifest.vocab_size), 1)
    assert np.allclose(text.unigram_losses, -np.log(counts / counts.sum())[text.targets])
