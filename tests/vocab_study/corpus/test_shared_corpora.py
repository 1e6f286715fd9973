"""Ten sizes in six languages, bit for bit against tokenizers trained and encoded one by one."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.places import SHARED
from trainer_small.data.documents import read_documents
from vocab_study.corpus.corpus import build_corpus
from vocab_study.study.make_study import study_vocabulary
from vocab_study.tokenizers.compression import count_tokens, unmerge
from vocab_study.tokenizers.merge_tree import cut, take_apart
from vocab_study.tokenizers.tokenizer import load, train_tokenizer
from vocab_study.tokenizers.tokenizer_files import read_tokenizer

CORPORA = SHARED / "data" / "corpora"
LANGUAGES = ("code", "en", "es", "ja", "ko", "zh")
SIZES = (257, 300, 512, 1000, 2048, 4096, 6000, 8192, 16_384, 24_000)


@pytest.mark.slow
@pytest.mark.skipif(not CORPORA.is_dir(), reason="needs ../shared/data/corpora")
def test_every_size_equals_a_tokenizer_of_its_own(tmp_path):
    whole = [CORPORA / language for language in LANGUAGES]
    build_corpus(whole, tmp_path / "whole")
    (tmp_path / "part").mkdir()
    for split in ("train", "validation"):  # a part is enough to tell, and trains ten tokenizers in a minute
        lines = (tmp_path / "whole" / f"{split}.jsonl").read_text().splitlines()[::14]
        (tmp_path / "part" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    build_corpus([tmp_path / "part"], tmp_path / "corpus", by="source")
    study = study_vocabulary(tmp_path / "corpus", tmp_path / "study", max_size=SIZES[-1], sizes=SIZES)
    train = [document.text for document in read_documents(tmp_path / "corpus", "train")]
    held_out = list(read_documents(tmp_path / "corpus", "validation"))
    for size in SIZES:
        alone, cut = train_tokenizer(train, size), load(study.tokenizer_file(size))
        assert json.loads(alone.to_str())["model"]["merges"] == json.loads(cut.to_str())["model"]["merges"]
        assert alone.get_vocab() == cut.get_vocab()
        for language in LANGUAGES:
            encodings = alone.encode_batch_fast([d.text for d in held_out if d.source == language])
            ids = np.concatenate([encoding.ids for encoding in encodings])
            assert study.at(size, "tokens", language) == len(ids)
            share = np.bincount(ids)[np.bincount(ids) > 0] / len(ids)
            assert study.entropy(size, language) == pytest.approx(-(share * np.log(share)).sum(), abs=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(not CORPORA.is_dir(), reason="needs ../shared/data/corpora")
@pytest.mark.parametrize("name", ["cl100k_base", "o200k_base"])
def test_published_tokenizers_cut_at_seven_sizes(tmp_path, name):
    """Undone merges against the cut tokenizer, six languages; the environment names the folder of the files."""
    file = Path(os.environ.get("TIKTOKEN_FILES", "."), f"{name}.tiktoken")
    if not file.is_file():
        pytest.skip(f"needs {name}.tiktoken in the folder that TIKTOKEN_FILES names")
    tokenizer = read_tokenizer(file)
    tree = take_apart(tokenizer)
    build_corpus([CORPORA / language for language in LANGUAGES], tmp_path / "corpus")
    texts = [(d.source, d.text) for d in read_documents(tmp_path / "corpus", "validation")][::4]
    counts = count_tokens(tokenizer, texts)
    for size in (300, 1000, 5000, 20_000, 50_000, 90_000, len(tree.ids)):
        alone = count_tokens(cut(tokenizer, size), texts)
        for language in LANGUAGES:
            tokens = unmerge(counts[language][tree.ids], tree.left, tree.right).tokens
            assert tokens[size - tree.smallest_size] == alone[language].sum()
