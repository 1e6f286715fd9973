import math

import numpy as np
import pandas as pd
import pytest

from fits.errors import UserError
from tests.places import SHARED
from vocab_study.choice.isoflop import (
    Slice,
    answer_from_runs,
    bootstrap_laws,
    common_budget,
    fit_law,
    isoflop_slices,
    model_optima,
    read_vocabulary_runs,
)
from vocab_study.choice.published_predictors import compute_optimal_flops

TAO = SHARED / "data" / "vocab_tao"


def made_runs(noise: float = 0.0, gamma: float = 0.7) -> pd.DataFrame:
    """Losses with a known best vocabulary, V d = 20 N**gamma, and a known fall with compute."""
    generator = np.random.default_rng(1)
    rows = []
    for params, hidden_size in ((1e8, 768), (4e8, 1024), (1.6e9, 2048)):
        best = math.log(20 * params**gamma / hidden_size)
        for size in np.geomspace(math.exp(best) / 4, math.exp(best) * 4, 8):
            for flops in np.geomspace(1e18, 1e20, 6):
                loss = 3 + 100 * flops**-0.1 + 0.02 * (math.log(size) - best) ** 2
                rows.append((params, hidden_size, size, flops, loss + noise * generator.normal()))
    return pd.DataFrame(rows, columns=["params", "hidden_size", "vocab_size", "flops", "loss"])


def test_a_known_law_comes_back():
    law = fit_law(isoflop_slices(made_runs(), lambda params: 1e19))
    assert law and law.gamma == pytest.approx(0.7, abs=1e-6) and law.coefficient == pytest.approx(20, rel=1e-4)
    assert law.vocab_size(1e9, 1000) == pytest.approx(20 * 1e9**0.7 / 1000, rel=1e-4)


def test_the_interval_holds_the_truth_under_noise():
    answer = answer_from_runs(made_runs(noise=1e-3), 7e9, 4096, draws=200)
    assert answer and answer.low < 20 * 7e9**0.7 / 4096 < answer.high
    assert answer == answer_from_runs(made_runs(noise=1e-3), 7e9, 4096, draws=200)


def test_runs_without_an_optimum_identify_nothing():
    runs = made_runs()
    falling = runs.assign(loss=3 - 0.1 * np.log(runs["vocab_size"]))
    assert answer_from_runs(falling, 7e9, 4096) is None
    assert answer_from_runs(runs[runs["params"] == 1e8], 7e9, 4096) is None


def test_the_common_budget_is_reached_by_every_curve():
    runs = made_runs()
    runs = runs.drop(runs[(runs["params"] == 1e8) & (runs["flops"] > 5e19)].index[:1])
    flops = common_budget(runs)
    assert flops(1e8) < flops(4e8) == pytest.approx(1e20)


def test_a_missing_column_is_named():
    with pytest.raises(UserError, match="no column 'loss'"):
        answer_from_runs(made_runs().drop(columns="loss"), 1e9, 1024)


def test_a_run_table_of_the_toolkit(tmp_path):
    runs = made_runs().round({"vocab_size": 0})
    table = runs.set_axis(
        ["params_active_non_embedding", "hidden_size", "vocab_size", "train_flops", "bits_per_byte"], axis=1
    )
    table.assign(loss=1.0, status="done", num_experts=8).to_csv(tmp_path / "runs.csv", index=False)
    assert np.allclose(read_vocabulary_runs(tmp_path / "runs.csv"), runs)
    assert len(read_vocabulary_runs(tmp_path / "runs.csv", "hidden_size == 768")) == 48


@pytest.fixture
def tao() -> pd.DataFrame:
    if not TAO.is_dir():
        pytest.skip("needs ../shared/data/vocab_tao")
    names = {"embed_dim": "hidden_size", "Non_vocab_parameters": "params", "FLOPs": "flops", "Lossu": "loss"}
    runs = pd.read_csv(TAO / "exp_data.csv").rename(columns=names)
    return runs[runs["params"] > 5e7]  # the smallest model has no optimum inside its sizes at its budget


def test_the_published_runs_read_directly(tao):
    slices = isoflop_slices(tao, compute_optimal_flops)
    assert [slice.vocab_size for slice in slices] == pytest.approx([10982, 12158, 19802, 22177, 21615], abs=1)
    law = fit_law(slices)
    assert law and law.gamma == pytest.approx(0.702, abs=5e-4)
    asked = ((3e9, 3200), (7e9, 4096), (70e9, 8192), (300e9, 16384))
    assert [law.vocab_size(*each) for each in asked] == pytest.approx([29040, 41138, 103659, 144047], abs=2)
    gammas = [drawn.gamma for drawn in bootstrap_laws(slices, draws=200)]
    low, high = np.quantile(gammas, [0.05, 0.95])
    assert len(gammas) == 200 and 0.55 < low < 0.702 < high < 0.85  # below the 0.835 of approach 2


def test_in_bits_per_character_the_optimum_hardly_grows(tao):
    entropy = pd.read_csv(TAO / "unigram_entropy.csv").set_index("vocab_size")["unigram_entropy_nats"]
    tokens = pd.read_csv(TAO / "tokens_per_char.csv").set_index("vocab_size")["tokens_per_char"]
    size = tao["vocab_size"].astype(int)
    bits = tao.assign(loss=size.map(tokens) * (tao["loss"] + size.map(entropy)) / math.log(2))
    slices = isoflop_slices(bits, compute_optimal_flops)
    assert [slice.vocab_size for slice in slices] == pytest.approx([19681, 29225, 25299, 23053, 17031], abs=1)


def repeated(shape, noise: float = 0.0) -> Slice:
    """Two runs at each of eight sizes from 256 to 32768; ``shape`` gives the loss at ln V."""
    generator = np.random.default_rng(3)
    log_sizes = np.repeat(np.log(np.geomspace(256, 32_768, 8)), 2)
    return Slice(1e6, 64, log_sizes, shape(log_sizes) + noise * generator.standard_normal(16))


def test_sizes_too_far_for_a_parabola_are_left_out_where_repeats_tell():
    best = math.log(6000)

    def steeper_above(x):
        return 2 + 0.01 * np.exp(1.2 * (x - best)) - 0.012 * (x - best)

    slice = repeated(steeper_above, noise=1e-3)
    near = slice.near_optimum()
    assert 4 <= len(np.unique(near.log_sizes)) < 8 and near.scatter < slice.scatter
    assert abs(math.log(near.vocab_size) - best) < abs(math.log(slice.vocab_size) - best)
    whole = repeated(lambda x: 2 + 0.02 * (x - best) ** 2, noise=1e-3)
    assert len(whole.near_optimum().losses) == 16  # a true parabola keeps all its sizes
    alone = Slice(1e6, 64, slice.log_sizes[::2], slice.losses[::2])
    assert alone.noise is None and alone.near_optimum() is alone


@pytest.mark.filterwarnings("error")
def test_two_sizes_have_no_optimum():
    (found,) = model_optima([Slice(1e6, 64, np.log([512.0, 512, 1024, 1024]), np.array([2.0, 2.1, 1.9, 1.95]))])
    assert found.vocab_size is None and found.identified == 0


@pytest.mark.slow
def test_the_interval_of_repeated_runs_holds():
    """Of 200 sweeps with noise, the 90 % interval holds the true best size in 84 to 96 %."""
    best, held = math.log(5000), 0
    log_sizes = np.repeat(np.log(np.geomspace(1024, 32_768, 6)), 2)
    for seed in range(200):
        noise = 0.004 * np.random.default_rng(seed).standard_normal(12)
        slice = Slice(1e6, 64, log_sizes, 2 + 0.02 * (log_sizes - best) ** 2 + noise)
        (found,) = model_optima([slice], draws=200)
        assert found.low and found.high
        held += found.low <= math.exp(best) <= found.high
    assert 168 <= held <= 192


def test_a_run_alone_counts_at_its_own_budget():
    runs = made_runs()
    last = runs[runs["flops"] > 9e19].copy()
    assert len(isoflop_slices(last, common_budget(last))) == 3
    assert isoflop_slices(last, lambda params: 1e19) == []
    seeds = pd.concat([last.assign(seed=0), last.assign(seed=1, loss=last["loss"] + 1e-4)])
    assert all(len(slice.losses) == 16 for slice in isoflop_slices(seeds, common_budget(seeds)))
    answer = answer_from_runs(seeds, 1.6e12, 4096, draws=50)
    assert answer and answer.decades_beyond == pytest.approx(3.0)
