"""`scaling corpus`: text of any source to a corpus folder."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from fits.numbers import count
from scaling.commands.console import print_json, print_table, progress, say


def corpus(
    sources: Annotated[list[str], typer.Argument(help="python:stdlib, folders of text, .jsonl[.gz|.zst] or .parquet.")],
    out: Annotated[Path, typer.Option(help="The corpus folder.")],
    validation_fraction: Annotated[float, typer.Option(help="Share of documents held out.")] = 0.05,
    by: Annotated[
        str | None, typer.Option(help="Group by folder, by file, or by a field of the records (language, say).")
    ] = None,
    text_field: Annotated[str, typer.Option(help="The field or column that holds the text.")] = "text",
    on_error: Annotated[Literal["fail", "skip"], typer.Option(help="At an input that is no document.")] = "fail",
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Make a corpus: documents split into train and validation by hash, exact duplicates dropped.

    Writes train.jsonl, validation.jsonl and manifest.json. The same inputs again take no time.

    \b
    Example: scaling corpus python:stdlib --out corpus
    """
    from vocab_study.corpus.corpus import build_corpus

    with progress() as bar:
        task = bar.add_task("reading bytes", total=None)
        manifest = build_corpus(
            sources,
            out,
            validation_fraction=validation_fraction,
            by=by,
            text_field=text_field,
            on_error=on_error,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        print_json(manifest.model_dump(mode="json"))
        return
    rows = [
        (split, group, summary.documents, count(summary.bytes), count(summary.characters))
        for split, holds in (("train", manifest.train), ("validation", manifest.validation))
        for group, summary in holds.groups.items()
    ]
    print_table(["split", "group", "documents", "bytes", "characters"], rows)
    if manifest.duplicates or manifest.skipped:
        say(f"left out: {manifest.duplicates} exact duplicates, {manifest.skipped} skipped inputs")
    for item in manifest.skipped_inputs[:10]:
        say(f"  {item.place}: {item.reason}")
    say(f"wrote {out}/train.jsonl, validation.jsonl, manifest.json")


def register(app: typer.Typer) -> None:
    """Attach the command."""
    app.command()(corpus)
