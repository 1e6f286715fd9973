"""scaling export-run: a trained run as a Hugging Face checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from fits.errors import UserError
from fits.numbers import count
from scaling.commands.console import print_json, say


def export_run(
    run: Annotated[Path, typer.Argument(help="A run's folder, with a checkpoint.")],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    tokenizer: Annotated[Path | None, typer.Option(help="The tokenizer.json behind the run's tokens.")] = None,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a run's newest checkpoint so that transformers, vLLM and others open it.

    \b
    Example: scaling export-run runs/d64-e8 --out proxy_hf \\
        --tokenizer tokenizers/4096/tokenizer.json
    """
    from scaling.handoff.export_run import export_run as write

    if dtype not in ("float32", "bfloat16"):
        raise UserError(f"--dtype is '{dtype}'; it must be float32 or bfloat16.")
    done = write(run, out, tokenizer=tokenizer, dtype=dtype)
    if json:
        print_json({"folder": str(done.folder), "model_type": done.model_type, "step": done.step,
                    "parameters": done.parameters})  # fmt: skip
        return
    say(f"wrote {done.folder}: a {done.model_type} of {count(done.parameters)} parameters, step {done.step}")
    say(f"open it with: AutoModelForCausalLM.from_pretrained('{done.folder}')")


def register(app: typer.Typer) -> None:
    app.command("export-run")(export_run)
