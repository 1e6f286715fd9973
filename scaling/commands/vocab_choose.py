"""`scaling vocab choose`: the best vocabulary size by every predictor."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fits.errors import UserError
from scaling.commands.console import print_json
from scaling.commands.options import numbers, pairs, whole_numbers
from scaling.commands.vocab_tables import print_choice

if TYPE_CHECKING:
    import pandas as pd

    from vocab_study.choice.choice import VocabularyChoice
    from vocab_study.study.study import Study


def choose(
    *,
    study: Annotated[Path | None, typer.Option(help="The study whose text is to be paid for.")] = None,
    plan: Annotated[Path | None, typer.Option(help="Take the model and the budget from a plan.yaml.")] = None,
    params_active: Annotated[
        float | None, typer.Option(help="Parameters a token passes, both vocabulary matrices in.")
    ] = None,
    vocab_size: Annotated[
        int | None, typer.Option(help="The vocabulary counted in --params-active; by default the one approach 2 gives.")
    ] = None,
    params_active_non_embedding: Annotated[
        float | None, typer.Option(help="Parameters a token passes, vocabulary out; in the place of --params-active.")
    ] = None,
    params_learning: Annotated[
        float | None, typer.Option(help="Parameters that learn, vocabulary out: all of a mixture of experts, say.")
    ] = None,
    hidden_size: Annotated[int | None, typer.Option(help="Width of the model.")] = None,
    flops: Annotated[float | None, typer.Option(help="Training budget; by default the compute-optimal one.")] = None,
    runs: Annotated[
        Path | None, typer.Option(help="A run table: several vocabularies and budgets for each of several models.")
    ] = None,
    where: Annotated[str, typer.Option(help="Which of its rows, such as 'num_experts == 8'.")] = "",
    metric: Annotated[
        Literal["bits-per-byte", "unigram-normalised"], typer.Option(help="The loss of the runs that is compared.")
    ] = "bits-per-byte",
    law: Annotated[Path | None, typer.Option(help="A law.json with the vocabulary in it, such as moe-bits.")] = None,
    mix: Annotated[str, typer.Option(help="Shares of the text's bytes, such as ko=0.3,en=0.5,code=0.2.")] = "",
    compare: Annotated[str, typer.Option(help="Sizes to show the cost of, such as 131072,163840.")] = "",
    tied_embeddings: Annotated[bool, typer.Option(help="One matrix for input and output.")] = False,
    tensor_parallel: Annotated[int, typer.Option(help="Ways in which the vocabulary matrices are split.")] = 8,
    out: Annotated[Path | None, typer.Option(help="A folder for choice.json and the figures.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Put the best vocabulary size by every predictor side by side, with the flat range and the costs.

    \b
    Example: scaling vocab choose --params-active 33e9 --vocab-size 163840 \\
        --hidden-size 7168 --compare 163840
    """
    from fits.fitting.result import Fit
    from vocab_study.choice.choice import choose_vocabulary
    from vocab_study.choice.costs import kv_bytes_per_token
    from vocab_study.choice.isoflop import read_vocabulary_runs
    from vocab_study.choice.published_predictors import without_vocabulary
    from vocab_study.study.study import Study

    sizes, kv_bytes, setting = [*whole_numbers(compare, "--compare")], None, {}
    if plan is not None:
        from scaling.plan import TrainingPlan

        made = TrainingPlan.load(plan)
        model = made.model
        params_active_non_embedding, hidden_size = model.params_active_non_embedding, model.hidden_size
        params_learning, tied_embeddings = model.params_total_non_embedding, model.tied_embeddings
        flops = flops or float(made.tokens * model.flops_per_token(made.sequence_length))
        sizes, kv_bytes = [*sizes, model.vocab_size], kv_bytes_per_token(model)
        setting = {"activation_ratio": model.activation_ratio, "granularity": model.granularity}
    if hidden_size is None:
        raise UserError("--hidden-size is missing; give it, or a --plan.")
    if params_active_non_embedding is None:
        if params_active is None:
            raise UserError("--params-active is missing; give it, or --params-active-non-embedding, or a --plan.")
        if vocab_size is None:
            params_active_non_embedding = without_vocabulary(
                params_active, hidden_size, tied_embeddings=tied_embeddings
            )
        else:
            params_active_non_embedding = params_active - (1 if tied_embeddings else 2) * vocab_size * hidden_size
    opened = None if study is None else Study.load(study)
    table = None if runs is None else read_vocabulary_runs(runs, where, metric)
    choice = choose_vocabulary(
        params_active_non_embedding,
        hidden_size,
        study=opened,
        mix=numbers(pairs(mix.split(","), "--mix"), "--mix") if mix else None,
        params_learning=params_learning,
        flops=flops,
        runs=table,
        fit=None if law is None else Fit.load(law),
        setting=setting,
        compare=sizes,
        tied_embeddings=tied_embeddings,
        tensor_parallel=tensor_parallel,
        kv_bytes_per_token=kv_bytes,
    )
    if out is not None:
        _write_choice(choice, out, opened, table, metric)
    if as_json:
        print_json(choice.model_dump(mode="json"))
    else:
        print_choice(choice, asked_runs=runs is not None)


def _write_choice(
    choice: "VocabularyChoice", out: Path, study: "Study | None", runs: "pd.DataFrame | None", metric: str
) -> None:
    from vocab_study.choice.figures import compute_figure, loss_figure, predictors_figure
    from vocab_study.choice.isoflop import common_budget, isoflop_slices

    choice.save(out / "choice.json")
    predictors_figure(choice).savefig(out / "predictors.svg")
    if study is not None:
        compute_figure(study, choice.params_active_non_embedding, choice.hidden_size).savefig(out / "compute.svg")
    if runs is not None:
        slices = isoflop_slices(runs, common_budget(runs))
        loss = "bits per byte" if metric == "bits-per-byte" else "loss less the unigrams' (nats/token)"
        loss_figure(slices, loss=loss).savefig(out / "loss.svg")
