import json
import shutil

import numpy as np
import pytest

from fits.errors import UserError
from trainer_small.data.documents import read_documents
from vocab_study.study.make_study import study_vocabulary
from vocab_study.study.study import Study
from vocab_study.tokenizers.tokenizer import load


@pytest.fixture(scope="module")
def study(small_corpus, tmp_path_factory) -> Study:
    return study_vocabulary(small_corpus, tmp_path_factory.mktemp("study"), max_size=2000, sizes=[512, 1000])


def test_the_files_of_the_road(study):
    assert sorted(path.name for path in study.directory.iterdir()) == ["compression.csv", "study.json", "tokenizers"]
    assert {path.name for path in (study.directory / "tokenizers").iterdir()} >= {"512", "1000", "2000"}
    assert load(study.tokenizer_file(512)).get_vocab_size() == 512
    assert json.loads((study.directory / "study.json").read_text())["schema_version"] == 2


def test_every_size_of_every_group_is_in_the_table(study):
    counts = study.curves.groupby(["split", "group"], observed=True)["vocab_size"].agg(["min", "max", "size"])
    assert len(counts) == 6
    assert (counts == [257, 2000, 2000 - 256]).all(axis=None)


def test_figures_equal_an_encoding_with_the_tokenizer_of_that_size(study, small_corpus):
    documents = list(read_documents(small_corpus, "validation"))
    for size in (257, 512, 1313, 2000):
        tokenizer = load(study.tokenizer_file(size))
        for group in study.groups:
            texts = [d.text for d in documents if group in (d.source, "all")]
            ids = np.concatenate([tokenizer.encode(text).ids for text in texts])
            size_in_bytes = sum(len(text.encode()) for text in texts)
            assert study.tokens_per_byte(size, group) == len(ids) / size_in_bytes
            assert study.bytes_per_token(size, group) == pytest.approx(size_in_bytes / len(ids), rel=1e-12)
            share = np.bincount(ids)[np.bincount(ids) > 0] / len(ids)
            assert study.entropy(size, group) == pytest.approx(-(share * np.log(share)).sum(), abs=1e-6)


def test_loaded_again_it_is_the_same(study):
    again = Study.load(study.directory)
    assert again == study
    assert (again.curves == study.curves).all(axis=None)
    assert "Vocabularies of" in again._repr_html_()


def test_the_same_again_makes_nothing_new_but_the_sizes_asked_for(study, small_corpus):
    stamp = (study.directory / "study.json").stat().st_mtime_ns
    study_vocabulary(small_corpus, study.directory, max_size=2000, sizes=[640])
    assert (study.directory / "study.json").stat().st_mtime_ns == stamp
    assert (study.directory / "tokenizers" / "640" / "tokenizer.json").is_file()


def test_another_size_remakes_it(study, small_corpus, tmp_path):
    shutil.copytree(study.directory, tmp_path / "study")
    made = study_vocabulary(small_corpus, tmp_path / "study", max_size=700, sizes=[300])
    assert made.summary.largest_size == 700
    assert {path.parent.name for path in (tmp_path / "study").glob("tokenizers/*/tokenizer.json")} == {"300", "700"}


def test_without_a_largest_size_the_text_fills_what_it_can(small_corpus, tmp_path):
    made = study_vocabulary(small_corpus, tmp_path / "study")
    assert not made.summary.filled
    reached = made.summary.largest_size
    with pytest.raises(UserError, match=f"fills a vocabulary of {reached} tokens, not {reached + 1}"):
        study_vocabulary(small_corpus, tmp_path / "more", max_size=reached + 1)
    assert not (tmp_path / "more").exists()


def test_faults_are_named(study, small_corpus, tmp_path):
    with pytest.raises(UserError, match="is no finished corpus"):
        study_vocabulary(tmp_path, tmp_path / "study")
    with pytest.raises(UserError, match="is no finished study"):
        Study.load(tmp_path)
    with pytest.raises(UserError, match="size 256 is below 257"):
        study_vocabulary(small_corpus, tmp_path / "study", sizes=[256])
    with pytest.raises(UserError, match="2001 is above 2000"):
        study.tokens_per_byte(2001)
    with pytest.raises(UserError, match=r"no validation text of group 'englsh' \(did you mean 'english'\?\)"):
        study.entropy(1000, group="englsh")
