"""Real text for the tests: the standard library's documents, and a small corpus of some of its modules."""

import json
import os
from pathlib import Path

import pytest

from trainer_small.data.documents import read_documents
from vocab_study.corpus.corpus import build_corpus

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def stdlib_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stdlib") / "corpus"
    build_corpus(["python:stdlib"], folder)
    return folder


@pytest.fixture(scope="session")
def small_corpus(stdlib_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 60 short documents of the standard library, half of them held out."""
    folder = tmp_path_factory.mktemp("small")
    documents = [document for document in read_documents(stdlib_corpus, "train") if len(document.text) < 5000][:60]
    lines = [json.dumps({"id": d.id, "source": d.source, "text": d.text}) for d in documents]
    (folder / "documents.jsonl").write_text("\n".join(lines))
    build_corpus([folder / "documents.jsonl"], folder / "corpus", validation_fraction=0.5)
    return folder / "corpus"
