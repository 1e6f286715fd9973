"""What `scaling vocab` prints."""

import math
from typing import TYPE_CHECKING

from fits.numbers import count
from scaling.commands.console import print_json, print_table, say

if TYPE_CHECKING:
    from vocab_study.choice.choice import VocabularyChoice
    from vocab_study.study.study import Study


def print_study(made: "Study", wanted: list[int], as_json: bool) -> None:
    from vocab_study.choice.figures import compression_figure

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


def print_choice(choice: "VocabularyChoice", *, asked_runs: bool) -> None:
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
