import io

import pytest

from vocab_study.choice.figures import compression_figure, compute_figure
from vocab_study.study.make_study import study_vocabulary


def test_every_group_has_its_line(small_corpus, tmp_path):
    study = study_vocabulary(small_corpus, tmp_path / "study", max_size=800)
    for figure in (compression_figure(study, sizes=[512]), compute_figure(study, 1e6, 64)):
        for axes in figure.axes:
            labels = [line.get_label() for line in axes.lines if not str(line.get_label()).startswith("_")]
            assert labels == ["code", "english", "all"]
            assert axes.get_xlabel() and axes.get_ylabel()
        figure.savefig(io.BytesIO(), format="svg")
    line = compression_figure(study).axes[0].lines[2]
    assert line.get_ydata()[512 - 257] == pytest.approx(study.bytes_per_token(512))  # type: ignore[index]
