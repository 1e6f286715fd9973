"""The report's own arithmetic and words: numbers as people read them, noise between seeds, what is said in alarm."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fits import Law, list_laws
from scaling.plan import Neighbour
from scaling.report import numbers
from scaling.report.answer import alarms, is_wide, model_name
from scaling.report.charts.plan import regret_chart
from scaling.report.equation import equations, typeset
from scaling.report.fit_quality import seed_noise
from tests.scaling.report.report_folder import large_plan, small_plan


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        (numbers.short, 518_983_052_288, "519B"),
        (numbers.short, 512, "512"),
        (numbers.short, None, "\u2013"),
        (numbers.quantity, 1.8472, "1.847"),
        (numbers.quantity, 2.2e-4, "2.2\u00a0\u00d7\u00a010⁻⁴"),
        (numbers.quantity, float("nan"), "\u2013"),
        (numbers.flops, 2.548e24, "2.55\u00a0\u00d7\u00a010²⁴"),
        (numbers.power, 3e15, "3·10¹⁵"),
        (numbers.percent, 0.004, "+0.4\u00a0%"),
        (numbers.percent, -0.1234, "\u221212\u00a0%"),
        (numbers.percent, 4.6e-6, "0\u00a0%"),
        (numbers.share, 0.28, "28\u00a0%"),
        (numbers.vocabulary, 163840, "160k"),
        (numbers.vocabulary, 188800, "188\u2009800"),
        (numbers.plain, 16384, "16384"),
        (numbers.about, 129.7, "130"),
    ],
)
def test_numbers_read_as_people_write_them(form, value: float | None, text: str) -> None:
    assert form(value) == text


@given(st.floats(1e-30, 1e30))
def test_a_quantity_is_within_its_digits(value: float) -> None:
    text = numbers.quantity(value).replace("\u00a0\u00d7\u00a010", "e")
    read = float(text.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")))
    assert read == pytest.approx(value, rel=1e-3)


def test_noise_comes_from_runs_that_differ_in_their_seed_alone() -> None:
    random = np.random.default_rng(0)
    sizes = np.repeat([32, 64, 128], 200)
    table = pd.DataFrame(
        {"hidden_size": sizes, "seed": np.arange(600), "loss": (3 + 100 / sizes) * np.exp(random.normal(0, 0.01, 600))}
    )
    noise = seed_noise(table, "loss")
    assert noise is not None
    assert noise.relative == pytest.approx(0.01, rel=0.1)
    assert (noise.runs, noise.groups) == (600, 3)
    assert seed_noise(table.drop_duplicates("hidden_size"), "loss") is None


def test_alarms_tell_how_far_and_how_wide() -> None:
    small = " ".join(alarms(small_plan(), None))
    assert "2.0 decades" in small
    assert "uncertain by 8\u00a0%" in small
    assert "factor of 3.6" in small
    near = small_plan().model_copy(
        update={"extrapolation": large_plan().extrapolation.model_copy(update={"decades_in_train_flops": 0.2})}
    )
    assert "decades" not in " ".join(alarms(near, None))


def test_a_model_is_named_by_total_and_active_parameters() -> None:
    assert model_name(large_plan().model) == "518B-A32.1B"


@given(st.floats(0.01, 1e12), st.floats(1.0, 10.0))
def test_wide_means_more_than_a_factor_of_two(low: float, factor: float) -> None:
    assert is_wide(low, low * factor) == (low * factor / low > 2)


def test_regret_without_an_interval_or_an_end_can_be_drawn() -> None:
    chart = regret_chart(
        "regret",
        (
            Neighbour(change="hidden_size 64 -> 96", regret=0.02, low=0.01, high=None),
            Neighbour(change="hidden_size 64 -> 128", regret=None),
            Neighbour(change="64 experts, top 8, G 8", regret=0.1),
        ),
    )
    assert "never reaches this loss" in chart.svg
    assert "hidden_size (plan: 64)" in chart.svg
    assert "an arrow: some draws never reach the loss" in chart.caption


@pytest.mark.parametrize(
    ("formula", "written"),
    [
        ("E + A*N**-alpha", "<i>E</i> + <i>A</i>&thinsp;<i>N</i><sup>&minus;&alpha;</sup>"),
        ("A/(N + D)", "<i>A</i>&thinsp;/&thinsp;(<i>N</i> + <i>D</i>)"),
        ("a - (b - c)", "<i>a</i> &minus; (<i>b</i> &minus; <i>c</i>)"),
        ("(log(V) - mu)**2", "(ln&thinsp;(<i>V</i>) &minus; &mu;)<sup>2</sup>"),
        (
            "(N_c/N)**(a/b)",
            "(<i>N</i><sub>c</sub>&thinsp;/&thinsp;<i>N</i>)<sup><i>a</i>&thinsp;/&thinsp;<i>b</i></sup>",
        ),
        ("`<b>x</b>` + 1", "&lt;b&gt;x&lt;/b&gt; + 1"),
    ],
)
def test_a_formula_is_written_as_people_do(formula: str, written: str) -> None:
    assert typeset(formula) == written


@pytest.mark.parametrize("law", list_laws(), ids=lambda law: law.name)
def test_every_law_can_be_written(law: Law) -> None:
    lines = equations(law)
    assert len(lines) == 1 + len(law.definitions)
    assert all("**" not in line and "*" not in line for line in lines)
