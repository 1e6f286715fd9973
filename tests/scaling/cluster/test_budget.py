import json

import pytest
from typer.testing import CliRunner

from fits.errors import UserError
from scaling.cli import app
from scaling.cluster.budget import cluster_budget, costs, positive_flops
from tests.scaling.cluster.layout_cases import MODELS
from tests.scaling.plans import PROXY, training_plan


def run_cli(*arguments):
    return CliRunner().invoke(app, ["budget", *map(str, arguments)])


def test_achieved_speed_gives_the_reported_budget():
    cluster = cluster_budget(1024, "h200", 75, tflops=384)
    assert cluster.hardware_flops == pytest.approx(2.548e24, rel=2e-4)
    assert cluster.utilisation == pytest.approx(384 / 989)


@pytest.mark.parametrize(
    ("speed", "message"),
    [({}, "either mfu"), ({"mfu": 0.4, "tflops": 384}, "either mfu"), ({"tflops": 1000}, "above the 989"),
     ({"tflops": -1}, "tflops is -1")],
)  # fmt: skip
def test_a_speed_that_is_none_is_refused(speed, message):
    with pytest.raises(UserError, match=message):
        cluster_budget(8, "h200", 1, **speed)


def test_one_model_costs_differently_by_accounting():
    cluster = cluster_budget(1024, "h200", 75, tflops=384)
    exact, full, six = costs(MODELS["A.X-K1"], cluster, tokens=10**13)
    # shared notes on arXiv 2601.09200: 2.05e24, 2.20e24 and 1.967e24 for 10T tokens in sequences of 4096.
    assert exact.train_flops == pytest.approx(2.05e24, rel=2e-3)
    assert full.train_flops == pytest.approx(2.20e24, rel=2e-3)
    assert six.train_flops == pytest.approx(1.967e24, rel=1e-3)
    for each in (exact, full, six):
        assert each.tokens * each.flops_per_token == pytest.approx(cluster.hardware_flops)
        assert each.days == pytest.approx(75 * 1e13 / each.tokens)


def test_the_command_takes_a_plan_or_a_config(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    path = tmp_path / "plan.yaml"
    plan = training_plan(PROXY)
    plan.save(path)
    told = json.loads(run_cli("--gpus", 8, "--days", 1, "--mfu", 0.4, "--model", path, "--json").stdout)
    assert told["costs"][0]["train_flops"] == pytest.approx(plan.budget.train_flops)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "llama", "vocab_size": 100, "hidden_size": 64, "intermediate_size": 128,
                                  "num_hidden_layers": 2, "num_attention_heads": 4}))  # fmt: skip
    result = run_cli("--gpus", 8, "--days", 1, "--tflops", 384, "--model", config, "--tokens", "1e9")
    assert result.exit_code == 0, result.output
    assert "6 N D, N active parameters" in result.output
    assert max(len(line) for line in result.output.splitlines()) <= 80


def test_tokens_need_a_model():
    result = run_cli("--gpus", 8, "--days", 1, "--tokens", "1e9")
    assert result.exit_code == 2
    assert "--tokens needs the --model" in result.output


@pytest.mark.parametrize("text", ["1e21", "1_000", "2.5E24"])
def test_budgets_as_people_write_them(text):
    assert positive_flops(text) > 0


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "lots", ""])
def test_a_budget_that_is_none_is_refused(text):
    with pytest.raises(UserError, match="--flops is"):
        positive_flops(text)


@pytest.mark.parametrize("cluster", [(0, "h200", 75, 0.4), (8, "h2000", 1, 0.4), (8, "h200", 1, 1.4)])
def test_a_cluster_that_is_none_is_refused(cluster):
    with pytest.raises(UserError):
        cluster_budget(*cluster)
