"""What a notebook shows: every public result has it, escaped, without colours of its own."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

import fits
import scaling
import vocab_study
from fits.html import card
from tests.scaling.report.report_folder import HOSTILE, made_once
from trainer_small import Sweep


class Balance(HTMLParser):
    """Every tag that is opened is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def shown(thing: object) -> str:
    text = thing._repr_html_()  # type: ignore[attr-defined]
    parser = Balance()
    parser.feed(text)
    assert parser.open == []
    assert not re.search(r"#[0-9a-fA-F]{3,6}\b|rgb\(|background:(?!none)|<script|(?<!border-)color:", text)
    return re.sub(r"<[^>]+>", " ", text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory.getbasetemp())


def test_a_fit_and_what_comes_of_it(folder: Path) -> None:
    law = fits.Fit.load(folder / "law_tokens.json")
    assert "90% interval" in shown(law) and "converged" in shown(law) and "irreducible loss" in shown(law)
    assert "parameter" in shown(law.as_law) and "coefficient" in shown(fits.published("besiroglu"))
    best = fits.optimal_allocation(fits.surface(law), 1e15)
    assert "Compute-optimal at 1e+15 FLOPs" in shown(best) and "tokens per parameter" in shown(best)


def test_scores_profiles_and_frontiers() -> None:
    points = [(n, d) for n in (1e6, 2e6, 4e6, 8e6, 1.6e7) for d in (1e7, 3e7, 9e7, 2.7e8)]
    runs = pd.DataFrame(points, columns=["params_active", "tokens"])
    runs["loss"] = 1.8 + 400 * runs["params_active"] ** -0.34 + 410 * runs["tokens"] ** -0.28
    bind = {"N": "params_active", "D": "tokens"}
    assert "fitted up to" in shown(fits.backtest("hoffmann", runs, bind=bind))
    assert "Profile of E" in shown(fits.profile("hoffmann", runs, "E", points=9, bind=bind))
    flops = (6 * runs["params_active"] * runs["tokens"]).to_numpy()
    frontier = fits.envelope_frontier(flops, runs["params_active"].to_numpy(), runs["loss"].to_numpy(), bootstrap=5)
    assert "exponent" in shown(frontier)


def test_sweeps_studies_choices_plans_and_counts(folder: Path) -> None:
    assert "size x horizon" in shown(Sweep.load(folder / "sweep.yaml"))
    study = vocab_study.Study.load(folder / "study")
    assert "entropy" in shown(study)
    assert "compute per byte of your text" in shown(vocab_study.choose_vocabulary(1e6, 64, study=study))
    plan = scaling.TrainingPlan.load(folder / "plan.yaml")
    text = shown(plan)
    assert "decades of compute" in text and "never reaches the loss" in text and "<script>" not in plan._repr_html_()
    assert "activation ratio A" in shown(scaling.count_file(folder / "plan.yaml"))


def test_every_text_is_escaped() -> None:
    text = card(HOSTILE, about=HOSTILE, code=HOSTILE, columns=[HOSTILE], rows=[[HOSTILE]], notes=[HOSTILE])
    assert "<script" not in text and text.count("&lt;script&gt;") == 6
