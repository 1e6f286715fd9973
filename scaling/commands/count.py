"""scaling count: exact parameters and FLOPs of a config file."""

from pathlib import Path
from typing import Annotated

import typer

from fits.numbers import count as short
from scaling.commands.console import print_json, print_table, say


def count(
    config: Annotated[Path, typer.Argument(help="config.json, project YAML, or a directory with one of them.")],
    sequence_length: Annotated[int, typer.Option(help="Tokens in a sequence, for the FLOPs.")] = 4096,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count parameters and training FLOPs of a model, exactly, in every convention that papers quote.

    Takes the project's own YAML (an architecture, a run's config, a plan) and Hugging Face config.json of the types
    llama, qwen3, mixtral, olmoe, qwen2_moe, qwen3_moe, glm4_moe, gpt_oss, deepseek_v2, deepseek_v3, kimi_k2 and axk1.

    \b
    Example:
        scaling count config.json --sequence-length 8192
    """
    from scaling.hf.count import count_file

    counted = count_file(config, sequence_length=sequence_length)
    if json:
        print_json(counted.model_dump(mode="json"))
        return
    flops = counted.flops_per_token
    rows = [
        ("parameters, total", counted.params_total),
        ("  of one token (active)", counted.params_active),
        ("  active without the input embedding", counted.params_active_without_input_embedding),
        ("  active without both embeddings", counted.params_active_non_embedding),
        ("  total without both embeddings", counted.params_total_non_embedding),
        *((f"  total in {role.replace('_', ' ')}", number) for role, number in counted.by_role.items() if number),
        ("training FLOPs a token, causal attention", flops.causal),
        ("training FLOPs a token, full attention", flops.full_attention),
    ]
    width = max(len(f"{number:,}") for _, number in rows)
    title = f"{config}: {counted.model_type}, {flops.sequence_length} tokens a sequence"
    print_table(["", "", "exact"], [(name, short(number), f"{number:>{width},}") for name, number in rows], title=title)
    say(
        f"activation ratio A = {counted.activation_ratio:.4g}, granularity G = 2 d / d_expert = {counted.granularity:g}"
    )
    for warning in counted.warnings:
        say(f"note: {warning}")


def register(app: typer.Typer) -> None:
    app.command()(count)
