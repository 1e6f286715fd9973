"""Plans from a law whose runs are synthetic, and from published laws: what a planner must never get wrong."""

import json
import math

import numpy as np
import pytest
from typer.testing import CliRunner

from fits import Fit
from fits.errors import UserError
from scaling.advice import advice_at, built_models
from scaling.budget import cluster_budget
from scaling.cli import app
from scaling.fitted_plan import reference_run, space_of_sweep
from scaling.plan import TrainingPlan
from scaling.planning import plan_for
from scaling.search import law_variables, search
from tests.scaling.report_folder import made_once
from trainer_small.sweep import Sweep
from vocab_study.study import Study

FLOPS = 1e15


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    return made_once(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def fitted(road):
    study = Study.load(road / "study")
    sweep = Sweep.load(road / "sweep.yaml")
    return Fit.load(road / "law.json"), sweep, lambda size: study.bytes_per_token(size, split="train")


@pytest.fixture(scope="module")
def plan(road):
    return plan_for(str(road / "law.json"), FLOPS, sweep_file=road / "sweep.yaml", study_directory=road / "study")


def test_the_plan_spends_the_budget_and_never_more(plan):
    exact = plan.model.flops_per_token(plan.sequence_length) * plan.tokens
    assert plan.budget.train_flops == exact
    assert 0.98 * FLOPS < exact <= FLOPS
    assert plan.tokens % plan.batch_tokens == 0


def test_the_search_finds_the_lowest_loss_of_all_shapes(fitted):
    law, sweep, bytes_per_token = fitted
    found = search(law, space_of_sweep(sweep), FLOPS, sequence_length=128, bytes_per_token=bytes_per_token)
    losses = [
        law.predict(**{k: float(v) for k, v in law_variables(law, shape, tokens, bytes_per_token).items()})
        for shape, tokens in zip(found.shapes, found.tokens, strict=True)
    ]
    assert np.allclose(losses, found.loss)
    # The hardware-friendly choice costs at most 1 % more compute than the very best.
    assert found.regret(int(np.argmin(losses))) >= -0.0101
    assert abs(found.regret(found.best)) < 1e-9


def test_regret_is_the_compute_that_makes_up_for_the_choice(fitted):
    law, sweep, bytes_per_token = fitted
    found = search(law, space_of_sweep(sweep), FLOPS, sequence_length=128, bytes_per_token=bytes_per_token)
    for index in range(0, len(found.shapes), max(len(found.shapes) // 12, 1)):
        regret = found.regret(index)
        if math.isfinite(regret):
            tokens = found.tokens[index] * (1 + regret)
            variables = law_variables(law, found.shapes[index], tokens, bytes_per_token)
            loss = law.predict(**{k: float(v) for k, v in variables.items()})
            assert loss == pytest.approx(found.loss[found.best], rel=1e-9)


def test_the_plan_stays_within_what_the_proxies_tried(plan, fitted):
    _, sweep, _ = fitted
    tried = {(run.architecture.num_experts, run.architecture.vocab_size) for run in sweep.runs}
    assert plan.model.num_experts in {experts for experts, _ in tried}
    assert plan.model.vocab_size in {size for _, size in tried}


def test_the_plan_says_how_far_it_reaches_and_how_sure_it_is(plan, fitted):
    law, sweep, _ = fitted
    largest = max(run.train_flops for run in sweep.runs)
    assert plan.extrapolation.decades_in_train_flops == pytest.approx(math.log10(FLOPS / largest), abs=0.02)
    assert any("decades" in warning for warning in plan.warnings)
    assert plan.prediction.low <= plan.prediction.value <= plan.prediction.high
    assert plan.prediction.curve[-1].tokens == plan.tokens
    values = [point.value for point in plan.prediction.curve]
    assert values == sorted(values, reverse=True)
    assert plan.provenance.runs_sha256 == law.data.sha256
    for name in ("params_active", "tokens", "vocab_size"):
        assert plan.decision[name].low <= plan.decision[name].high


def test_the_recipe_is_the_proxies_carried_over(plan, fitted):
    _, sweep, _ = fitted
    training = reference_run(sweep).training
    growth = (plan.batch_tokens / training.batch_tokens) ** 0.5
    width = training.base_hidden_size / plan.model.hidden_size
    assert plan.optimizer.learning_rate == pytest.approx(training.learning_rate * growth * width)
    assert plan.batch_tokens > training.batch_tokens


def test_a_plan_survives_its_file_and_an_edit_into_nonsense_does_not(plan, tmp_path):
    path = tmp_path / "plan.yaml"
    plan.save(path)
    assert TrainingPlan.load(path) == plan
    text = path.read_text()
    for old, new, words in (
        (f"experts_per_token: {plan.model.experts_per_token}", "experts_per_token: 999", "experts_per_token 999"),
        (f"tokens: {plan.tokens}\n", f"tokens: {plan.tokens * 2}\n", "train_flops"),
        ("schema_version: 1", "schema_version: 7", "schema_version"),
        ("precision: bf16", "precison: bf16", "did you mean 'precision'"),
    ):
        assert old in text
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(UserError, match=r"plan\.yaml") as caught:
            TrainingPlan.load(path)
        assert words in str(caught.value)


def test_published_laws_make_the_plan_of_the_axk1_case():
    cluster = cluster_budget(1024, "h200", 75, 384 / 989)
    plan = plan_for("published:tian", cluster.hardware_flops, cluster=cluster, max_params_total=520e9)
    assert plan.budget.hardware_flops == pytest.approx(2.548e24, rel=1e-3)
    assert plan.tokens == pytest.approx(4.89e12, rel=0.1)
    assert plan.model.params_active == pytest.approx(86.9e9, rel=0.1)
    assert plan.model.params_total <= 520e9
    assert plan.optimizer.learning_rate == pytest.approx(2.15e-4, rel=5e-3)
    assert plan.batch_tokens == pytest.approx(54.3e6, rel=5e-3)
    assert any("binds" in warning for warning in plan.warnings)
    assert "spread" in plan.prediction.interval


def test_the_spread_of_opinion_holds_the_acceptance_figures():
    plan = plan_for("published:tian", 2.548e24, max_params_total=520e9)
    by_name = {each.law: each for each in advice_at(2.548e24, shape=plan.model, tokens=plan.tokens)}
    for name, active, tokens in (
        ("tian-moe", 86.9e9, 4.89e12),
        ("hunyuan", 52.3e9, 5.11e12),
        ("deepseek", 179e9, 2.38e12),
        ("tian-dense", 187e9, 2.27e12),
        ("besiroglu", 155e9, 2.74e12),
        ("hoffmann", 63.0e9, 6.74e12),
    ):
        assert by_name[name].params_active == pytest.approx(active, rel=0.01), name
        assert by_name[name].tokens == pytest.approx(tokens, rel=0.01), name
    assert by_name["tian, rate and batch"].learning_rate == pytest.approx(2.15e-4, rel=5e-3)
    assert by_name["deepseek, rate and batch"].batch_tokens == pytest.approx(28.1e6, rel=5e-3)
    assert by_name["A.X K1 as built"].params_active == built_models()["A.X K1"].params_active


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--law", "published:tian"], "--flops"),
        (["--law", "published:tian", "--flops", "0"], "above 0"),
        (["--law", "published:tian", "--flops", "-1"], "above 0"),
        (["--law", "published:tian", "--flops", "much"], "'much'"),
        (["--law", "published:nobody", "--flops", "1e24"], "published:tian"),
        (["--law", "published:tian", "--flops", "1e24", "--max-params-total", "1000"], "no shape fits"),
        (["--law", "law.json", "--flops", "1e15"], "--sweep"),
        (["--law", "published:tian", "--gpus", "8", "--gpu", "h2000", "--days", "1"], "h200"),
    ],
)
def test_a_question_that_cannot_be_answered_is_one_sentence(arguments, words, tmp_path):
    out = tmp_path / "plan.yaml"
    result = CliRunner().invoke(app, ["plan", *arguments, "--out", str(out)])
    assert result.exit_code == 2
    assert words in result.output
    assert not out.exists()


def test_the_law_needs_the_study_when_it_counts_bytes(road):
    with pytest.raises(UserError, match="vocabulary study"):
        plan_for(str(road / "law.json"), FLOPS, sweep_file=road / "sweep.yaml")


def test_a_law_that_does_not_see_the_vocabulary_does_not_choose_it(road):
    settings = {"sweep_file": road / "sweep.yaml"}
    with pytest.raises(UserError, match="does not see the vocabulary"):
        plan_for(str(road / "law_tokens.json"), FLOPS, **settings)
    held = plan_for(str(road / "law_tokens.json"), FLOPS, vocab_size=400, **settings)
    assert held.model.vocab_size == 400
    assert held.tokenizer.source == "given"
    assert any("does not see the experts" in warning for warning in held.warnings)


def test_the_command_prints_json_and_writes_the_same_plan(road, tmp_path):
    out = tmp_path / "plan.yaml"
    arguments = ["plan", "--law", str(road / "law_tokens.json"), "--flops", "1e15", "--sweep", str(road / "sweep.yaml")]
    result = CliRunner().invoke(
        app, [*arguments, "--vocab-size", "400", "--max-params-total", "1e8", "--out", str(out), "--json"]
    )
    assert result.exit_code == 0, result.output
    assert TrainingPlan.model_validate(json.loads(result.stdout)) == TrainingPlan.load(out)
