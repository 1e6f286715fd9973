import pytest

from fits.errors import UserError
from vocab_study.predictors import compute_optimal_flops, predict

# N outside the vocabulary, d, compute-optimal FLOPs, V by approaches 1, 2, 3: what the authors' released code prints.
RELEASED = [
    (302e6, 1024, 1.312666e19, 18183, 19527, 15758),
    (2.87e9, 3200, 1.185507e21, 37942, 40993, 35271),
    (3e9, 3200, 1.295338e21, 39367, 42538, 36648),
    (7e9, 4096, 7.052393e21, 62280, 67450, 59547),
    (13e9, 5120, 2.432356e22, 83429, 90503, 81347),
    (30e9, 6048, 1.295338e23, 141711, 154071, 141898),
    (70e9, 8192, 7.052393e23, 211860, 230861, 217961),
    (130e9, 12288, 2.432356e24, 236500, 258138, 248187),
    (300e9, 16384, 1.295338e25, 355894, 389324, 383659),
]
BUDGETS = {0.2: 10187, 0.5: 13055, 1: 15758, 2: 19032, 4: 23002, 6: 25707}


@pytest.mark.parametrize("row", RELEASED, ids=lambda row: f"{row[0]:.3g}")
def test_the_published_code_is_reproduced_to_one_token(row):
    params, hidden_size, flops, *sizes = row
    assert compute_optimal_flops(params) == pytest.approx(flops, rel=1e-6)
    assert [answer.vocab_size for answer in predict(params, hidden_size)] == pytest.approx(sizes, abs=1)


@pytest.mark.parametrize(("multiple", "size"), BUDGETS.items())
def test_approach_3_at_other_budgets(multiple, size):
    flops = multiple * compute_optimal_flops(302e6)
    assert predict(302e6, 1024, flops)[2].vocab_size == pytest.approx(size, abs=1)


def test_the_case_of_ax_k1():
    sizes = [answer.vocab_size for answer in predict(30.65e9, 7168)]
    assert sizes == pytest.approx([121_722, 132_347, 121_967], abs=1)


def test_outside_the_range_it_warns():
    assert not any("range" in warning for warning in predict(302e6, 1024)[0].warnings)
    assert all(any("range" in warning for warning in answer.warnings) for answer in predict(70e9, 8192))


@pytest.mark.parametrize("arguments", [(0, 512), (1e9, -1), (1e9, 2048, 0.0), (float("nan"), 512)])
def test_numbers_that_are_none_are_refused(arguments):
    with pytest.raises(UserError, match="must be above 0"):
        predict(*arguments)
