"""Plans from a law whose runs are synthetic, and from published laws: what a planner must never get wrong."""

import json
import math
import subprocess
import sys

import pytest
import yaml
from typer.testing import CliRunner

from fits import Fit
from fits.errors import UserError
from scaling.cli import app
from scaling.cluster.budget import cluster_budget
from scaling.plan import TrainingPlan
from scaling.planner.planner import plan_for, reference_run
from scaling.planner.published_advice import advice_at, built_models
from tests.places import ROOT
from tests.scaling.report.report_folder import made_once
from trainer_small.sweeps.sweep import Sweep
from vocab_study.study.study import Study

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


@pytest.fixture(scope="module")
def axk1():
    cluster = cluster_budget(1024, "h200", 75, 384 / 989)
    return plan_for("published:tian", cluster.hardware_flops, cluster=cluster, max_params_total=520e9)


def test_published_laws_make_the_plan_of_the_axk1_case(axk1):
    budget = axk1.budget
    assert budget.hardware_flops == pytest.approx(2.548e24, rel=1e-3)
    assert 0.999 * budget.hardware_flops < budget.train_flops <= budget.hardware_flops
    assert budget.six_n_d == 6 * axk1.model.params_active * axk1.tokens
    assert axk1.model.params_total <= 520e9
    assert axk1.optimizer.learning_rate == pytest.approx(2.15e-4, rel=5e-3)
    assert axk1.batch_tokens == pytest.approx(54.3e6, rel=5e-3)
    assert "spread" in axk1.prediction.interval
    assert axk1.prediction.low <= axk1.prediction.value <= axk1.prediction.high


@pytest.mark.slow
def test_a_ramp_leads_to_the_batch_in_whole_steps():
    plan = plan_for("published:tian", 1e22, vocab_size=32000, ramp=True)
    ramp = plan.batch_ramp
    assert ramp.start_batch_tokens + 3 * ramp.increment_tokens == plan.batch_tokens
    assert ramp.ramp_tokens == pytest.approx(0.03 * plan.tokens, rel=0.05)
    assert plan_for("published:tian", 1e22, vocab_size=32000).batch_ramp is None


def test_a_plan_for_a_cluster_has_a_layout_that_fits_it(axk1):
    assert axk1.layout.gpus == 1024
    assert axk1.model.num_experts % axk1.layout.expert == 0
    assert axk1.layout_estimate.memory_gib * 2**30 < 141e9
    faster = axk1.layout_estimate.tflops_per_gpu / 384
    assert axk1.layout_estimate.days * faster == pytest.approx(75, rel=0.01)


def test_the_number_of_experts_is_said_to_be_a_matter_of_limits(axk1):
    binding = {each.constraint: each for each in axk1.binding}
    assert binding["max_params_total"].gain > 0.05
    (said,) = [warning for warning in axk1.warnings if "more experts always help" in warning]
    assert "max_params_total" in said
    assert "memory, communication and load balance" in said


def test_every_law_that_sees_experts_is_asked_the_same_question(axk1):
    priced = {each.law: each for each in axk1.advice if each.law.endswith("priced")}
    assert {"joint-moe, priced", "abnar, priced", "tian-hoffmann, priced"} <= set(priced)
    for each in priced.values():
        assert each.params_total <= 520e9
        assert each.shape
    assert priced["tian-hoffmann, priced"].regret > 0


def test_a_cluster_too_small_says_what_is_short(tmp_path):
    """A model of DeepSeek-V3's size held by the user, on 8 GPUs."""
    held = {"hidden_size": [7168], "num_layers": [61], "num_experts": [256], "experts_per_token": [8]}
    path = tmp_path / "constraints.yaml"
    path.write_text(yaml.safe_dump(held | {"granularity": [7], "vocab_size": [129280]}))
    cluster = cluster_budget(8, "h200", 10000, 0.4)
    with pytest.raises(UserError, match=r"memory of 8 h200, .* GiB a GPU \(the nearest shape has"):
        plan_for("published:tian", cluster.hardware_flops, cluster=cluster, constraints_file=path)


def test_the_spread_of_opinion_holds_the_acceptance_figures(axk1):
    by_name = {each.law: each for each in advice_at(2.548e24, shape=axk1.model, tokens=axk1.tokens)}
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
        (["--flops", "1e24"], "--law"),
        (["--law", "published:nobody", "--flops", "1e24"], "usable are tian"),
        (["--law", "published:hunyuan", "--flops", "1e24"], "no loss, so it cannot price a shape"),
        (["--law", "published:tian", "--flops", "1e24", "--max-params-total", "1000"], "no shape fits"),
        (["--law", "nowhere.json", "--flops", "1e15"], "nowhere.json"),
        (["--law", "published:tian", "--flops", "1e21", "--level", "2"], "level is 2"),
        (["--law", "published:tian", "--flops", "1e21", "--vocab-size", "0"], "vocab_size holds 0"),
        (["--law", "published:tian", "--flops", "1e21", "--sequence-length", "0"], "sequence_length is 0"),
        (["--law", "published:tian", "--flops", "1e21", "--unique-tokens", "0"], "unique_tokens"),
        (["--law", "published:tian", "--flops", "1e21", "--max-decode-seconds", "0"], "max_decode_seconds"),
        (["--law", "published:tian", "--gpus", "8", "--gpu", "h2000", "--days", "1"], "h200"),
    ],
)
def test_a_question_that_cannot_be_answered_is_one_sentence(arguments, words, tmp_path):
    out = tmp_path / "plan.yaml"
    result = CliRunner().invoke(app, ["plan", *arguments, "--out", str(out)])
    assert result.exit_code == 2
    assert words in result.output
    assert not out.exists()


def test_a_law_in_bytes_knows_them_from_its_runs_or_needs_the_study(road, tmp_path):
    law = Fit.load(road / "law.json")
    assert set(law.bytes_per_token) == {300, 400, 520}
    plan = plan_for(str(road / "law.json"), FLOPS, sweep_file=road / "sweep.yaml")
    assert plan.data.bytes_per_token == pytest.approx(law.bytes_per_token[plan.model.vocab_size])
    law.model_copy(update={"bytes_per_token": {}}).save(tmp_path / "law.json")
    with pytest.raises(UserError, match="vocabulary study"):
        plan_for(str(tmp_path / "law.json"), FLOPS, sweep_file=road / "sweep.yaml")


def test_a_law_that_does_not_see_the_vocabulary_does_not_choose_it(road):
    settings = {"sweep_file": road / "sweep.yaml"}
    with pytest.raises(UserError, match="does not see the vocabulary"):
        plan_for(str(road / "law_tokens.json"), FLOPS, **settings)
    held = plan_for(str(road / "law_tokens.json"), FLOPS, vocab_size=400, **settings)
    assert held.model.vocab_size == 400
    assert held.tokenizer.source == "given"
    assert any("does not see the experts" in warning for warning in held.warnings)
    assert held.model.num_experts == 8  # that of most proxies


def test_a_law_needs_no_sweep_when_it_says_itself_what_its_runs_tried(road, law_without_bytes):
    plan = plan_for(str(law_without_bytes), 1e17, vocab_size=400)
    assert 1 / plan.model.activation_ratio <= 11 * 1.02
    assert 0.98 <= plan.model.granularity <= 4.08
    reach = [each for each in plan.binding if each.constraint.startswith("1/activation_ratio as the law's runs had it")]
    assert reach
    assert reach[0].gain > 0
    assert plan.optimizer.source.startswith("arXiv 2507.17702")
    assert plan.sequence_length == 128  # as the runs had it


@pytest.fixture(scope="module")
def law_without_bytes(road):
    import fits
    from fits.tables.runs import read_runs

    path = road / "law_experts.json"
    runs = read_runs(road / "runs.csv")
    fits.fit("moe-power", runs[runs["vocab_size"] == 400], bootstrap=60, level=0.9).save(path)
    return path


def test_a_law_without_a_term_for_experts_cannot_choose_them(road, tmp_path):
    path = tmp_path / "constraints.yaml"
    path.write_text("num_experts: [8, 16]\nexperts_per_token: [2]\ngranularity: [2]\nvocab_size: [400]\n")
    for law, words in (
        (str(road / "law_tokens.json"), "no term for experts"),
        ("published:besiroglu", "is of dense models, with no term for them"),
    ):
        with pytest.raises(UserError, match=words):
            plan_for(law, FLOPS, constraints_file=path)
    assert plan_for(str(road / "law_tokens.json"), FLOPS).model.num_experts == 8  # that of its runs
    path.write_text("num_experts: [8]\nexperts_per_token: [2]\ngranularity: [2]\nvocab_size: [400]\n")
    assert plan_for(str(road / "law_tokens.json"), FLOPS, constraints_file=path).model.num_experts == 8


def test_a_law_of_another_version_says_so(road, tmp_path):
    path = tmp_path / "law.json"
    path.write_text(json.dumps(json.loads((road / "law.json").read_text()) | {"schema_version": 9}))
    with pytest.raises(UserError, match=r"law\.json is of schema_version 9, this program reads 1"):
        plan_for(str(path), FLOPS, sweep_file=road / "sweep.yaml", study_directory=road / "study")


@pytest.mark.parametrize("law", ["besiroglu", "muennighoff", "joint-moe", "abnar", "krajewski", "flame"])
def test_every_kind_of_published_law_makes_a_plan(law, tmp_path):
    plan = plan_for(f"published:{law}", 1e22, vocab_size=32000, max_params_total=50e9, unique_tokens=3e11)
    assert plan.model.is_moe == (law not in ("besiroglu", "muennighoff"))
    assert plan.provenance.law == f"published:{law}"
    assert plan.data.unique_tokens == 3e11
    assert 0.98e22 < plan.budget.train_flops <= 1e22
    plan.save(tmp_path / "plan.yaml")
    assert TrainingPlan.load(tmp_path / "plan.yaml") == plan


def test_serving_is_set_aside_and_said(road):
    settings = {"sweep_file": road / "sweep.yaml", "study_directory": road / "study"}
    plan = plan_for(str(road / "law.json"), FLOPS, inference_tokens=1e8, **settings)
    assert plan.budget.inference_flops == 2 * plan.model.params_active * 1e8
    assert plan.budget.train_flops + plan.budget.inference_flops <= FLOPS
    assert plan.serving.inference_tokens == 1e8
    assert "lifetime" in plan.question


def test_numbers_are_read_as_people_write_them(plan, tmp_path):
    """YAML reads 1e12 and 1e-3 as text."""
    path = tmp_path / "plan.yaml"
    plan.save(path)
    text = path.read_text()
    changed = text.replace("weight_decay: " + str(plan.optimizer.weight_decay), "weight_decay: 1e-1", 1)
    assert changed != text
    path.write_text(changed)
    assert TrainingPlan.load(path).optimizer.weight_decay == 0.1


def test_the_schema_of_a_plan_is_printed_and_fits_a_plan(plan):
    result = CliRunner().invoke(app, ["plan", "--schema"])
    assert result.exit_code == 0, result.output
    schema = json.loads(result.stdout)
    assert set(plan.model_dump(mode="json")) <= set(schema["properties"])
    assert schema["additionalProperties"] is False


def test_the_command_prints_json_and_writes_the_same_plan(road, tmp_path):
    out = tmp_path / "plan.yaml"
    arguments = ["plan", "--law", str(road / "law_tokens.json"), "--flops", "1e15", "--sweep", str(road / "sweep.yaml")]
    result = CliRunner().invoke(
        app, [*arguments, "--vocab-size", "400", "--max-params-total", "1e8", "--out", str(out), "--json"]
    )
    assert result.exit_code == 0, result.output
    assert TrainingPlan.model_validate(json.loads(result.stdout)) == TrainingPlan.load(out)


def test_what_is_printed_fits_eighty_columns(road, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    arguments = ["plan", "--law", str(road / "law.json"), "--flops", "1e15", "--sweep", str(road / "sweep.yaml")]
    result = CliRunner().invoke(app, [*arguments, "--vocab-study", str(road / "study"), "--max-params-total", "5e6"])
    assert result.exit_code == 0, result.output
    table = [line for line in result.output.splitlines() if not line.startswith("!")]
    assert max(map(len, table)) <= 80
    for words in ("Three numbers for one budget", "How sure each number is", "binds", "Not beaten", "side by side"):
        assert words in result.output


@pytest.mark.slow
def test_the_page_of_the_axk1_case_is_written(tmp_path):
    script = ROOT / "benchmarks" / "planner" / "axk1" / "page.py"
    page = tmp_path / "case_axk1.md"
    subprocess.run([sys.executable, str(script), "--out", str(page)], check=True, timeout=600)
    text = page.read_text()
    assert "| 2.548e+24 | 2.548e24 was reported as C |" in text
    assert "| as built | hf | config.json | 518,983,052,288 | yes |" in text
    assert "| megatron | model_config.yaml | 518,982,622,208 | yes |" in text
    assert (tmp_path / "images" / "case_axk1_regret.png").is_file()
