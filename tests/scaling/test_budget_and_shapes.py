import pytest

from fits.errors import UserError
from scaling.budget import cluster_budget, positive_flops
from scaling.shapes import SearchSpace, candidates, widths
from trainer_small.ladder import Experts, usual_depth


def test_axk1_cluster_gives_the_reported_budget():
    cluster = cluster_budget(1024, "H200", 75, 384 / 989)
    assert cluster.hardware_flops == pytest.approx(2.548e24, rel=1e-3)
    assert cluster.gpu_hours == 1024 * 75 * 24


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


def space(**changes):
    experts = [Experts(num_experts=e, experts_per_token=2, num_shared_experts=1, granularity=2) for e in (4, 8)]
    return SearchSpace.model_validate({"experts": experts, "vocab_size": (2048,), **changes})


def test_every_candidate_is_inside_the_constraints():
    shapes = list(candidates(space(max_params_total=2e6), 1e15, 256))
    assert shapes
    for shape, experts in shapes:
        assert shape.params_total <= 2e6
        assert shape.num_experts == experts.num_experts
        assert shape.granularity == pytest.approx(2, rel=0.2)


def test_constraints_that_leave_nothing_say_so():
    with pytest.raises(UserError, match="no shape fits"):
        list(candidates(space(max_params_total=1000), 1e15, 256))


def test_depth_follows_width_up_to_the_published_large_models():
    assert usual_depth(7168) == pytest.approx(61, abs=1)
    assert all(width % 16 == 0 for width in widths())
