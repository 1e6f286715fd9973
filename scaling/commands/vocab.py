"""`scaling vocab`: every vocabulary size of a corpus at once, and its tokenizers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fits.errors import UserError
from scaling.console import count, print_json, print_table, progress, quantity, say

if TYPE_CHECKING:
    from vocab_study.choice import VocabularyChoice

commands = typer.Typer(no_args_is_help=True, help="Vocabulary sizes: compression, tokenizers and the optimum.")


@commands.command()
def study(
    corpus: Annotated[Path, typer.Argument(help="A corpus folder made by scaling corpus.")],
    out: Annotated[Path, typer.Option(help="The study folder.")],
    max_size: Annotated[
        int | None, typer.Option(help="The largest vocabulary; by default 131072 or what the text fills.")
    ] = None,
    sizes: Annotated[str, typer.Option(help="Sizes whose tokenizers are wanted, such as 1024,2048.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the curves at the shown sizes as JSON.")] = False,
) -> None:
    """Train one tokenizer at the largest size and measure every smaller one, exactly.

    Writes tokenizers/, compression.csv (a row for every size and group) and study.json.

    \b
    Example: scaling vocab study corpus --max-size 8192 --sizes 1024,2048,4096 --out study
    """
    from vocab_study.study import study_vocabulary

    wanted = _numbers(sizes, "--sizes")
    with progress() as bar:
        tasks: dict[str, int] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done)  # type: ignore[arg-type]

        made = study_vocabulary(corpus, out, max_size=max_size, sizes=wanted, progress=show)
    table = made.table(wanted)
    if as_json:
        print_json(
            {
                "largest_size": made.summary.largest_size,
                "filled": made.summary.filled,
                "bytes_per_token": {
                    group: {str(size): value for size, value in table[group].items()} for group in made.groups
                },
                "entropy": {str(size): value for size, value in table["entropy"].items()},
            }
        )
        return
    columns = ["vocabulary", *(f"bytes/token {group}" for group in made.groups), "entropy (nats)"]
    print_table(columns, [(size, *row) for size, row in zip(table.index, table.to_numpy().tolist(), strict=True)])
    if not made.summary.filled:
        say(f"the training text fills no more than {made.summary.largest_size} tokens")
    say(f"wrote {out}/study.json, compression.csv, tokenizers/")


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
    mix: Annotated[str, typer.Option(help="Shares of the text's bytes, such as ko=0.3,en=0.5,code=0.2.")] = "",
    compare: Annotated[str, typer.Option(help="Sizes to show the cost of, such as 131072,163840.")] = "",
    tied_embeddings: Annotated[bool, typer.Option(help="One matrix for input and output.")] = False,
    tensor_parallel: Annotated[int, typer.Option(help="Ways in which the vocabulary matrices are split.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Put the best vocabulary size by every predictor side by side, with the flat range and the costs.

    \b
    Example: scaling vocab choose --params-active 33e9 --vocab-size 163840 --hidden-size 7168 --compare 163840
    """
    from vocab_study.choice import choose_vocabulary
    from vocab_study.costs import kv_bytes_per_token
    from vocab_study.isoflop import read_vocabulary_runs
    from vocab_study.predictors import without_vocabulary
    from vocab_study.study import Study

    sizes, kv_bytes = _numbers(compare, "--compare"), None
    if plan is not None:
        from scaling.plan import TrainingPlan

        made = TrainingPlan.load(plan)
        model = made.model
        params_active_non_embedding, hidden_size = model.params_active_non_embedding, model.hidden_size
        params_learning, tied_embeddings = model.params_total_non_embedding, model.tied_embeddings
        flops = flops or float(made.tokens * model.flops_per_token(made.sequence_length))
        sizes, kv_bytes = [*sizes, model.vocab_size], kv_bytes_per_token(model)
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
    choice = choose_vocabulary(
        params_active_non_embedding,
        hidden_size,
        study=None if study is None else Study.load(study),
        mix=_shares(mix) if mix else None,
        params_learning=params_learning,
        flops=flops,
        runs=None if runs is None else read_vocabulary_runs(runs, where),
        compare=sizes,
        tied_embeddings=tied_embeddings,
        tensor_parallel=tensor_parallel,
        kv_bytes_per_token=kv_bytes,
    )
    if as_json:
        print_json(choice.model_dump(mode="json"))
    else:
        _print_choice(choice, asked_runs=runs is not None)


def _print_choice(choice: "VocabularyChoice", *, asked_runs: bool) -> None:
    params, width = count(choice.params_active_non_embedding), choice.hidden_size
    say(f"{params} active parameters outside the vocabulary, width {width}")
    rows = [(law.title, f"{count(law.params)} {law.params_are}", law.vocab_size) for law in choice.laws]
    if choice.runs:
        low, high, level = choice.runs.low, choice.runs.high, choice.runs.level
        rows.append((f"Your runs, bits per byte ({level:.0%}: {low} to {high})", "active", choice.runs.vocab_size))
    if choice.optimum:
        best = choice.optimum
        rows.append(("Exact compute per byte of the study's text", "active", best.vocab_size))
    print_table(["predictor", "asked for", "vocabulary"], rows)
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
    columns = ["vocabulary", "padded", "head/active", "logits of 8k tokens"]
    rows = [
        [cost.vocab_size, cost.padded_size, f"{cost.head_share_of_active:.2%}", f"{cost.logits_bytes / 1e9:.2f} GB"]
        for cost in choice.costs
    ]
    if choice.optimum:
        columns += ["FLOP/byte", "above least", "decode FLOP/char", "KV bytes/char"]
        for row, cost in zip(rows, choice.costs, strict=True):
            above = "not studied" if cost.compute_above_best is None else f"{cost.compute_above_best:+.2%}"
            figures = (cost.flops_per_byte, cost.decode_flops_per_character, cost.kv_bytes_per_character)
            training, decoding, cached = ("" if figure is None else quantity(figure) for figure in figures)
            row += [training, above, decoding, cached]
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
