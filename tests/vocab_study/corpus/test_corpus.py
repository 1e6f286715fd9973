import gzip
import hashlib
import json
import platform
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from fits.errors import UserError
from trainer_small.data.documents import Document, read_documents
from vocab_study.corpus.corpus import build_corpus, load_manifest
from vocab_study.corpus.splits import SplitWriter

TEXTS = [f"document number {number}, in plain words\n" for number in range(40)]


def folder_of(tmp_path: Path, **files: bytes | str) -> Path:
    folder = tmp_path / "texts"
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def texts_of(corpus: Path) -> set[str]:
    return {document.text for split in ("train", "validation") for document in read_documents(corpus, split)}


def json_lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def test_the_standard_library_is_a_corpus_of_code_and_english(stdlib_corpus):
    manifest = load_manifest(stdlib_corpus)
    assert manifest.groups == ["code", "english"]
    assert manifest.sources[0].version == f"Python {platform.python_version()}"
    assert manifest.train.bytes + manifest.validation.bytes > 10e6
    assert 0.01 < manifest.validation.documents / manifest.train.documents < 0.12


def test_a_module_and_its_docstrings_lie_in_one_split(stdlib_corpus):
    def modules(split):
        names = (document.id for document in read_documents(stdlib_corpus, split))
        return {name.partition(":")[0] for name in names if not name.startswith("pydoc_data/topics")}

    assert not modules("train") & modules("validation")


def test_the_manifest_counts_what_the_files_hold(stdlib_corpus):
    manifest = load_manifest(stdlib_corpus)
    for split, summary in (("train", manifest.train), ("validation", manifest.validation)):
        documents = list(read_documents(stdlib_corpus, split))
        assert summary.documents == len(documents)
        assert summary.bytes == sum(len(document.text.encode()) for document in documents)
        assert summary.characters == sum(len(document.text) for document in documents)
        data = (stdlib_corpus / f"{split}.jsonl").read_bytes()
        assert summary.sha256 == hashlib.sha256(data).hexdigest()


def test_text_stays_as_it_is(tmp_path):
    texts = {"decomposed e\u0301 and composed \u00e9\r\n", "\u2028 separators \u0085 and \t tabs", "한국어 텍스트 😀"}
    folder = folder_of(tmp_path, **{f"file{i}_txt": text for i, text in enumerate(sorted(texts))})
    build_corpus([folder], tmp_path / "corpus")
    assert texts_of(tmp_path / "corpus") == texts


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"])
def test_every_format_gives_the_same_documents(tmp_path, ending):
    path = tmp_path / f"table.{ending}"
    if ending == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS, "number": range(40)}), path)
    else:
        pack = {"jsonl": bytes, "jsonl.gz": gzip.compress, "jsonl.zst": zstandard.compress}[ending]
        path.write_bytes(pack(json_lines(TEXTS)))
    build_corpus([path], tmp_path / "corpus")
    assert texts_of(tmp_path / "corpus") == set(TEXTS)


def test_groups(tmp_path):
    rows = [{"text": TEXTS[0], "language": "ko", "kind": "a"}, {"text": TEXTS[1], "kind": "b"}]
    lines = "\n".join(json.dumps(row) for row in rows)
    folder = folder_of(tmp_path, en__a_txt="some English", deep__er__b_txt="further down", rows_jsonl=lines)

    def groups(**options):
        return build_corpus([folder], tmp_path / "corpus", **options).groups

    assert groups() == ["deep", "en", "ko", "texts"]
    assert groups(by="folder") == ["deep", "en", "texts"]
    assert groups(by="file") == ["deep/er/b.txt", "en/a.txt", "rows.jsonl"]
    assert build_corpus([folder / "rows.jsonl"], tmp_path / "corpus", by="kind").groups == ["a", "b"]
    with pytest.raises(UserError, match=r"rows\.jsonl line 2: no field 'language' to group by"):
        build_corpus([folder / "rows.jsonl"], tmp_path / "corpus", by="language")


def test_duplicates_are_dropped_and_counted(tmp_path):
    (tmp_path / "table.jsonl").write_bytes(json_lines(TEXTS + TEXTS[:7]))
    manifest = build_corpus([tmp_path / "table.jsonl"], tmp_path / "corpus")
    assert manifest.duplicates == 7
    assert manifest.train.documents + manifest.validation.documents == len(TEXTS)


@settings(deadline=None, max_examples=30)
@given(texts=st.lists(st.text(st.characters(codec="utf-8"), min_size=1), unique=True, max_size=30), data=st.data())
def test_the_split_depends_on_no_order_and_no_other_document(tmp_path_factory, texts, data):
    def held_out(some: list[str]) -> set[str]:
        folder = tmp_path_factory.mktemp("corpus")
        with SplitWriter(folder, 0.5) as writer:
            for text in some:
                writer.add(Document("id", "group", text), text)
            return {document.text for document in writer.files["validation"].documents()}

    shuffled = data.draw(st.permutations(texts))
    kept = shuffled[: data.draw(st.integers(0, len(texts)))]
    assert held_out(kept) == held_out(texts) & set(kept)


@given(texts=st.lists(st.text("ab", min_size=1), min_size=2, max_size=4, unique=True), share=st.floats(0.001, 0.999))
@settings(deadline=None, max_examples=30)
def test_two_documents_fill_both_splits(tmp_path_factory, texts, share):
    folder = tmp_path_factory.mktemp("two")
    (folder / "table.jsonl").write_bytes(json_lines(texts))
    manifest = build_corpus([folder / "table.jsonl"], folder / "corpus", validation_fraction=share)
    assert manifest.train.documents >= 1 and manifest.validation.documents >= 1
    assert texts_of(folder / "corpus") == set(texts)


BAD = {
    "binary": ("bad_bin", b"PK\x03\x04\x00\x00\x01", "binary file"),
    "not UTF-8": ("bad_txt", b"fine until \xff here", "byte 11 is not UTF-8"),
    "empty": ("bad_txt", b"", "text is empty"),
    "no field": ("bad_jsonl", b'{"text": "a"}\n{"content": "b"}\n', r"line 2: no field 'text' \(it has content\)"),
    "not JSON": ("bad_jsonl", b'{"text": "a"}\n{"text": \n', "line 2: not JSON"),
    "no record": ("bad_jsonl", b'"text"\n', "line 1: a str where a record"),
    "number": ("bad_jsonl", b'{"text": 5}\n', "line 1: the text is a int"),
    "null": ("bad_jsonl", b'{"text": null}\n', "line 1: the text is a NoneType"),
    "half a pair": ("bad_jsonl", b'{"text": "x\\ud800"}\n', "line 1: character 1 of the text is half a surrogate"),
    "line not UTF-8": ("bad_jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', "line 2: byte 10 of the line is not UTF-8"),
    "empty lines": ("bad_jsonl", b"", "file is empty"),
    "cut gzip": ("bad_jsonl_gz", gzip.compress(json_lines(TEXTS))[:-20], "breaks off after line"),
    "no gzip": ("bad_jsonl_gz", b"plain", "breaks off after line 0"),
    "no zstd": ("bad_jsonl_zst", b"plain", "breaks off after line 0"),
    "no Parquet": ("bad_parquet", b"plain", "not a Parquet file"),
}


@pytest.mark.parametrize(("name", "content", "reason"), BAD.values(), ids=BAD.keys())
def test_what_is_no_document_is_named_or_skipped(tmp_path, name, content, reason):
    folder = folder_of(tmp_path, one_txt="one", two_txt="two", **{name: content})
    with pytest.raises(UserError, match=reason) as raised:
        build_corpus([folder], tmp_path / "corpus")
    assert str(folder / name.replace("_", ".")) in str(raised.value)
    assert not (tmp_path / "corpus").exists()

    manifest = build_corpus([folder], tmp_path / "corpus", on_error="skip")
    assert manifest.skipped == 1 and name.replace("_", ".") in manifest.skipped_inputs[0].place
    assert {"one", "two"} <= texts_of(tmp_path / "corpus")


def test_parquet_faults_name_the_row_or_the_columns(tmp_path):
    path = tmp_path / "table.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", None, "c"]}), path)
    with pytest.raises(UserError, match="row 2: the text is a NoneType"):
        build_corpus([path], tmp_path / "corpus")
    with pytest.raises(UserError, match=r"no column 'body' \(it has text\); name the right one with --text-field"):
        build_corpus([path], tmp_path / "corpus", text_field="body")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"only_txt": "alone"}, "one document only"),
        ({"a_txt": "same", "b_txt": "same"}, "one document only .1 repeat its text"),
        ({"_hidden": "x"}, "has no files"),
    ],
)
def test_a_corpus_needs_two_documents(tmp_path, files, reason):
    folder = folder_of(tmp_path, **files)
    with pytest.raises(UserError, match=reason):
        build_corpus([folder], tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()


def test_all_skipped_is_said(tmp_path):
    folder = folder_of(tmp_path, a_txt="", b_txt=b"\xff")
    with pytest.raises(UserError, match=r"no document \(2 inputs were skipped\)"):
        build_corpus([folder], tmp_path / "corpus", on_error="skip")


def test_options_out_of_range(tmp_path):
    for options, reason in [
        ({"validation_fraction": 0}, "between 0 and 1"),
        ({"validation_fraction": float("nan")}, "between 0 and 1"),
        ({"on_error": "ignore"}, "fail or skip"),
    ]:
        with pytest.raises(UserError, match=reason):
            build_corpus(["python:stdlib"], tmp_path / "corpus", **options)
    for source, reason in [("python:tests", "no such source"), (tmp_path / "nowhere", "no such file or folder")]:
        with pytest.raises(UserError, match=reason):
            build_corpus([source], tmp_path / "corpus")


def test_the_same_inputs_again_touch_nothing_and_others_remake(tmp_path):
    folder = folder_of(tmp_path, one_txt="one", two_txt="two")
    first = build_corpus([folder], tmp_path / "corpus")
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "corpus").iterdir()}
    assert build_corpus([folder], tmp_path / "corpus") == first
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "corpus").iterdir()} == before
    assert sorted(before) == ["manifest.json", "train.jsonl", "validation.jsonl"]

    (folder / "three.txt").write_text("three")
    assert build_corpus([folder], tmp_path / "corpus").fingerprint != first.fingerprint
    assert "three" in texts_of(tmp_path / "corpus")
    (tmp_path / "corpus" / "train.jsonl").write_text("")
    assert build_corpus([folder], tmp_path / "corpus").train.documents >= 1
    assert "three" in texts_of(tmp_path / "corpus")


def test_a_failure_leaves_the_old_corpus(tmp_path):
    folder = folder_of(tmp_path, one_txt="one", two_txt="two")
    build_corpus([folder], tmp_path / "corpus")
    before = {file.name: file.read_bytes() for file in (tmp_path / "corpus").iterdir()}
    (folder / "bad.txt").write_bytes(b"\xff")
    with pytest.raises(UserError):
        build_corpus([folder], tmp_path / "corpus")
    assert {file.name: file.read_bytes() for file in (tmp_path / "corpus").iterdir()} == before
