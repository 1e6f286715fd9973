"""The search against doing it the slow way: one architecture at a time, every draw on every shape."""

import math

import numpy as np
import pytest

from fits import Fit
from fits.errors import UserError
from fits.laws.coefficients import published
from scaling.cluster.serving import decode_seconds
from scaling.planner.binding_constraints import binding_constraints
from scaling.planner.constraints import constraints_of
from scaling.planner.loss_model import Text, fitted_loss_model, law_variables
from scaling.planner.pareto_front import pareto_front
from scaling.planner.published_loss_models import loss_model_names, published_loss_model
from scaling.planner.search import FLAT, Search, Spending, candidates, search
from scaling.planner.search_space import SearchSpace, dense_space, space_of_sweep
from scaling.planner.sensitivity import sensitivity
from tests.scaling.plans import DEEPSEEK_LIKE
from tests.scaling.report.report_folder import made_once
from trainer_small.architecture import Architecture
from trainer_small.ladder import Family
from trainer_small.sweeps.sweep import Sweep
from vocab_study.study.study import Study

FLOPS = 1e15
AXK1 = Architecture.model_validate(DEEPSEEK_LIKE | {"moe_output_norm": True})


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    return made_once(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def bytes_per_token(road):
    study = Study.load(road / "study")
    return lambda size: study.bytes_per_token(size, split="train")


@pytest.fixture(scope="module")
def law(road):
    return Fit.load(road / "law.json")


@pytest.fixture(scope="module")
def found(road, law, bytes_per_token) -> Search:
    space = space_of_sweep(Sweep.load(road / "sweep.yaml")).model_copy(update={"max_params_total": 5e6})
    return searched(law, space, Text(128, None, bytes_per_token))


def searched(law: Fit, space: SearchSpace, text: Text, inference_tokens: float = 0.0) -> Search:
    spending = Spending(FLOPS, text, inference_tokens)
    return search(fitted_loss_model(law), candidates(space, spending, constraints_of(space, spending.flops, "h200")))


def loss_of(law: Fit, shape: Architecture, tokens: float, bytes_per_token) -> float:
    return law.predict(**{k: float(v) for k, v in law_variables(law, shape, tokens, bytes_per_token).items()})


def test_every_loss_is_the_laws_own_for_that_architecture(found, law, bytes_per_token):
    for row in range(0, len(found.table), 17):
        loss = loss_of(law, found.table.architecture(row), found.tokens[row], bytes_per_token)
        assert found.loss[row] == pytest.approx(loss, rel=1e-12)


def test_the_chosen_shape_is_within_one_percent_of_compute_of_the_best(found):
    assert found.loss[found.lowest] == found.loss[found.allowed].min()
    assert found.best in found.flat
    assert -FLAT - 1e-6 <= found.regret(found.lowest)[0] <= 0
    regrets = found.regret(np.flatnonzero(found.allowed), to=found.lowest)
    assert (
        set(np.flatnonzero(found.allowed)[regrets <= FLAT - 1e-9])
        <= set(found.flat)
        <= set(np.flatnonzero(found.allowed)[regrets <= FLAT + 1e-9])
    )


def test_regret_is_the_compute_that_makes_up_for_the_choice(found, law, bytes_per_token):
    rows = np.flatnonzero(found.allowed)[::11]
    for row, regret in zip(rows, found.regret(rows), strict=True):
        if math.isfinite(regret):
            shape, tokens = found.table.architecture(row), found.tokens[row] * (1 + regret)
            assert loss_of(law, shape, tokens, bytes_per_token) == pytest.approx(found.loss[found.best], rel=1e-9)


def test_each_draw_finds_the_best_of_all_shapes(found, law):
    rows = np.flatnonzero(found.allowed)
    everything = found.loss_model.draws(found.table.take(rows), found.tokens[rows], found.text)
    assert len(found.contenders) <= len(rows)
    chosen = [everything[draw, np.flatnonzero(rows == row)[0]] for draw, row in enumerate(found.best_of_draws)]
    np.testing.assert_allclose(chosen, everything.min(axis=1), rtol=1e-9)
    low, high = found.decision_interval("params_active", 0.9)
    assert low <= high


def test_a_limit_that_binds_says_what_loosening_it_buys(found, road, law, bytes_per_token):
    caps = {each.constraint: each for each in binding_constraints(found, 0.9)}
    cap = caps["max_params_total"]
    assert cap.relaxed_to == 1.5 * 5e6
    space = space_of_sweep(Sweep.load(road / "sweep.yaml")).model_copy(update={"max_params_total": 7.5e6})
    looser = searched(law, space, found.text)
    again = looser.regret_of(
        looser.table.take([looser.lowest]), looser.tokens[looser.lowest] * (1 - cap.gain), to=looser.lowest
    )
    less = looser.loss_model.loss(
        looser.table.take([looser.lowest]), looser.tokens[[looser.lowest]] * (1 - cap.gain), looser.text
    )
    assert less[0] == pytest.approx(found.loss[found.lowest], rel=1e-9)
    assert again[0] > 0
    assert cap.low is not None
    assert cap.high is not None
    assert cap.low <= cap.high


def test_a_limit_that_nothing_touches_does_not_bind(road, law, bytes_per_token):
    space = space_of_sweep(Sweep.load(road / "sweep.yaml")).model_copy(update={"max_params_total": 1e12})
    assert not [*binding_constraints(searched(law, space, Text(128, None, bytes_per_token)), 0.9)]


def test_scarce_text_counts_as_the_law_of_repeats_says(found, road, law, bytes_per_token):
    text = Text(128, 1e7)
    tokens = np.array([5e6, 1e7, 4e7, 4.4e8])
    np.testing.assert_allclose(text.effective(tokens) / tokens, [1, 1, 0.931, 0.351], rtol=2e-3)
    space = space_of_sweep(Sweep.load(road / "sweep.yaml"))
    plenty, scarce = (searched(law, space, Text(128, unique, bytes_per_token)) for unique in (None, 1e7))
    assert scarce.loss[scarce.best] > plenty.loss[plenty.best]
    assert scarce.tokens[scarce.lowest] < plenty.tokens[plenty.lowest]
    assert any(each.constraint == "unique_tokens" and each.gain > 0 for each in binding_constraints(scarce, 0.9))


def test_serving_asks_for_a_smaller_model(road, law, bytes_per_token):
    space, text = space_of_sweep(Sweep.load(road / "sweep.yaml")), Text(128, None, bytes_per_token)
    none, much = searched(law, space, text), searched(law, space, text, inference_tokens=5e8)
    assert much.table.params_active[much.lowest] < none.table.params_active[none.lowest]


def test_no_point_of_the_front_is_beaten(found):
    front = pareto_front(found, "h200")
    costs = np.array([[p.loss, p.train_flops, p.params_total, p.decode_seconds] for p in front])
    for cost in costs:
        assert not ((costs <= cost).all(axis=1) & (costs < cost).any(axis=1)).any()
    assert min(point.loss for point in front) == pytest.approx(found.loss[found.lowest], rel=1e-12)
    assert len({point.train_flops for point in front}) == 4


def test_a_neighbour_changes_one_number(found):
    changes = [*sensitivity(found, 0.9)]
    assert {each.choice for each in changes} >= {"hidden_size", "num_layers", "vocab_size", "experts"}
    for each in changes:
        own = getattr(found.shape, each.choice, None)
        assert own is None or each.value != own
        if each.regret is not None and each.low is not None:
            assert each.high is None or each.low <= each.high


def test_a_granularity_that_a_width_s_rounding_made_is_no_neighbour_of_its_own():
    """512 experts of a 3328 wide model at G = 8 come out as 8.67: a row of its own would cost what the width costs."""
    asked = np.array([6.0, 8.0, 10.0, 12.0])
    space = SearchSpace.parse(
        {
            "hidden_size": [3328, 4608, 5120, 5632],
            "num_experts": [512],
            "experts_per_token": [10],
            "granularity": asked.tolist(),
            "vocab_size": [88832],
            "family": {"attention": "mla"},
            "max_params_total": 520e9,
        },
        "constraints",
    )
    found = search(
        published_loss_model("tian"),
        candidates(space, Spending(2.546e24, Text(4096)), constraints_of(space, 2.546e24, "h200", None)),
    )
    assert (np.abs(found.column("granularity") - 8.667) < 0.01).any()
    nearest = np.abs(np.log(found.column("granularity")[:, None] / asked)).argmin(axis=1)
    changes = [each for each in sensitivity(found, 0.9) if each.choice == "granularity"]
    assert changes
    for each in changes:
        rows = np.flatnonzero(found.allowed & (nearest == np.abs(np.log(each.value / asked)).argmin()))
        assert each.regret == pytest.approx(found.regret(rows).min())


# Published laws


def test_leverage_prices_the_published_model_as_its_paper_says():
    """EL(9/193, 7, 2.548e24) = 9.77, with the law's own C: training FLOPs without embeddings."""
    loss_model, text = published_loss_model("tian"), Text(4096)
    per_token = AXK1.flops_per_token(4096) - 6 * 163840 * 7168
    size = loss_model.variables(AXK1, 2.548e24 / per_token, text)["N"]
    assert float(size) / (per_token / 6) == pytest.approx(9.77, rel=0.01)


def test_each_law_takes_its_own_count_of_the_same_model():
    tokens, text = 1e13, Text(4096)
    asked = {
        name: published_loss_model(name).variables(AXK1, tokens, text) for name in ("joint-moe", "abnar", "krajewski")
    }
    assert float(asked["joint-moe"]["N"]) == AXK1.params_active
    assert float(asked["joint-moe"]["E"]) == pytest.approx(193 / 9)
    assert float(asked["abnar"]["N"]) == AXK1.params_total
    assert float(asked["abnar"]["S"]) == pytest.approx(184 / 192)
    assert float(asked["krajewski"]["N"]) == AXK1.params_total_non_embedding
    assert float(asked["krajewski"]["G"]) == pytest.approx(2 * AXK1.granularity)


def test_the_dense_optimum_of_the_search_is_the_allocation_of_the_law():
    """Besiroglu's law at 1e22 FLOPs: the search over real shapes finds what the continuous allocation finds."""
    from fits.decisions.allocation import optimal_allocation, surface

    space = dense_space(SearchSpace(vocab_size=(32000,)))
    spending = Spending(1e22, Text(2048))
    best = search(
        published_loss_model("besiroglu"), candidates(space, spending, constraints_of(space, spending.flops, "h200"))
    )
    smooth = optimal_allocation(surface(published("besiroglu")), 1e22)
    assert best.loss[best.lowest] == pytest.approx(smooth.loss.value, rel=2e-3)
    assert best.table.params_active[best.lowest] == pytest.approx(smooth.size.value, rel=0.2)
    assert not best.shape.is_moe


def test_every_priced_law_is_finite_on_a_model_that_it_holds_for():
    dense = Family().shape(
        4096,
        32,
        dense_space(SearchSpace()).experts[0],
        128256,
    )
    for name in loss_model_names():
        loss_model = published_loss_model(name)
        shape = dense if loss_model.holds == "num_experts == 0" else AXK1
        assert np.isfinite(loss_model.loss(shape, 1e12, Text(4096))), name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hunyuan", "gives params, tokens and no loss"),
        ("tian-learning-rate", "gives learning_rate and no loss"),
        ("clark-s-base", "does not see tokens"),
        ("tiann", "did you mean 'tian'"),
    ],
)
def test_a_law_that_cannot_price_a_shape_says_what_it_gives(name, words):
    with pytest.raises(UserError) as caught:
        published_loss_model(name)
    assert words in str(caught.value)
    assert "besiroglu" in str(caught.value)


def test_decode_reads_every_visited_weight_and_the_cache():
    """By hand for a dense model: 2 bytes a weight shared by 256 sequences, and each one's own cache."""
    dense = Family().shape(4096, 32, dense_space(SearchSpace()).experts[0], 32000)
    weights = 2 * (dense.params_total - 32000 * 4096) / 256
    cache = 8192 * 32 * 2 * dense.num_key_value_heads * 128 * 2
    assert decode_seconds(dense, "h200") == pytest.approx(1e6 * (weights + cache) / 4.8e12, rel=1e-9)
