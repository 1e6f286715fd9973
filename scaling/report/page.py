"""From what was collected to the page: the template gets plain values and finished charts."""

from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from fits import Fit
from scaling.plan import Advice, TrainingPlan
from scaling.report import numbers
from scaling.report.answer import accounts, alarms, card, decisions, headline, model_name, recipe
from scaling.report.caveats import caveats
from scaling.report.charts import draw
from scaling.report.charts.draw import Chart
from scaling.report.charts.plan import curve_chart, reach_chart, regret_chart, spread_chart
from scaling.report.collect import Material
from scaling.report.evidence import Evidence, evidence, question_of
from scaling.report.next_runs import what_to_run_next
from scaling.report.provenance import provenance
from scaling.report.run_value import worth_buying
from scaling.report.tables import LawView, law_view, runs_table

_HERE = Path(__file__).parent


def render(material: Material) -> str:
    """The whole page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    forms = ("short", "quantity", "flops", "percent", "share", "whole", "decades")
    environment.filters |= {name: getattr(numbers, name) for name in forms}
    environment.filters |= {"breakable": _breakable}
    found = evidence(material)
    plans = [plan for plan in (material.plan, material.plan_published) if plan]
    columns, rows = runs_table(found.runs)
    context: dict[str, Any] = {
        "script": Markup(draw.script()),
        "script_hash": f"sha256-{b64encode(sha256(draw.script().encode()).digest()).decode()}",
        "style": Markup((_HERE / "style.css").read_text()),
        "title": question_of(material),
        "material": material,
        "answer": _answer(material, found),
        "evidence": found,
        "runs_columns": columns,
        "runs_rows": rows,
        "laws": _laws(material, found),
        "second": _second(material),
        "opinions": list(_opinions(material)),
        "accounts": [(model_name(plan.model), accounts(plan)) for plan in plans],
        "conventions": plans[0].conventions if plans else {},
        "warnings": list(_warnings(material)),
        "doubts": caveats(material, found),
        "next_runs": what_to_run_next(material, found),
        "purchase": worth_buying(material),
        "provenance": list(provenance(material)),
    }
    return environment.get_template("page.html").render(context)


def _breakable(name: str) -> Markup:
    """A key that may break after its underscores when the screen is narrow."""
    return Markup("_<wbr>").join(name.split("_"))


def _described(plan: TrainingPlan, fit: Fit | None = None) -> dict[str, Any]:
    return {
        "plan": plan,
        "name": model_name(plan.model),
        "headline": headline(plan),
        "card": card(plan),
        "alarms": list(alarms(plan, fit)),
        "decisions": decisions(plan),
        "recipe": recipe(plan),
    }


def _answer(material: Material, found: Evidence) -> dict[str, Any] | None:
    plan = material.plan
    if plan is None:
        return None
    reach = None
    if found.agreement is not None and found.frontier is not None:
        reach = reach_chart("reach", found.points, found.frontier, plan)
    return _described(plan, material.law) | {
        "reach": reach,
        "regret": regret_chart("regret", plan.neighbours) if plan.neighbours else None,
        "curve": curve_chart("curve", plan.prediction) if plan.prediction.curve else None,
    }


def _laws(material: Material, found: Evidence) -> list[LawView]:
    """The laws there are; only the first is the one that the evidence was compared with."""
    fits = [fit for fit in (material.law, material.law_tokens) if fit]
    return [law_view(fit, found.agreement if index == 0 else None, found.noise) for index, fit in enumerate(fits)]


@dataclass(frozen=True)
class _Spread:
    """What published laws say about the budget of one plan."""

    name: str
    second: bool
    chart: Chart | None
    sizes: list[Advice]
    rates: list[Advice]


def _opinions(material: Material) -> Iterator[_Spread]:
    """The spread at the budget of each plan, the second plan first: it is the one made from such laws."""
    for name, plan in (("spread", material.plan_published), ("spread-first", material.plan)):
        if plan is not None and plan.advice:
            sizes = [each for each in plan.advice if each.params_active or each.loss]
            rates = [each for each in plan.advice if each not in sizes]
            chart = spread_chart(name, plan.advice, plan)
            yield _Spread(model_name(plan.model), plan is material.plan_published, chart, sizes, rates)


def _second(material: Material) -> dict[str, Any] | None:
    plan = material.plan_published
    if plan is None:
        return None
    return _described(plan) | {
        "regret": regret_chart("regret-second", plan.neighbours) if plan.neighbours else None,
        "curve": curve_chart("curve-second", plan.prediction) if plan.prediction.curve else None,
    }


def _warnings(material: Material) -> Iterator[tuple[str, str]]:
    """(where it comes from, the sentence), each sentence once."""
    seen: set[str] = set()
    sources = [("law.json", material.law), ("law_tokens.json", material.law_tokens)]
    sources += [("plan.yaml", material.plan), ("plan_axk1.yaml", material.plan_published)]
    for name, source in sources:
        for warning in source.warnings if source else ():
            if warning not in seen:
                seen.add(warning)
                yield name, warning.rstrip(".") + "."
