"""The A.X K1 case: 1024 H200 for 75 days, published laws, and the model that was built (arXiv 2601.09200).

    python benchmarks/planner/axk1/page.py [--out docs/case_axk1.md]

Writes the page with its two pictures. What was reported is named as such; everything else is computed here.
"""

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cluster.published_runs import published
from benchmarks.markdown import percent, table
from benchmarks.planner.axk1.cluster import exported, hardware
from benchmarks.planner.axk1.pictures import draw_regret, draw_spread
from fits.decisions.published_allocations import allocations
from fits.files import write_text
from fits.numbers import count
from scaling.cluster.budget import cluster_budget
from scaling.cluster.serving import decode_seconds
from scaling.plan import Budget, TrainingPlan
from scaling.planner.binding_constraints import describe
from scaling.planner.constraints import constraints_of
from scaling.planner.loss_model import Text
from scaling.planner.planner import plan_for
from scaling.planner.published_loss_models import published_loss_model
from scaling.planner.search import Search, Spending, candidates, search
from scaling.planner.search_space import usual_space
from trainer_small.architecture import Architecture

ROOT = Path(__file__).resolve().parents[3]
LAWS = ("tian", "tian-hoffmann", "joint-moe", "abnar")
LENGTH, TOKENS, CAP = 4096, 10e12, 520e9
CLUSTER = cluster_budget(1024, "h200", 75, tflops=384)
BUILT = Architecture.model_validate(
    published()["models"]["A.X-K1"].model_dump() | {"router_selection_bias": True, "router_scaling_factor": 2.5}
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "case_axk1.md")
    options = parser.parse_args()
    searches = {law: searched(law) for law in LAWS}
    images = options.out.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    draw_regret(searches["tian"], BUILT, images / "case_axk1_regret.png")
    draw_spread(searches, BUILT, TOKENS, CLUSTER.hardware_flops, images / "case_axk1_spread.png")
    plan = as_built_plan()
    sections = [HEAD, budgets(), spread(searches), placed(searches), choices(searches), limits()]
    sections += [hardware(plan, CLUSTER), exported(plan, CLUSTER)]
    write_text(options.out, "\n\n".join(section.strip() for section in sections) + "\n")


HEAD = """# The A.X K1 case: from 1024 H200 and 75 days to a config

A.X K1 (arXiv 2601.09200) is a mixture of experts of 519B parameters with 33B active, trained on about 10T tokens of
Korean-heavy text with 1024 H200. This page shows what the toolkit would have answered from the cluster and published
laws alone, and what it says about the model that was built. `python benchmarks/planner/axk1/page.py` writes it.

How far to trust it: we had no proxy runs, so no number below has an interval, and every law is used 2 to 4 decades
beyond its runs. The model's sizes are its public configuration. Speeds and tokens are from summaries of the report,
which we could not access.

```
scaling plan --law published:tian --gpus 1024 --gpu h200 --days 75 --mfu 0.3883 \\
    --max-params-total 520e9 --vocab-size 163840 --out plan.yaml
```"""


def searched(law: str, **changes: Any) -> Search:
    """The plan's search by one law, at the vocabulary and under the cap on parameters that the model had."""
    space = usual_space(**{"vocab_size": (BUILT.vocab_size,), "max_params_total": CAP} | changes)
    text = Text(LENGTH, space.unique_tokens)
    spending = Spending(CLUSTER.hardware_flops, text)
    limits = constraints_of(space, spending.flops, "h200", CLUSTER.gpus)
    return search(published_loss_model(law), candidates(space, spending, limits))


def budgets() -> str:
    built = Budget.exact(BUILT, int(TOKENS), LENGTH)
    head = 6 * BUILT.vocab_size * BUILT.hidden_size * TOKENS
    rows = [
        ["hardware: 1024 x 75 days x 384 TFLOP/s", f"{CLUSTER.hardware_flops:.4g}", "2.548e24 was reported as C"],
        ["model: exact, causal attention, head in", f"{built.train_flops:.4g}", "10T tokens in sequences of 4096"],
        ["of that, the output head", f"{head:.3g}", "left out of C by Tian et al."],
        ["6 N D, active parameters", f"{built.six_n_d:.4g}", "10T tokens"],
        ["6 N D, embeddings out", f"{6 * BUILT.params_active_non_embedding * TOKENS:.4g}", "10T tokens"],
    ]
    afford = CLUSTER.hardware_flops / BUILT.flops_per_token(LENGTH)
    over = CLUSTER.hardware_flops / built.train_flops
    return f"""## Three numbers for one budget

{table(["number", "FLOPs", ""], rows)}

The reported C equals the hardware FLOPs to four digits. It is {over:.2f} times what the model needs for 10T tokens: at
the exact count it pays for {afford / 1e12:.1f}T tokens. The plan spends all of it, so "as built" below means the built
shape with the tokens that this budget buys."""


def spread(searches: dict[str, Search]) -> str:
    opinions, ratio = allocations(CLUSTER.hardware_flops)
    rows = [
        [
            each.name,
            each.models,
            count(each.params),
            count(each.tokens) if each.tokens else "",
            "?" if each.decades_beyond is None else f"{each.decades_beyond:.1f}",
        ]
        for each in opinions
    ]
    rows.append(["**A.X K1 as built**", "moe", count(BUILT.params_active), "10T", ""])
    priced = []
    for law, found in searches.items():
        shape = found.shape
        priced.append(
            [
                law,
                describe(found.table, found.best),
                count(shape.params_total),
                count(shape.params_active),
                count(float(found.tokens[found.best])),
            ]
        )
    priced.append(["as built", describe(BUILT, 0), count(BUILT.params_total), count(BUILT.params_active), "10T"])
    return f"""## The spread of published laws

Each law gives sizes and tokens at 2.548e24 in its own convention (active parameters for the mixtures). `?` means that
its source states no range of compute. The largest size is {ratio:.1f} times the smallest.

{table(["law", "models", "N", "D", "decades beyond its runs"], rows)}

Laws that see the experts can predict the loss of whole shapes. This is the best shape by each, out of
{searches["tian"].candidates.tried:,}, under the same limits (total parameters at most 520e9, vocabulary
{BUILT.vocab_size}, memory of the cluster):

{table(["law", "shape", "total", "active", "tokens"], priced)}

![Active parameters against tokens: laws, plans, and the model as built](images/case_axk1_spread.png)"""


def placed(searches: dict[str, Search]) -> str:
    rows = []
    for law, found in searches.items():
        tokens = float(found.candidates.spending.tokens(BUILT))
        regret = found.regret_of(BUILT, tokens, to=found.lowest)[0]
        rows.append([law, describe(found.table, found.lowest), percent(regret)])
    return f"""## The model as built on the regret map

This is the extra compute with which the built shape ({describe(BUILT, 0)}, A = {BUILT.activation_ratio:.4f}) would
reach the loss of each law's best shape under the same limits:

{table(["law", "its best shape", "as built costs"], rows)}

![Extra compute against active and total parameters, by the leverage law](images/case_axk1_regret.png)

The map is by `tian`. Each point is the best shape of that size, coloured by the compute it wastes. More total
parameters always waste less: the leverage law has no best number of experts, so the cap decides."""


def choices(searches: dict[str, Search]) -> str:
    """One number of the built model changed, the rest as built, each trained for the whole budget."""
    rows = []
    for name, changes in _edits():
        shape = Architecture.model_validate(BUILT.model_dump() | changes)
        regrets = [_relative(found, shape) for found in searches.values()]
        seconds = float(decode_seconds(shape, "h200"))
        rows.append([name, count(shape.params_total), f"{seconds:.0f}", *(percent(each) for each in regrets)])
    return f"""## What each choice cost or gained

Each row changes one number of the built model and shows the extra compute that the changed model would need to be as
good as the built one (negative: the change would have saved compute). `decode` is H200-seconds to generate a million
tokens (256 sequences of 8192).

{table(["change", "total", "decode", *searches], rows)}

Where a constraint may explain a choice:

- **192 experts, not 384.** By every law, more experts of this size save the most of all changes, and no law has a best
  number. Twice as many means a trillion parameters, twice the memory, nearly twice the cost of a generated token, and
  more experts to balance. These set the number, and no law of the loss can weigh them.
- **Top 8, not 4.** At the same total parameters the leverage law prefers fewer experts per token, and `joint-moe` and
  `abnar` prefer more. The laws disagree about the sign, so no gain is certain here.
- **G = 7.** By three of the four laws, twice as fine at equal parameters would save 3 to 6 %. The report's summary says
  why it stayed below: stability while the load is not balanced, which moves the best G to 6 to 8 in Tian et al.'s own
  ablation. Finer experts also make smaller matrix products.
- **33B active.** The laws over a dense loss (`tian`, `tian-hoffmann`) would train a smaller active model on more
  tokens, `joint-moe` a larger one on fewer, and `abnar` nearly this one. The choice is inside the spread.
- **One shared expert, one dense layer, 64 heads, 61 layers.** The laws see these only through parameters and FLOPs, so
  the figures say what they cost, not what they are good for.
- **163,840 entries.** None of these laws sees the vocabulary except as parameters and FLOPs of the head;
  `scaling vocab choose` does. Approach 2 of Tao et al. advises 132,347 for its 30.65B other active parameters."""


def _edits() -> Iterator[tuple[str, dict[str, Any]]]:
    for experts in (64, 96, 128, 256, 384):
        yield f"192 -> {experts} experts", {"num_experts": experts}
    for visited in (4, 6, 12, 16):
        yield f"top 8 -> top {visited}", {"experts_per_token": visited, "expert_groups_per_token": 8}
    for experts, visited, width in ((96, 4, 4096), (336, 14, 1152), (384, 16, 1024)):
        granularity = 2 * BUILT.hidden_size / width
        fields = {"num_experts": experts, "experts_per_token": visited, "expert_ffn_size": width}
        # The shared expert keeps its width.
        yield f"G 7 -> {granularity:.3g} ({experts} experts, top {visited})", fields | {"expert_groups_per_token": 8}
    yield "1 -> 0 shared experts", {"num_shared_experts": 0, "shared_expert_ffn_size": 0}
    yield "1 -> 2 shared experts", {"num_shared_experts": 2}
    yield "1 -> 3 dense layers", {"num_dense_layers": 3}
    for width in (5120, 6144, 8192):
        yield f"hidden_size 7168 -> {width}", {"hidden_size": width}
    for layers in (48, 54, 70):
        yield f"61 -> {layers} layers", {"num_layers": layers}
    for heads in (48, 128):
        yield f"64 -> {heads} heads", {"num_attention_heads": heads, "num_key_value_heads": heads}
    for size in (98304, 131072, 262144):
        yield f"vocab_size 163840 -> {size}", {"vocab_size": size}


def _relative(found: Search, shape: Architecture) -> float:
    """The extra compute of ``shape`` for the loss of the built model at the same budget."""
    spending = found.candidates.spending
    goal = float(found.loss_model.loss(BUILT, float(spending.tokens(BUILT)), found.text))
    as_goal = dataclasses.replace(found, loss=np.full(len(found.loss), goal))
    return float(as_goal.regret_of(shape, float(spending.tokens(shape)))[0])


def limits() -> str:
    built = CLUSTER.hardware_flops / BUILT.flops_per_token(LENGTH) / BUILT.params_active
    steps: tuple[tuple[str, dict[str, Any]], ...] = (
        ("memory of the cluster alone", {"max_params_total": None}),
        ("and at most 520e9 parameters", {"max_params_total": CAP}),
        (f"and at most {built:.0f} tokens per active parameter, as built", {"tokens_per_parameter": (1, built)}),
    )
    return f"""## The same question under more limits

By `tian`. Each row adds a limit to those above it, and shows what remains of the cost of the built model once that
choice is taken as given.

{_limited(steps)}

Given its total parameters and its tokens per active parameter, the law cannot improve the built model. (The figure is
negative because the model lies between the shapes that were tried, and is a little better.) By this law, all of its
cost comes from one choice: 379 tokens per active parameter, where the law would take over a thousand.

A model that small, trained that long, has costs of its own that the law does not see: steps that cannot be made
shorter, a batch that cannot be made larger, and quality beyond the loss (arXiv 2501.12370 finds reading comprehension
worse in sparser models of equal loss).

The amount of text matters less to this law. Tokens beyond the unique ones are repeats and count less (arXiv
2305.16264), for the built model too. Under the cap of 520e9:

{_limited(tuple((f"{each / 1e12:g}T unique tokens", {"unique_tokens": each}) for each in (10e12, 5e12, 2e12, 1e12)))}"""


def _limited(steps: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """A row a step: the best shape under its limits and those before, and what the built model costs beside it."""
    rows, held = [], {}
    for name, changes in steps:
        held |= changes
        found = searched("tian", **held)
        of = found.regret_of(BUILT, float(found.candidates.spending.tokens(BUILT)), to=found.lowest)[0]
        shape = found.shape
        rows.append(
            [
                name,
                describe(found.table, found.best),
                count(shape.params_total),
                count(shape.params_active),
                count(float(found.tokens[found.best])),
                f"{float(decode_seconds(shape, 'h200')):.0f}",
                percent(of),
            ]
        )
    return table(["limits", "best shape", "total", "active", "tokens", "decode", "as built costs"], rows)


def as_built_plan() -> TrainingPlan:
    """The built model as a training plan: the plan's recipe where the report's is not known."""
    planned = plan_for("published:tian", CLUSTER.hardware_flops, vocab_size=BUILT.vocab_size, max_params_total=CAP)
    batch = 4096 * LENGTH
    tokens = int(TOKENS // batch) * batch
    changes = {
        "name": "axk1-as-built",
        "model": BUILT,
        "tokens": tokens,
        "batch_tokens": batch,
        "batch_ramp": None,
        "budget": Budget.exact(BUILT, tokens, LENGTH, CLUSTER),
    }
    return TrainingPlan.model_validate(dict(planned) | changes)


if __name__ == "__main__":
    main()
