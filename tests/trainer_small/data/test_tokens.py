"""Token folders: exact counts, whole or not at all, and an order that only seed and position decide."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from fits.errors import UserError
from fits.laws.coefficients import published
from trainer_small.config import DataConfig, RunConfig, TokenSource
from trainer_small.data import token_shards
from trainer_small.data.mixture import Interleaving
from trainer_small.data.token_reader import TokenReader
from trainer_small.data.tokens import prepare_tokens, read_manifest
from trainer_small.data.validation_tokens import ValidationTokens
from trainer_small.runs.run import run_one
from trainer_small.runs.run_warnings import fresh_tokens


def _texts(corpus: Path, split: str) -> list[str]:
    return [json.loads(line)["text"] for line in (corpus / f"{split}.jsonl").open(encoding="utf-8")]


def _stored(folder: Path, split: str = "train") -> np.ndarray:
    manifest = read_manifest(folder)
    shards = getattr(manifest, split).shards
    return np.concatenate([np.fromfile(folder / f"{shard.name}.tokens", dtype=manifest.dtype) for shard in shards])


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer_small.data.tokens._SHARD_BYTES", 20_000)


def test_counts_are_those_of_the_text(corpus: Path, tokens: Path) -> None:
    manifest = read_manifest(tokens)
    texts = _texts(corpus, "train")
    assert manifest.train.documents == len(texts)
    assert manifest.train.bytes == sum(len(text.encode()) for text in texts)
    stored = _stored(tokens)
    assert len(stored) == manifest.train.tokens
    assert (stored == manifest.end_of_text).sum() == len(texts)
    decoded = Tokenizer.from_file(str(corpus / "tokenizer.json")).decode(stored.tolist(), skip_special_tokens=False)
    assert decoded == "".join(text + "<|endoftext|>" for text in texts)


def test_preparing_again_does_nothing_and_other_text_is_refused(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokens"
    first = prepare_tokens(corpus, corpus / "tokenizer.json", out)
    written = (out / "train-00000.tokens").stat().st_mtime_ns
    assert prepare_tokens(corpus, corpus / "tokenizer.json", out) == first
    assert (out / "train-00000.tokens").stat().st_mtime_ns == written
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
    stored = _stored(tmp_path / "tokens")
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


def test_a_bad_line_is_named_by_its_number(corpus: Path, tmp_path: Path, small_shards: None) -> None:
    shutil.copytree(corpus, tmp_path / "corpus")
    lines = (corpus / "train.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "corpus" / "train.jsonl").write_text("".join([*lines[:250], '{"id": 1}\n', *lines[250:]]))
    with pytest.raises(UserError, match=r"train\.jsonl line 251:"):
        prepare_tokens(tmp_path / "corpus", corpus / "tokenizer.json", tmp_path / "tokens")


def test_many_shards_hold_what_one_holds(corpus: Path, tokens: Path, tmp_path: Path, small_shards: None) -> None:
    manifest = prepare_tokens(corpus, corpus / "tokenizer.json", tmp_path / "tokens")
    assert len(manifest.train.shards) > 5
    assert (_stored(tmp_path / "tokens") == _stored(tokens)).all()
    assert (_stored(tmp_path / "tokens", "validation") == _stored(tokens, "validation")).all()
    assert manifest.train.tokens == read_manifest(tokens).train.tokens
    one, many = (TokenReader(folder, 16, seed=3).batch(0, 50) for folder in (tokens, tmp_path / "tokens"))
    assert (one == many).all()
    whole, parts = (ValidationTokens(folder, 5000) for folder in (tokens, tmp_path / "tokens"))
    for key in ("inputs", "targets", "document", "bytes", "group", "unigram_losses"):
        assert (getattr(whole, key) == getattr(parts, key)).all()
    assert sorted(path.name for path in (tmp_path / "tokens").iterdir()) == sorted(
        ["manifest.json", "unigram.npy"]
        + [
            f"{shard.name}.{kind}"
            for split in (manifest.train, manifest.validation)
            for shard in split.shards
            for kind in ("tokens", "documents.npy")
        ]
    )


def test_tokenizing_carries_on_where_it_was_stopped(
    corpus: Path, tokens: Path, tmp_path: Path, small_shards: None
) -> None:
    out = tmp_path / "tokens"

    def stop(done: int) -> None:
        if done > 50_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_tokens(corpus, corpus / "tokenizer.json", out, on_progress=stop)
    assert not out.exists()
    (kept,) = tmp_path.iterdir()
    done = {path.name: path.stat().st_mtime_ns for path in kept.glob("train-*.json")}
    assert len(done) >= 2
    (kept / "train-00009.tokens").write_bytes(b"half")  # no record vouches for it
    prepare_tokens(corpus, corpus / "tokenizer.json", out)
    assert list(tmp_path.iterdir()) == [out]
    assert (_stored(out) == _stored(tokens)).all()


def test_two_processes_at_once_make_one_folder(corpus: Path, tokens: Path, tmp_path: Path, small_shards: None) -> None:
    out = tmp_path / "tokens"

    def other_first(done: int) -> None:
        if done > 50_000 and not out.exists():
            prepare_tokens(corpus, corpus / "tokenizer.json", out)

    manifest = prepare_tokens(corpus, corpus / "tokenizer.json", out, on_progress=other_first)
    assert manifest == read_manifest(out)
    assert list(tmp_path.iterdir()) == [out]
    assert (_stored(out) == _stored(tokens)).all()


def test_what_another_tokenizer_left_half_made_is_not_used(
    corpus: Path, tokens: Path, tmp_path: Path, small_shards: None
) -> None:
    other = tmp_path / "other.json"
    other.write_text((corpus / "tokenizer.json").read_text() + "\n")  # another hash is another tokenizer

    def stop(done: int) -> None:
        if done > 50_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_tokens(corpus, other, tmp_path / "tokens", on_progress=stop)
    (kept,) = tmp_path.glob(".*")
    (shard,) = kept.glob("train-00000.tokens")
    shard.write_bytes(b"\0" * shard.stat().st_size)
    prepare_tokens(corpus, corpus / "tokenizer.json", tmp_path / "tokens")
    assert (_stored(tmp_path / "tokens") == _stored(tokens)).all()


def test_a_full_disk_is_told_and_what_is_done_is_kept(
    corpus: Path, tokens: Path, tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = token_shards.save_array, iter(range(100))

    def full(*arguments) -> None:
        if next(calls) == 6:
            raise OSError(28, "No space left on device")
        real(*arguments)

    monkeypatch.setattr(token_shards, "save_array", full)
    with pytest.raises(UserError, match="No space left on device; mend it and run the same command again"):
        prepare_tokens(corpus, corpus / "tokenizer.json", tmp_path / "tokens")
    assert len(list(tmp_path.glob(".tokens.partial/train-*.json"))) == 3
    prepare_tokens(corpus, corpus / "tokenizer.json", tmp_path / "tokens")
    assert (_stored(tmp_path / "tokens") == _stored(tokens)).all()


def test_a_window_depends_on_seed_and_position_alone(tokens: Path) -> None:
    reader = TokenReader(tokens, 16, seed=3)
    together = reader.batch(5, 6)
    again = TokenReader(tokens, 16, seed=3)
    apart = np.concatenate([again.batch(position, 1) for position in range(10, 4, -1)])[::-1]
    assert (together == apart).all()
    assert not (together == TokenReader(tokens, 16, seed=4).batch(5, 6)).all()


def test_an_epoch_shows_every_token_once_in_another_order_each_time(tokens: Path) -> None:
    reader = TokenReader(tokens, 16, seed=0)
    size = reader.sources[0].windows
    first, second = reader.batch(0, size), reader.batch(size, size)
    stored = _stored(tokens)
    for epoch in (first, second):
        seen = np.bincount(epoch[:, 1:].ravel(), minlength=512)
        missing = np.bincount(stored, minlength=512) - seen
        assert missing.sum() == len(stored) - size * 16 < 17  # the first token, and the rest below a window
        assert (missing >= 0).all()
    assert not (first == second).all()
    assert (reader.batch(size - 3, 6) == np.concatenate((first[-3:], second[:3]))).all()
    assert reader.epochs(size * 16) == 1.0
    assert reader.text_bytes(size * 16) == round(read_manifest(tokens).train.bytes * size * 16 / len(stored))


def test_windows_are_pieces_of_the_joined_documents(corpus: Path, tokens: Path) -> None:
    manifest = read_manifest(tokens)
    stored = _stored(tokens)
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
    (copy / "train-00000.tokens").write_bytes(b"short")
    with pytest.raises(UserError, match=r"train-00000\.tokens"):
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
    trained = _stored(tokens)
    counts = np.maximum(np.bincount(trained, minlength=manifest.vocab_size), 1)
    assert np.allclose(text.unigram_losses, -np.log(counts / counts.sum())[text.targets])


def _mixture(*weights: float, tokens: Path) -> list[TokenSource]:
    return [TokenSource(tokens=str(tokens), weight=weight) for weight in weights]


def test_a_mixture_has_its_shares_and_each_source_its_own_order(tokens: Path) -> None:
    reader = TokenReader(_mixture(3, 1, tokens=tokens), 16, seed=0)
    use = reader.use(16 * 40)
    assert [source.tokens for source in use] == [16 * 30, 16 * 10]
    assert use[0].epochs == 30 / reader.sources[0].windows
    one = TokenReader(tokens, 16, seed=0).batch(0, 30)
    mixed = reader.batch(0, 40)
    from_first = [row for row in mixed.tolist() if row in one.tolist()]
    assert from_first == one.tolist()  # in order; the other ten come from the second source's own order
    assert (np.concatenate([reader.batch(position, 1) for position in range(40)]) == mixed).all()


def test_sources_of_different_tokenizers_are_refused(corpus: Path, tokens: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text((corpus / "tokenizer.json").read_text() + "\n")
    prepare_tokens(corpus, other, tmp_path / "tokens")
    with pytest.raises(UserError, match="different tokenizers"):
        TokenReader([TokenSource(tokens=str(tokens)), TokenSource(tokens=str(tmp_path / "tokens"))], 16, seed=0)


def test_validation_of_a_mixture_is_shared_by_weight(tokens: Path) -> None:
    alone = ValidationTokens(tokens, 3000)
    mixed = ValidationTokens(_mixture(1, 1, tokens=tokens), 6000)
    assert (mixed.targets == np.tile(alone.targets, 2)).all()
    assert mixed.document.max() == 2 * alone.document.max() + 1
    assert np.allclose(mixed.unigram_losses, np.tile(alone.unigram_losses, 2))


def test_epochs_of_each_source_reach_the_result(run_folder: Callable[..., Path], tokens: Path) -> None:
    folder = run_folder()
    config = RunConfig.load(folder / "config.yaml")
    sources = tuple(_mixture(1, 2, tokens=tokens))
    config.model_copy(update={"data": DataConfig(mixture=sources)}).save(folder / "config.yaml")
    result = run_one(folder)
    assert result.counts is not None
    assert [use.tokens for use in result.data] == [1280, 2560]
    assert result.counts.epochs == max(use.epochs for use in result.data)


def test_repeated_tokens_are_worth_what_the_published_law_says() -> None:
    law = published("muennighoff")
    coefficients, few = law.record.coefficients, 1e6
    for tokens in (2 * few, 5 * few, 40 * few):
        # The published law gives the same loss for them as for that many new ones.
        repeated = law.evaluate(N=1e5, D=tokens, U=few).value
        worth = fresh_tokens(tokens, few)
        assert repeated - law.evaluate(N=1e5, D=few, U=few).value == pytest.approx(
            coefficients["B"] * (worth ** -coefficients["beta"] - few ** -coefficients["beta"]), rel=1e-6
        )
    assert fresh_tokens(7, 9) == 7


def test_sequences_longer_than_any_document_are_refused_where_documents_stand_apart(
    run_folder: Callable[..., Path],
) -> None:
    training = {"sequence_length": 1024, "batch_tokens": 1024, "tokens": 2048}
    assert run_one(run_folder("together", training=training)).status == "done"
    with pytest.raises(UserError, match="sequence_length is 1024 but the longest document has"):
        run_one(run_folder("apart", training=training | {"cross_document_attention": False}))


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_every_prefix_has_the_shares_to_less_than_a_window(weights: list[float]) -> None:
    interleaving = Interleaving(weights)
    assert sum(interleaving.shares) == pytest.approx(1)
    assert np.allclose(interleaving.shares, np.array(weights) / sum(weights), atol=2e-4)
    positions = [*range(60), interleaving.period - 1, interleaving.period, 3 * interleaving.period + 17]
    for position, source, before in zip(positions, *interleaving.at(np.array(positions)), strict=True):
        counts = interleaving.counts(position)
        assert counts.sum() == position
        assert (np.abs(counts - np.array(interleaving.shares) * position) < 1).all()
        assert before == counts[source] and interleaving.counts(position + 1)[source] == before + 1
