import json

import pytest

from fits.errors import UserError
from vocab_study.study.make_study import study_vocabulary
from vocab_study.tokenizers.merge_tree import cut, take_apart
from vocab_study.tokenizers.parity import parity_curves
from vocab_study.tokenizers.tokenizer import load, train_tokenizer

RECORDS = [
    {"id": "1", "source": "x", "en": "All human beings are born free.", "ko": "모든 인간은 자유롭게 태어났다."},
    {"id": "2", "en": "They have reason.", "ko": "그들은 이성을 가졌다.", "es": "Tienen razón."},
    {"id": "3", "en": "And conscience."},
]


@pytest.fixture
def aligned(tmp_path):
    path = tmp_path / "aligned.jsonl"
    path.write_text("\n".join(map(json.dumps, RECORDS)) + "\n")
    return path


def test_parity_is_the_ratio_of_tokens_on_records_that_have_both(aligned):
    tokenizer = train_tokenizer([text for record in RECORDS for name, text in record.items() if name != "id"], 320)
    tree = take_apart(tokenizer)
    curves = parity_curves(aligned, tokenizer, tree)
    assert set(curves["language"]) == {"ko", "es"} and len(curves) == 2 * (len(tree.ids) - 256)
    for size in (257, 290, len(tree.ids)):
        smaller = cut(tokenizer, size)
        for language, records in (("ko", RECORDS[:2]), ("es", RECORDS[1:2])):
            tokens, against = (sum(len(smaller.encode(r[name]).ids) for r in records) for name in (language, "en"))
            row = curves[(curves["language"] == language) & (curves["vocab_size"] == size)].iloc[0]
            assert (row["tokens"], row["reference_tokens"]) == (tokens, against)
            assert row["parity"] == pytest.approx(tokens / against, abs=1e-6)


def test_details_of_a_study(small_corpus, aligned, tmp_path):
    study = study_vocabulary(small_corpus, tmp_path / "study", max_size=600, parallel=aligned)
    details = study.details(600)
    ids = 0
    tokenizer = load(study.tokenizer_file(600))
    words = 0
    for line in (small_corpus / "validation.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["source"] == "code":
            ids += len(tokenizer.encode(record["text"]).ids)
            words += len(record["text"].split())
    assert details.loc["code", "tokens_per_word"] == pytest.approx(ids / words)
    assert study.summary.words["code"] == words < study.summary.words["all"]
    assert study.parity is not None and study.summary.reference == "en"
    assert details["parity"].isna().all()  # the corpus has no group of those languages


def test_a_file_that_is_not_what_its_name_says(small_corpus, tmp_path):
    (tmp_path / "aligned.jsonl.gz").write_text("no gzip")
    with pytest.raises(UserError, match=r"aligned\.jsonl\.gz: the compressed data"):
        study_vocabulary(small_corpus, tmp_path / "study", max_size=300, parallel=tmp_path / "aligned.jsonl.gz")
    with pytest.raises(UserError, match="no such file"):
        study_vocabulary(small_corpus, tmp_path / "study", max_size=300, parallel=tmp_path)
    assert not (tmp_path / "study" / "study.json").exists()


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("[1]", "line 1 is no JSON record"),
        ('{"en": "a", "ko": 3}', "field 'ko' is no text"),
        ('{"ko": "a", "fr": "b"}', "no text in 'en'"),
        ('{"en": "a"}', "in 'en' alone"),
    ],
)
def test_faults_are_named(tmp_path, lines, reason):
    (tmp_path / "aligned.jsonl").write_text(lines)
    tokenizer = train_tokenizer(["abc"], 257)
    with pytest.raises(UserError, match=reason):
        parity_curves(tmp_path / "aligned.jsonl", tokenizer, take_apart(tokenizer))
