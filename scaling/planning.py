"""One question, one plan: by the team's own law when there is one, else by published laws."""

from pathlib import Path

from fits.errors import UserError
from scaling.plan import Cluster, TrainingPlan

PUBLISHED = "published:"


def plan_for(
    law: str,
    train_flops: float,
    *,
    cluster: Cluster | None = None,
    sweep_file: str | Path | None = None,
    study_directory: str | Path | None = None,
    vocab_size: int | None = None,
    sequence_length: int | None = None,
    constraints_file: str | Path | None = None,
    max_params_total: float | None = None,
    level: float = 0.9,
    name: str = "plan",
) -> TrainingPlan:
    """The plan for a budget.

    Args:
        law: path of a law.json, or ``published:tian``.
        train_flops: training FLOPs to spend, by the exact count.
        cluster: where the budget came from, for the record.
        sweep_file: the sweep behind the law: the routing choices and vocabularies it tried, and its recipe.
        study_directory: the vocabulary study, when the law counts data in bytes.
        vocab_size: hold the vocabulary here.
        sequence_length: of the big run; by default the proxies', or 4096 for published laws.
        constraints_file: a ``SearchSpace`` in YAML instead of the sweep's choices.
        max_params_total: cap on total parameters.
        level: of the intervals.

    Raises:
        UserError: a file is missing or malformed, the law is unknown, or nothing fits.
    """
    if law.startswith(PUBLISHED):
        from scaling.published_plan import plan_by_published_laws

        if law != f"{PUBLISHED}tian":
            raise UserError(f"--law is '{law}'; plans by published laws alone are made by published:tian.")
        return plan_by_published_laws(
            train_flops,
            cluster=cluster,
            sequence_length=sequence_length or 4096,
            vocab_size=vocab_size,
            max_params_total=max_params_total,
            name=name,
        )
    if sweep_file is None:
        raise UserError(f"a plan by {law} needs --sweep, the sweep behind the law: its choices and its recipe.")
    from fits import Fit
    from scaling.fitted_plan import plan_from_fit, reference_run, space_of_sweep
    from scaling.shapes import SearchSpace
    from trainer_small.sweep import Sweep
    from vocab_study.study import Study

    sweep = Sweep.load(sweep_file)
    space = SearchSpace.load(constraints_file) if constraints_file else space_of_sweep(sweep)
    changes = {"vocab_size": (vocab_size,) if vocab_size else None, "max_params_total": max_params_total}
    space = space.model_copy(update={key: value for key, value in changes.items() if value})
    study = Study.load(study_directory) if study_directory else None
    return plan_from_fit(
        Fit.load(law),
        train_flops,
        space=space,
        reference=reference_run(sweep),
        sequence_length=sequence_length,
        bytes_per_token=(lambda size: study.bytes_per_token(size, split="train")) if study else None,
        tokenizer_file=(lambda size: str(study.tokenizer_file(size))) if study else (lambda size: None),
        cluster=cluster,
        law_file=law,
        level=level,
        name=name,
    )
