"""`scaling vocab`: every vocabulary size of a corpus at once, and its tokenizers."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fits.errors import UserError
from fits.numbers import count, quantity
from scaling.commands.console import print_json, progress, say
from scaling.commands.options import whole_numbers
from scaling.commands.vocab_choose import choose
from scaling.commands.vocab_tables import print_study

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
    from vocab_study.study.make_study import study_vocabulary

    wanted = [*whole_numbers(sizes, "--sizes")]
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
    print_study(made, wanted, as_json)


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
    from vocab_study.corpus.corpus import build_corpus

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
    from vocab_study.study.study import Study
    from vocab_study.study.sweep_design import design_vocabulary_sweep

    opened, here = Study.load(study), out.parent
    wanted = whole_numbers(sizes, "--sizes")
    sweep = design_vocabulary_sweep(
        corpus=os.path.relpath(corpus, here),
        tokenizers={size: os.path.relpath(opened.tokenizer_file(size), here) for size in wanted},
        budget_flops=budget_flops,
        hidden_sizes=whole_numbers(hidden_sizes, "--hidden-sizes"),
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
    from vocab_study.study.huggingface import export_tokenizer
    from vocab_study.study.study import Study

    export_tokenizer(Study.load(study), size, out)
    if as_json:
        print_json({"vocab_size": size, "folder": str(out)})
    else:
        say(f"wrote {out}/tokenizer.json, tokenizer_config.json, special_tokens_map.json")


def register(app: typer.Typer) -> None:
    """Attach the commands."""
    commands.command()(choose)
    app.add_typer(commands, name="vocab")
