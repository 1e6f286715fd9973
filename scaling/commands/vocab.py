"""`scaling vocab`: every vocabulary size of a corpus at once, and its tokenizers."""

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fits.errors import UserError
from scaling.console import count, print_json, print_table, progress, quantity, say

if TYPE_CHECKING:
    import pandas as pd

    from vocab_study.choice import VocabularyChoice
    from vocab_study.study import Study

commands = typer.Typer(no_args_is_help=True, help="Vocabulary sizes: compression, tokenizers and the optimum.")


@commands.command()
def study(
    corpus: Annotated[
        list[str], typer.Argument(help="A folder made by scaling corpus, or text as scaling corpus takes it.")
    ],
    out: Annotated[Path, typer.Option(help="The study folder.")],
    max_size: Annotated[
        int | None, typer.Option(help="The largest vocabulary; by default 131072 or what the text fills.")
    ] = None,
    sizes: Annotated[str, typer.Option(help="Sizes whose tokenizers are wanted, such as 1024,2048.")] = "",
    pretokenizer: Annotated[
        str | None, typer.Option(help="How text is split first: gpt2 (the default), cl100k, o200k or qwen2.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Study this one instead of training: tokenizer.json or .tiktoken.")
    ] = None,
    parallel: Annotated[
        Path | None, typer.Option(help="JSON Lines with the same text in a field for each language, for parity.")
    ] = None,
    reference: Annotated[str, typer.Option(help="The language that parity is held against.")] = "en",
    by: Annotated[str | None, typer.Option(help="Group text by folder, file or a field such as language.")] = None,
    text_field: Annotated[str, typer.Option(help="The field or column that holds the text.")] = "text",
    on_error: Annotated[Literal["fail", "skip"], typer.Option(help="At an input that is no document.")] = "fail",
    as_json: Annotated[bool, typer.Option("--json", help="Print the curves at the shown sizes as JSON.")] = False,
) -> None:
    """Train one tokenizer at the largest size and measure every smaller one, exactly.

    Writes tokenizers/, compression.csv (a row for every size and group), compression.svg and study.json.

    \b
    Example: scaling vocab study corpus --max-size 8192 --sizes 1024,2048,4096 \\
        --out study
    """
    from vocab_study.make_study import study_vocabulary

    wanted = _numbers(sizes, "--sizes")
    with progress() as bar:
        show = _Stages(bar)
        made = study_vocabulary(
            _corpus_folder(corpus, out, by, text_field, on_error, show),
            out,
            max_size=max_size,
            sizes=wanted,
            pretokenizer=pretokenizer,
            tokenizer=tokenizer,
            parallel=parallel,
            reference=reference,
            progress=show,
        )
    _print_study(made, wanted, as_json)


class _Stages:
    """A bar for each stage that reports."""

    def __init__(self, bar: Any) -> None:
        self._bar, self._tasks = bar, {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bar.add_task(stage, total=total)
        self._bar.update(self._tasks[stage], completed=done)


def _corpus_folder(
    sources: list[str], out: Path, by: str | None, text_field: str, on_error: Literal["fail", "skip"], show: _Stages
) -> Path:
    """The corpus that was named, or one made of the text that was named, in the study folder."""
    if len(sources) == 1 and (Path(sources[0]) / "manifest.json").is_file():
        if by is not None or text_field != "text" or on_error != "fail":
            raise UserError(
                f"{sources[0]} is a finished corpus; --by, --text-field and --on-error shape one while it is made."
            )
        return Path(sources[0])
    from vocab_study.corpus import build_corpus

    made = build_corpus(
        sources,
        out / "corpus",
        by=by,
        text_field=text_field,
        on_error=on_error,
        progress=lambda done, total: show("reading", done, total),
    )
    if made.skipped:
        first = made.skipped_inputs[0]
        say(f"skipped {made.skipped} inputs, listed in {out}/corpus/manifest.json; first {first.place}: {first.reason}")
    return out / "corpus"


def _print_study(made: "Study", wanted: list[int], as_json: bool) -> None:
    from vocab_study.figures import compression_figure

    figure = made.directory / "compression.svg"
    compression_figure(made, sizes=wanted).savefig(figure)
    table = made.table(wanted)
    closer = wanted or [made.summary.largest_size]
    if as_json:
        print_json(
            {
                "largest_size": made.summary.largest_size,
                "filled": made.summary.filled,
                "bytes_per_token": {
                    group: {str(size): value for size, value in table[group].items()} for group in made.groups
                },
                "entropy": {str(size): value for size, value in table["entropy"].items()},
                "details": {str(size): made.details(size).to_dict(orient="index") for size in closer},
            }
        )
        return
    rows = [(size, *row) for size, row in zip(table.index, table.to_numpy().tolist(), strict=True)]
    print_table(["vocabulary", *made.groups, "entropy"], rows, title="held-out bytes per token, entropy in nats")
    for size in closer:
        details = made.details(size)
        titles = ["group", *(_DETAILS[name] for name in details.columns)]
        rows = [
            (group, *("" if math.isnan(value) else value for value in row))
            for group, row in zip(details.index, details.to_numpy().tolist(), strict=True)
        ]
        print_table(titles, rows, title=f"held-out text at {size}")
    if not made.summary.filled:
        say(f"the training text fills no more than {made.summary.largest_size} tokens")
    say(f"wrote {made.directory}/study.json, compression.csv, compression.svg, tokenizers/")


_DETAILS = {
    "bytes_per_token": "bytes/token",
    "characters_per_token": "characters/token",
    "tokens_per_word": "tokens/word",
    "entropy": "entropy",
    "renyi_efficiency": "Rényi efficiency",
    "partial_character_tokens": "pieces of characters",
    "parity": "parity",
}


@commands.command()
def design(
    corpus: Annotated[Path, typer.Option(help="A corpus folder made by scaling corpus.")],
    study: Annotated[Path, typer.Option(help="Its study; holds the tokenizers.")],
    sizes: Annotated[str, typer.Option(help="Vocabulary sizes, three or more, such as 1024,4096,16384.")],
    budget_flops: Annotated[float, typer.Option(help="Training FLOPs of all runs together.")],
    out: Annotated[Path, typer.Option(help="The sweep file to write.")],
    hidden_sizes: Annotated[str, typer.Option(help="Width of each model.")] = "32,64",
    seeds: Annotated[int, typer.Option(help="Runs of each model and size; their scatter is the noise.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print the cost as JSON.")] = False,
) -> None:
    """Write a sweep that finds the best size by training: each model at every size for the same FLOPs.

    Train it with scaling sweep run, tabulate it, and give the table to scaling vocab choose --runs.

    \b
    Example: scaling vocab design --corpus corpus --study study \\
        --sizes 1024,2048,4096 --budget-flops 1e13 --out v.yaml
    """
    from vocab_study.design import design_vocabulary_sweep
    from vocab_study.study import Study

    opened, here = Study.load(study), out.parent
    sweep = design_vocabulary_sweep(
        corpus=os.path.relpath(corpus, here),
        tokenizers={size: os.path.relpath(opened.tokenizer_file(size), here) for size in _numbers(sizes, "--sizes")},
        budget_flops=budget_flops,
        hidden_sizes=_numbers(hidden_sizes, "--hidden-sizes"),
        seeds=seeds,
    )
    sweep.save(out, heading=f"{sweep.name}: {sweep.purpose}\nTrain it with: scaling sweep run {out.name} --out runs")
    cost = sweep.cost()
    if as_json:
        print_json({"sweep": str(out), "runs": len(cost.runs), "tokens": cost.tokens, "train_flops": cost.train_flops})
    else:
        say(
            f"wrote {out}: {len(cost.runs)} runs, {count(cost.tokens)} tokens, {quantity(float(cost.train_flops))} FLOP"
        )


@commands.command()
def tokenizer(
    study: Annotated[Path, typer.Option(help="The study folder.")],
    size: Annotated[int, typer.Option(help="The vocabulary size.")],
    out: Annotated[Path, typer.Option(help="The tokenizer folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print where the files are as JSON.")] = False,
) -> None:
    """Write the tokenizer of one size as a Hugging Face tokenizer folder.

    \b
    Example: scaling vocab tokenizer --study study --size 2048 --out tokenizer
    """
    from vocab_study.huggingface import export_tokenizer
    from vocab_study.study import Study

    export_tokenizer(Study.load(study), size, out)
    if as_json:
        print_json({"vocab_size": size, "folder": str(out)})
    else:
        say(f"wrote {out}/tokenizer.json, tokenizer_config.json, special_tokens_map.json")


@commands.command()
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
    from fits.result import Fit
    from vocab_study.choice import choose_vocabulary
    from vocab_study.costs import kv_bytes_per_token
    from vocab_study.isoflop import read_vocabulary_runs
    from vocab_study.predictors import without_vocabulary
    from vocab_study.study import Study

    sizes, kv_bytes, setting = _numbers(compare, "--compare"), None, {}
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
        mix=_shares(mix) if mix else None,
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
        _print_choice(choice, asked_runs=runs is not None)


def _write_choice(
    choice: "VocabularyChoice", out: Path, study: "Study | None", runs: "pd.DataFrame | None", metric: str
) -> None:
    from vocab_study.figures import compute_figure, loss_figure, predictors_figure
    from vocab_study.isoflop import common_budget, isoflop_slices

    choice.save(out / "choice.json")
    predictors_figure(choice).savefig(out / "predictors.svg")
    if study is not None:
        compute_figure(study, choice.params_active_non_embedding, choice.hidden_size).savefig(out / "compute.svg")
    if runs is not None:
        slices = isoflop_slices(runs, common_budget(runs))
        loss = "bits per byte" if metric == "bits-per-byte" else "loss less the unigrams' (nats/token)"
        loss_figure(slices, loss=loss).savefig(out / "loss.svg")


def _print_choice(choice: "VocabularyChoice", *, asked_runs: bool) -> None:
    params, width = count(choice.params_active_non_embedding), choice.hidden_size
    say(f"{params} active parameters outside the vocabulary, width {width}")
    rows = []
    for law in choice.laws:
        interval = f"{law.low} to {law.high}" + ("" if law.identified else ", so not identified")
        rows.append((law.title, f"{count(law.params)} {law.params_are}", law.vocab_size, interval))
    if choice.runs:
        rows.append(("Your runs", "active", choice.runs.vocab_size, f"{choice.runs.low} to {choice.runs.high}"))
    if choice.fitted:
        fitted = choice.fitted
        interval = f"{fitted.low} to {fitted.high}" + ("" if fitted.inside >= fitted.level else ", so not identified")
        rows.append((f"Your law {fitted.law}", "active", fitted.vocab_size, interval))
    if choice.optimum:
        best = choice.optimum
        flat = f"{best.lowest_flat} to {best.highest_flat} within 0.1 %"
        rows.append(("Exact compute per byte of the study's text", "active", best.vocab_size, flat))
    print_table(["predictor", "asked for", "vocabulary", "90 % interval"], rows)
    if choice.runs and choice.runs.decades_beyond:
        say(f"  note: your runs are asked {choice.runs.decades_beyond:+.1f} decades outside their sizes.")
    if choice.fitted:
        for name, decades in choice.fitted.extrapolation.items():
            say(f"  note: your law is asked {decades:+.1f} decades outside its runs in {name}.")
    if choice.run_models:
        columns = ["a model of your runs", "width", "best vocabulary", "90 % interval", "draws with an optimum"]
        models = [
            (
                count(model.params),
                model.hidden_size,
                "none inside the sizes" if model.vocab_size is None else model.vocab_size,
                "" if model.low is None else f"{model.low} to {model.high}",
                f"{model.identified:.0%}",
            )
            for model in choice.run_models
        ]
        print_table(columns, models)
    if asked_runs and not choice.runs:
        say("  note: your runs identify no best vocabulary; it takes two models with an optimum inside their sizes.")
    for warning in dict.fromkeys(warning for law in choice.laws for warning in law.warnings):
        say(f"  note: {warning}")
    if choice.optimum:
        best = choice.optimum
        edge = ", the largest studied: the optimum may lie beyond" if best.at_the_edge else ""
        say(f"within 0.1 % of the least compute: {best.lowest_flat} to {best.highest_flat}{edge}")
        say(f"round sizes in that range: {', '.join(map(str, best.friendly_sizes)) or 'none'}")
    if choice.moves:
        print_table(["if it were", "best vocabulary"], [(move.change, move.vocab_size) for move in choice.moves])
    columns = ["vocabulary", "padded", "head/active", "logits of 8k tokens", "fused"]
    rows = [
        [
            cost.vocab_size,
            cost.padded_size,
            f"{cost.head_share_of_active:.2%}",
            f"{cost.logits_bytes / 1e9:.2f} GB",
            f"{cost.fused_logits_bytes / 1e9:.2f} GB",
        ]
        for cost in choice.costs
    ]
    if choice.optimum:
        columns += ["FLOP/byte", "above least", "decode FLOP/char"]
        cached = any(cost.kv_bytes_per_character for cost in choice.costs)
        columns += ["KV bytes/char"] if cached else []
        for row, cost in zip(rows, choice.costs, strict=True):
            figures = [cost.flops_per_byte, cost.decode_flops_per_character]
            figures += [cost.kv_bytes_per_character] if cached else []
            training, *using = ("" if figure is None else count(figure) for figure in figures)
            above = "not studied" if cost.compute_above_best is None else f"{cost.compute_above_best:+.2%}"
            row += [training, above, *using]
    print_table(columns, rows)


def _shares(text: str) -> dict[str, float]:
    shares: dict[str, float] = {}
    for part in text.split(","):
        group, _, share = part.partition("=")
        try:
            shares[group.strip()] = float(share)
        except ValueError:
            raise UserError(f"--mix: '{part}' is no share; write group=share, such as ko=0.3,en=0.7.") from None
    return shares


def _numbers(text: str, option: str) -> list[int]:
    try:
        return [int(float(part)) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(
            f"{option} is '{text}'; it must be whole numbers with commas between, such as 1024,2048."
        ) from None


def register(app: typer.Typer) -> None:
    """Attach the commands."""
    app.add_typer(commands, name="vocab")
