"""The report: what stands on the page, that it is one safe file, and that missing or damaged parts are said."""

import base64
import dataclasses
import hashlib
import html.parser
import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fits.errors import UserError
from fits.tables.runs import read_runs, write_runs
from scaling.cli import app
from scaling.plan import TrainingPlan
from scaling.report import write_report
from scaling.report.charts.runs import runs_chart
from scaling.report.collect import collect
from scaling.report.page import render
from scaling.report.points import RunPoint
from scaling.report.run_value import worth_buying
from tests.scaling.report.report_folder import HOSTILE, made_once


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return write_report(folder, folder / "report.html").read_text()


class _Outline(html.parser.HTMLParser):
    """Ids, figures and scripts of a page, and whether its elements nest."""

    _VOID = {"meta", "br", "wbr", "path", "use", "rect", "link", "input"}

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.figures: list[dict[str, str | None]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.add(tag)
        if found.get("id"):
            self.ids.append(str(found["id"]))
        if tag == "svg":
            self.figures.append(found)
        if tag == "script":
            self.scripts.append((found, ""))
        self.addresses += [str(found[key]) for key in ("src", "href", "xlink:href") if found.get(key)]
        if tag not in self._VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self._VOID:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            attributes, before = self.scripts.pop()
            self.scripts.append((attributes, before + data))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self._VOID:
            assert self.open.pop() == tag


def outline(page: str) -> _Outline:
    parser = _Outline()
    parser.feed(page)
    return parser


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<(style|script).*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL)))


def test_every_section_stands_in_order_and_the_elements_nest(page: str) -> None:
    parser = outline(page)
    sections = [each for each in parser.ids if each in ("answer", "evidence", "plans", "doubt", "conventions")]
    assert sections == ["answer", "evidence", "plans", "doubt", "conventions"]
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids)), "two drawings share an identifier"


def specs(page: str) -> list[dict]:
    return [
        json.loads(text) for attributes, text in outline(page).scripts if attributes == {"type": "application/json"}
    ]


def rows(spec: dict) -> list[dict]:
    return [row for table in spec["datasets"].values() for row in table]


def test_nothing_is_fetched_and_only_the_charting_library_runs(page: str) -> None:
    parser = outline(page)
    assert all(address.startswith("#") for address in parser.addresses)
    assert not parser.tags & {"link", "img", "iframe", "object"}
    assert "@import" not in page
    (program,) = [text for attributes, text in parser.scripts if not attributes]
    digest = base64.b64encode(hashlib.sha256(program.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in html.unescape(page)
    assert len(page) < 3_000_000


def test_every_chart_of_runs_holds_each_run_and_names_it(folder: Path, page: str) -> None:
    runs = read_runs(folder / "runs.csv").set_index("run_id")
    charts = {spec["description"]: rows(spec) for spec in specs(page)}
    every = [table for text, table in charts.items() if " runs" in text and "base runs" not in text]
    assert len(every) == 5, "reach, runs, sizes, agreement, residuals"
    for table in every:
        found = {row["run_id"]: row for row in table if "run_id" in row}
        assert found.keys() == set(runs.index)
        for name, row in found.items():
            assert row["tip"].startswith(f"{name}: ")
            assert row["measured"] == pytest.approx(runs.bits_per_byte[name])
            assert row["train_flops"] == pytest.approx(runs.train_flops[name])
            assert row["tokens"] == runs.tokens[name]


def test_the_charts_of_a_plan_hold_its_interval_its_costs_and_its_rivals(folder: Path, page: str) -> None:
    plan, second = (TrainingPlan.load(folder / name) for name in ("plan.yaml", "plan_axk1.yaml"))
    charts = {" ".join(spec["description"].split()[:3]): rows(spec) for spec in specs(page)}
    (end,) = [row for row in charts["Loss against training"] if row.get("tip", "").startswith("plan: ")]
    promise = plan.prediction
    assert (end["value"], end["low"], end["high"]) == (promise.value, promise.low, promise.high)
    costs = {row["change"]: row["regret"] for row in charts["Extra compute needed"] if "change" in row}
    assert costs == {each.change: each.regret for each in plan.neighbours}
    laws = {
        row["law"]: (row["tokens"], row["params"], row["series"])
        for row in charts["Active parameters against"]
        if "law" in row
    }
    assert laws["this plan"] == (second.tokens, second.model.params_active, "this plan")
    assert laws["hoffmann"] == (3.4e12, 122e9, "dense laws")
    assert laws["A.X K1 as built"][2] == "models as built"


def test_a_hostile_name_stays_data_in_a_chart() -> None:
    name = f"</script>{HOSTILE}<!--"
    chart = runs_chart("runs", [RunPoint(name, HOSTILE, 1e12, 1e6, 1e5, 2.0)], HOSTILE)
    assert "<" not in chart.json
    assert rows(json.loads(chart.json))[0]["run_id"] == name
    assert "<script" not in chart.svg
    assert outline(chart.svg).open == []


def test_texts_of_the_files_are_escaped(page: str) -> None:
    assert "<script>alert" not in page
    assert html.escape(HOSTILE, quote=False) in page or HOSTILE in html.unescape(page)


def test_every_figure_has_an_alternative_text_and_follows_the_page_colours(page: str) -> None:
    figures = outline(page).figures
    assert len(figures) >= 12
    assert [figure["aria-label"] for figure in figures] == [spec["description"] for spec in specs(page)]
    for figure in figures:
        assert figure["role"] == "img"
        assert len(figure["aria-label"] or "") > 20
    drawn = "".join(re.findall(r"<svg .*?</svg>", page, re.DOTALL))
    assert "var(--blue)" in drawn
    assert not re.findall(r'(?:fill|stroke)="#', drawn), "a fixed colour would vanish in dark mode"


def test_the_answer_is_said_with_its_interval_and_how_far_it_reaches(page: str) -> None:
    text = text_of(page)
    assert "5.23M-A2.47M" in text
    assert "1.505 to 1.625 bits/byte" in text
    assert "2.0 decades" in text
    assert "Read this before using the plan" in text
    assert "800k to 2.9M (wide)" in text
    assert text.index("5.23M-A2.47M") < text.rindex("The evidence")


def test_the_evidence_names_noise_convergence_and_every_run(folder: Path, page: str) -> None:
    text = text_of(page)
    assert all(run in text for run in read_runs(folder / "runs.csv")["run_id"])
    assert "from 3 runs at 1 point" in text
    assert "onverged: the largest derivative" in text
    assert "descents reached this optimum" in text
    assert "kappa" in text


def test_the_second_plan_is_labelled_as_published_laws(page: str) -> None:
    text = text_of(page)
    assert "a second plan, by published laws" in text
    assert "518B-A32.1B" in text
    assert "A.X K1" in text


def test_what_to_run_next_follows_from_the_evidence(page: str) -> None:
    text = text_of(page)
    assert "A rung half-way" in text
    assert "All runs share one learning rate" in text


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        (["plan.yaml"], "the law (law.json)"),
        (["law.json", "runs.csv"], "the plan (plan.yaml)"),
        (["runs.csv"], "the design of the sweep (sweep.yaml)"),
        (["law.json"], "the runs (runs.csv)"),
        (["study", "corpus"], "the runs (runs.csv)"),
        (["plan_axk1.yaml", "law_tokens.json", "runs.csv", "sweep.yaml"], "the vocabulary study (study/study.json)"),
    ],
)
def test_parts_that_are_missing_are_left_out_and_said(folder: Path, tmp_path: Path, kept: list[str], said: str) -> None:
    for name in kept:
        source = folder / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    page = write_report(tmp_path, tmp_path / "report.html").read_text()
    assert said in text_of(page)
    assert outline(page).open == []


def test_a_foreign_table_without_compute_still_makes_a_page(folder: Path, tmp_path: Path) -> None:
    runs = read_runs(folder / "runs.csv")
    write_runs(runs.filter(items=["vocab_size", "loss", "tokens"]), tmp_path / "runs.csv")
    shutil.copy(folder / "law.json", tmp_path / "law.json")
    text = text_of(write_report(tmp_path, tmp_path / "report.html").read_text())
    assert "Could not be shown" in text
    assert "bits_per_byte" in text


def test_runs_that_are_not_done_are_named(folder: Path, tmp_path: Path) -> None:
    runs = read_runs(folder / "runs.csv")
    runs.loc[0, "status"] = "diverged"
    write_runs(runs, tmp_path / "runs.csv")
    assert "Left out: 1 diverged." in text_of(write_report(tmp_path, tmp_path / "report.html").read_text())


def test_an_exported_config_is_read_back_and_counted(folder: Path, tmp_path: Path) -> None:
    from scaling.handoff.export import export_plan

    plan = TrainingPlan.load(folder / "plan.yaml")
    plan.save(tmp_path / "plan.yaml")
    export_plan(plan, ["all"], tmp_path / "configs")
    text = text_of(write_report(tmp_path, tmp_path / "report.html").read_text())
    assert text.count("the plan's to the last one") == 3
    assert "transformers" in text


def test_a_stack_that_cannot_compute_the_model_is_named_with_the_reason(folder: Path, tmp_path: Path) -> None:
    plan = TrainingPlan.load(folder / "plan.yaml")
    biased = plan.model.model_copy(update={"expert_bias": True, "router_bias": True, "attention_sinks": True})
    per_token = float(biased.flops_per_token(plan.sequence_length))
    budget = plan.budget.model_copy(update={"train_flops": per_token * plan.tokens, "flops_per_token": per_token})
    changed = plan.model_copy(update={"model": biased, "budget": budget})
    (tmp_path / "configs").mkdir()
    changed.save(tmp_path / "configs" / "plan.yaml")
    changed.save(tmp_path / "plan.yaml")
    text = text_of(write_report(tmp_path, tmp_path / "report.html").read_text())
    assert "not written:" in text


def test_a_folder_with_nothing_of_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds nothing to report; it should have some of plan\.yaml"):
        write_report(tmp_path, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_damaged_file_is_named_and_nothing_is_written(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "runs.csv", tmp_path / "runs.csv")
    (tmp_path / "law.json").write_text("{")
    result = CliRunner().invoke(app, ["report", str(tmp_path), "--out", str(tmp_path / "report.html")])
    assert result.exit_code == 2
    assert "law.json" in result.output
    assert not (tmp_path / "report.html").exists()


def test_the_command_writes_the_file_and_speaks_json(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "runs.csv", tmp_path / "runs.csv")
    out = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["report", str(tmp_path), "--out", str(out), "--json"])
    assert result.exit_code == 0
    assert json.loads(result.output) == {"report": str(out), "bytes": out.stat().st_size}


def test_the_same_files_give_the_same_page(folder: Path, tmp_path: Path) -> None:
    for name in ("plan.yaml", "law_tokens.json", "runs.csv"):
        shutil.copy(folder / name, tmp_path / name)
    first, second = (write_report(tmp_path, tmp_path / name).read_text() for name in ("a.html", "b.html"))
    assert first == second


def test_the_best_buys_are_ranked_by_what_they_remove_for_their_cost(folder: Path) -> None:
    material = collect(folder)
    found = worth_buying(material)
    assert found is not None and material.plan is not None and found.runs
    assert 0 < found.error < 0.5
    rates = [each.removes / each.train_flops for each in found.runs]
    assert rates == sorted(rates, reverse=True)
    for each in found.runs:
        assert 0.02 <= each.removes <= 1
        assert each.train_flops <= 0.1 * material.plan.budget.train_flops
        assert each.train_flops == each.shape.flops_per_token(128) * each.tokens
    assert worth_buying(dataclasses.replace(material, law=None)) is None
    assert "Which runs to buy next" in render(material)


def test_the_layout_the_limits_and_the_front_of_a_plan_are_shown(page: str) -> None:
    for text in ("Parallel layout on 1024 GPUs", "1 x 8 x 16 x 1", "Limits that hold the plan back", "GPU-s per 1M"):
        assert text in page
