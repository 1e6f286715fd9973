"""One question, one plan: the same search by the team's own law or by a published one."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fits import Fit
from fits.errors import UserError, check_level
from scaling.cluster.layout.search import search_layouts
from scaling.plan import Cluster, TrainingPlan
from scaling.planner.constraints import KEPT, constraints_of, ranges_of_law
from scaling.planner.law_runs import (
    about_vocabulary,
    bytes_of_runs,
    length_of_runs,
    space_of_runs,
    vocabularies_of_runs,
)
from scaling.planner.loss_model import BytesPerToken, LossModel, Text, fitted_loss_model, require_choice
from scaling.planner.make_plan import Context, draft, tao_vocabulary, with_reasons
from scaling.planner.published_loss_models import published_loss_model
from scaling.planner.search import Search, Spending, candidates, search
from scaling.planner.search_space import ROUTING, SearchSpace, dense_space, space_of_sweep, usual_space
from trainer_small.config import RunSpec
from trainer_small.ladder import Experts
from trainer_small.sweeps.sweep import Sweep
from vocab_study.study.study import Study

PUBLISHED = "published:"


def plan_for(
    law: str,
    train_flops: float,
    *,
    cluster: Cluster | None = None,
    sweep_file: str | Path | None = None,
    study_directory: str | Path | None = None,
    bytes_per_token: float | None = None,
    vocab_size: int | None = None,
    sequence_length: int | None = None,
    constraints_file: str | Path | None = None,
    max_params_total: float | None = None,
    max_params_active: float | None = None,
    max_decode_seconds: float | None = None,
    inference_tokens: float | None = None,
    unique_tokens: float | None = None,
    gpu: str | None = None,
    ramp: bool = False,
    level: float = 0.9,
    name: str = "plan",
) -> TrainingPlan:
    """The plan for a budget.

    Args:
        law: path of a law.json, or ``published:NAME`` (``loss_model_names`` lists them).
        train_flops: FLOPs to spend, by the exact count.
        cluster: where the budget came from; the plan must then have a layout on it.
        sweep_file: the sweep behind the law: the routing choices and vocabularies it tried, and its recipe.
        study_directory: the vocabulary study, when the law counts data in bytes.
        bytes_per_token: of the big run's tokenizer, where there is no study; by default as the law's runs had it.
        vocab_size: hold the vocabulary here.
        sequence_length: of the big run; by default the proxies', or 4096.
        constraints_file: a ``SearchSpace`` in YAML instead of the sweep's choices.
        max_params_total, max_params_active: caps.
        max_decode_seconds: cap on GPU-seconds to generate a million tokens.
        inference_tokens: tokens to be served, paid from the same budget at 2 FLOPs an active parameter.
        unique_tokens: tokens there are; repeats count less (arXiv 2305.16264).
        gpu: for the cost of serving; the cluster's by default.
        ramp: whether the batch grows at the start (not every stack can do that).
        level: of the intervals.

    Raises:
        UserError: a file is missing or malformed, the law is unknown or cannot answer, or nothing fits.
    """
    check_level(level)
    if sequence_length is not None and sequence_length <= 0:
        raise UserError(f"sequence_length is {sequence_length}; it must be above 0.")
    loss_model = _loss_model(law)
    require_choice(loss_model)
    sweep = Sweep.load(sweep_file) if sweep_file else None
    study = Study.load(study_directory) if study_directory else None
    space, remarks = _space(loss_model, law, sweep, constraints_file)
    changes = {
        "vocab_size": None if vocab_size is None else (vocab_size,),
        "max_params_total": max_params_total,
        "max_params_active": max_params_active,
        "max_decode_seconds": max_decode_seconds,
        "inference_tokens": inference_tokens,
        "unique_tokens": unique_tokens,
    }
    space = SearchSpace.parse(
        dict(space) | {key: value for key, value in changes.items() if value is not None}, "constraints"
    )
    reference = reference_run(sweep) if sweep else None
    length = sequence_length or (reference.training.sequence_length if reference else None)
    if length is None:
        length, unsaid = length_of_runs(loss_model)
        remarks = (*remarks, *unsaid)
    text = Text(length, space.unique_tokens, _bytes_per_token(study, bytes_per_token, loss_model))
    spending = Spending(train_flops, text, space.inference_tokens)
    gpu = gpu or (cluster.gpu if cluster else "h200")
    extra = ranges_of_law(loss_model) if loss_model.fit and not sweep else []

    def found_in(space: SearchSpace) -> Search:
        constraints = [*constraints_of(space, train_flops, gpu, cluster.gpus if cluster else None), *extra]
        return search(loss_model, candidates(space, spending, constraints))

    found, vocabulary = _with_vocabulary(loss_model, space, found_in)
    remarks = (*remarks, *about_vocabulary(loss_model, found.shape.vocab_size))
    context = Context(
        name=name,
        level=level,
        gpu=gpu,
        cluster=cluster,
        reference=reference,
        law_file=law if loss_model.fit else None,
        tokenizer_file=(lambda size: str(study.tokenizer_file(size))) if study else (lambda size: None),
        vocabulary=vocabulary,
        corpus=sweep.corpus if sweep else None,
        ramp=ramp,
        remarks=remarks,
    )
    if cluster is None:
        return _checked(with_reasons(draft(found, context), found, context))

    found, plan = with_layout(found, cluster, lambda each: draft(each, context))
    return _checked(with_reasons(plan, found, context))


def _bytes_per_token(study: Study | None, given: float | None, loss_model: LossModel) -> BytesPerToken | None:
    if given is not None:
        if study:
            raise UserError("bytes a token are given twice, by the study and by --bytes-per-token; leave one out.")
        if not given > 0:
            raise UserError(f"--bytes-per-token is {given:g}; it must be above 0.")
        return lambda size: given
    return (lambda size: study.bytes_per_token(size, split="train")) if study else bytes_of_runs(loss_model.fit)


def reference_run(sweep: Sweep) -> RunSpec:
    """The proxy whose recipe is carried over: the most expensive one."""
    return max(sweep.runs, key=lambda run: run.train_flops)


def _loss_model(law: str) -> LossModel:
    return (
        published_loss_model(law.removeprefix(PUBLISHED))
        if law.startswith(PUBLISHED)
        else fitted_loss_model(Fit.load(law))
    )


def _space(
    loss_model: LossModel, law: str, sweep: Sweep | None, constraints_file: str | Path | None
) -> tuple[SearchSpace, tuple[str, ...]]:
    """The choices, from the user's file, the sweep or the usual ones, and what has to be said about them."""
    dense = loss_model.holds == "num_experts == 0"
    if constraints_file:
        space, remarks = SearchSpace.load(constraints_file), ()
        if not (space.experts or space.num_experts):
            defaults, remarks = (dense_space(space), ()) if dense else _defaults(loss_model)
            left = [key for key in ROUTING if key not in space.model_fields_set]
            space = space.model_copy(update={key: getattr(defaults, key) for key in left})
        if dense and not space.is_dense:
            raise UserError(
                f"{constraints_file} asks for experts, and law '{loss_model.name}' is of dense models, with no term "
                "for them; leave the routing out or take a law of mixtures of experts, such as published:tian."
            )
        if space.is_free and not loss_model.sees_experts and not dense:
            raise UserError(_blind(loss_model, f"{constraints_file} gives several numbers of experts"))
        return space, remarks
    if sweep:
        space = space_of_sweep(sweep)
        if not loss_model.sees_experts and len(space.experts) > 1:
            held = _commonest(sweep, space)
            remark = (
                f"law '{loss_model.name}' does not see the experts, so the routing is held at that of most proxies: "
                f"{held.num_experts} experts, top {held.experts_per_token}, G {held.granularity:g}"
            )
            return space.model_copy(update={"experts": (held,)}), (remark,)
        return space, ()
    if dense:
        return dense_space(SearchSpace(depth_factors=usual_space().depth_factors)), ()
    return _defaults(loss_model)


def _defaults(loss_model: LossModel) -> tuple[SearchSpace, tuple[str, ...]]:
    """The choices when nobody gives any: those of the law's runs, or of published models."""
    return space_of_runs(loss_model) if loss_model.fit else (usual_space(), ())


def _blind(loss_model: LossModel, what: str) -> str:
    return (
        f"law '{loss_model.name}' has no term for experts and cannot choose among them, and {what}; give the one "
        "routing of its runs with --constraints or --sweep, or fit a law that sees them, such as moe-power."
    )


def _commonest(sweep: Sweep, space: SearchSpace) -> Experts:
    """The routing that most runs of a sweep have."""
    keys = ("num_experts", "experts_per_token", "num_shared_experts")
    runs = Counter(
        (*(getattr(r.architecture, k) for k in keys), round(r.architecture.granularity, 3)) for r in sweep.runs
    )
    return max(space.experts, key=lambda each: runs[(*(getattr(each, key) for key in keys), each.granularity)])


def _with_vocabulary(
    loss_model: LossModel, space: SearchSpace, found_in: Callable[[SearchSpace], Search]
) -> tuple[Search, str]:
    """The search at the vocabulary given, among those given, or at what Tao et al. advise for the shape it finds.

    Raises:
        UserError: the law cannot choose a vocabulary, and none is held.
    """
    sees = "vocab_size" in loss_model.sees
    if len(space.vocab_size) > 1 and not sees:
        raise UserError(
            f"law '{loss_model.name}' does not see the vocabulary, so it cannot choose among {list(space.vocab_size)}; "
            "hold it with --vocab-size, at the size that the law's runs had."
        )
    if space.vocab_size:
        several = len(space.vocab_size) > 1
        return found_in(space), f"chosen by the law among {list(space.vocab_size)}" if several else "given"
    if loss_model.fit:
        sizes = vocabularies_of_runs(loss_model)
        if not sizes:
            raise UserError(
                f"the record of law '{loss_model.name}' has no vocabulary that its runs shared; give its size with "
                "--vocab-size."
            )
        source = f"chosen by the law among {list(sizes)}" if len(sizes) > 1 else "as the law's runs had it"
        return found_in(space.model_copy(update={"vocab_size": sizes})), source
    found = found_in(space.model_copy(update={"vocab_size": (131072,)}))
    for _ in range(2):  # the advice on the vocabulary depends on the shape it is for
        size = tao_vocabulary(found.shape.params_active_non_embedding, found.shape.hidden_size)
        found = found_in(space.model_copy(update={"vocab_size": (size,)}))
    return found, "arXiv 2407.13623, approach 2, on active parameters; x 128"


def _checked(plan: TrainingPlan) -> TrainingPlan:
    """The plan built up by copies, validated as its file would be."""
    return TrainingPlan.model_validate(dict(plan))


_SMALLER = 0.93
"""Where no layout holds a shape, those above this share of its parameters are given up too."""


def with_layout(
    found: Search, cluster: Cluster, plan_of: Callable[[Search], TrainingPlan]
) -> tuple[Search, TrainingPlan]:
    """The best shape that some layout of the cluster holds, and its plan with the fastest layout.

    Raises:
        UserError: none does; says what the smallest one tried is short of.
    """
    while True:
        plan = plan_of(found)
        try:
            return found, _fastest(plan, cluster)
        except UserError as error:
            smaller = found.table.params_total < _SMALLER * plan.model.params_total
            if not (smaller & (found.candidates.verdict == KEPT)).any():
                raise UserError(str(error)) from None
        found = search(found.loss_model, found.candidates.among(np.flatnonzero(smaller)))


def _fastest(plan: TrainingPlan, cluster: Cluster) -> TrainingPlan:
    """The plan with its fastest layout; without the ramp where only the full batch divides over the ranks."""
    layouts = search_layouts(plan, cluster.gpus, cluster.gpu)
    if plan.batch_ramp and not len(layouts.feasible):
        plan = plan.model_copy(update={"batch_ramp": None})
        layouts = search_layouts(plan, cluster.gpus, cluster.gpu)
    return layouts.in_plan(plan, layouts.best)
