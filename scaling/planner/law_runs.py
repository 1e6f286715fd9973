"""What a plan takes from the runs behind its law where nobody says otherwise: routing, vocabulary, sequence length.

A law holds for runs like its own. Their table's constants are in the law's record (``fits.tables.settings``).
"""

from collections.abc import Iterator

import numpy as np

from fits import Fit
from fits.errors import UserError
from scaling.planner.loss_model import BytesPerToken, LossModel
from scaling.planner.search_space import SearchSpace, dense_space, usual_space
from trainer_small.ladder import Experts, Family

_USUAL_LENGTH = 4096
_VOCABULARIES = 9
"""Sizes that are tried between the smallest and the largest of the runs."""


def space_of_runs(loss_model: LossModel) -> tuple[SearchSpace, tuple[str, ...]]:
    """The choices of published models that the law's runs speak of, and what has to be said about them.

    Raises:
        UserError: the law does not see the experts, and its runs do not say which routing they had.
    """
    fit = loss_model.fit
    assert fit is not None
    # Total parameters alone tell more experts from fewer, but not how far the runs went.
    by_total_alone = not loss_model.sees & {"activation_ratio", "num_experts", "experts_per_token", "granularity"}
    if not loss_model.sees_experts or by_total_alone or _are_dense(fit):
        return _held_routing(loss_model, fit)
    same = fit.constants
    if {"num_experts", "experts_per_token", "granularity"} <= set(same):
        return _one_routing(same), ()
    usual = usual_space(Family())
    held = {
        name: (same[name],)
        for name in ("num_experts", "experts_per_token", "num_shared_experts", "granularity", "num_dense_layers")
        if name in same
    }
    space = usual.model_copy(update={**held, "family": _family(same)})
    ratios = [
        2 * (visited + shared) / granularity
        for visited in space.experts_per_token
        for shared in space.num_shared_experts
        for granularity in space.granularity
    ]
    low, high = space.active_ffn_ratio
    if held and not any(low <= ratio <= high for ratio in ratios):  # these runs' own are what the law knows
        space = space.model_copy(update={"active_ffn_ratio": (min(ratios), max(ratios))})
    return SearchSpace.parse(dict(space), "constraints"), ()


def _are_dense(fit: Fit) -> bool:
    """Whether the law's runs had no experts, as far as its record says."""
    return (fit.commonest | fit.constants).get("num_experts") == 0 or any(
        each.means == "1/activation_ratio" and each.high == 1 for each in fit.variables
    )


def _held_routing(loss_model: LossModel, fit: Fit) -> tuple[SearchSpace, tuple[str, ...]]:
    """The one routing at which a law that does not see the experts can be asked."""
    most = fit.commonest | fit.constants
    none = _are_dense(fit)
    if none or not {"num_experts", "experts_per_token"} & set(most):
        remark = (
            f"the table behind law '{loss_model.name}' says nothing of experts, so dense models are planned; give the "
            "routing of its runs with --constraints if they had any"
        )
        return dense_space(SearchSpace(depth_factors=usual_space().depth_factors)), () if none else (remark,)
    lacks = [name for name in ("num_experts", "experts_per_token", "granularity") if name not in most]
    if lacks:
        raise UserError(
            f"law '{loss_model.name}' has no term for experts and cannot choose among them, and the table of its runs "
            f"does not give {' and '.join(lacks)}; give the one routing of its runs with --constraints."
        )
    varied = [name for name in fit.commonest if name in ("num_experts", "experts_per_token", "granularity")]
    remark = (
        f"law '{loss_model.name}' does not see the experts, so the routing is held at that of most runs: "
        f"{most['num_experts']:g} experts, top {most['experts_per_token']:g}, G {most['granularity']:.3g}"
    )
    return _one_routing(most), (remark,) if varied else ()


def _one_routing(same: dict[str, float]) -> SearchSpace:
    routing = Experts.model_validate(
        {name: same[name] for name in ("num_experts", "experts_per_token", "granularity")}
        | {"num_shared_experts": same.get("num_shared_experts", 0)}
    )
    return SearchSpace(experts=(routing,), depth_factors=usual_space().depth_factors, family=_family(same))


def _family(same: dict[str, float]) -> Family:
    return Family.model_validate({"num_dense_layers": same["num_dense_layers"]} if "num_dense_layers" in same else {})


def length_of_runs(loss_model: LossModel) -> tuple[int, tuple[str, ...]]:
    """The sequence length of the law's runs, or what most models are trained with, and what has to be said then."""
    known = (loss_model.fit.commonest | loss_model.fit.constants).get("sequence_length") if loss_model.fit else None
    if known:
        return int(known), ()
    remark = (
        f"the law's record has no sequence length of its runs; {_USUAL_LENGTH} is taken, --sequence-length says other"
    )
    return _USUAL_LENGTH, (remark,) if loss_model.fit else ()


def vocabularies_of_runs(loss_model: LossModel) -> tuple[int, ...]:
    """Sizes to choose from: between the runs' smallest and largest when the law sees the vocabulary, else theirs."""
    fit = loss_model.fit
    assert fit is not None
    for each in fit.variables:
        if each.means == "vocab_size" and each.low < each.high:
            return tuple(sorted({round(size) for size in np.geomspace(each.low, each.high, _VOCABULARIES)}))
    size = (fit.commonest | fit.constants).get("vocab_size")
    return (int(size),) if size else ()


def about_vocabulary(loss_model: LossModel, vocab_size: int) -> Iterator[str]:
    """What has to be said when a plan's vocabulary is not that of the law's runs."""
    fit = loss_model.fit
    runs = fit.constants.get("vocab_size") if fit else None
    if runs and runs != vocab_size and "vocab_size" not in loss_model.sees and loss_model.quantity == "loss":
        yield (
            f"the law's runs had a vocabulary of {runs:.0f}, the plan has {vocab_size}: a loss per token of another "
            "tokenizer does not compare"
        )


def bytes_of_runs(fit: Fit | None) -> BytesPerToken | None:
    """Bytes of text a token as the table of the law's runs had them, between its vocabularies in the logarithm."""
    if fit is None or not fit.bytes_per_token:
        return None
    sizes = np.array(sorted(fit.bytes_per_token), dtype=float)
    rates = [fit.bytes_per_token[int(size)] for size in sizes]

    def bytes_per_token(size: int) -> float:
        if not sizes[0] / 1.02 <= size <= sizes[-1] * 1.02:
            raise UserError(
                f"law '{fit.law}': its runs say how many bytes a token is for vocabularies of {sizes[0]:.0f} to "
                f"{sizes[-1]:.0f}, not {size}; give the vocabulary study with --vocab-study, or --bytes-per-token."
            )
        return float(np.interp(np.log(size), np.log(sizes), rates))

    return bytes_per_token
