"""Published models planned again from their budgets: what the toolkit would have built, beside what was built.

    python benchmarks/planner/replanned_models.py [--out docs/replanned_models.md]

Each model's budget is the exact FLOPs of its own shape and tokens. Its total parameters, vocabulary and attention are
taken as given: memory, text and stack are not the law's to choose. The rest is searched.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cluster.published_runs import published
from benchmarks.markdown import percent, table
from fits.files import write_text
from fits.numbers import count
from scaling.planner.binding_constraints import describe
from scaling.planner.constraints import constraints_of
from scaling.planner.loss_model import Text
from scaling.planner.published_loss_models import published_loss_model
from scaling.planner.search import Search, Spending, candidates, search
from scaling.planner.search_space import dense_space, usual_space
from trainer_small.architecture import Architecture
from trainer_small.ladder import Family

ROOT = Path(__file__).resolve().parents[2]
LENGTH = 4096


@dataclass(frozen=True)
class Built:
    """A model as released: its name in ``cluster/published_runs.yaml``, its tokens and where they are stated."""

    name: str
    tokens: float
    source: str


MODELS = (
    Built("DeepSeek-V3", 14.8e12, "arXiv 2412.19437"),
    Built("Qwen3-235B-A22B", 36e12, "arXiv 2505.09388"),
    Built("Qwen3-30B-A3B", 36e12, "arXiv 2505.09388"),
    Built("Moonlight-16B", 5.7e12, "arXiv 2502.16982"),
    Built("Llama-3-8B", 15e12, "arXiv 2407.21783"),
    Built("Llama-3.1-405B", 15.6e12, "arXiv 2407.21783"),
)
LAWS = {"moe": ("tian", "tian-hoffmann", "joint-moe", "abnar"), "dense": ("besiroglu", "hoffmann", "gadre-redpajama")}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "replanned_models.md")
    options = parser.parse_args()
    known = published()["models"]
    rows = [row for built in MODELS for row in _rows(built, known[built.name])]
    text = PAGE.format(table=table(COLUMNS, rows))
    write_text(options.out, text)


COLUMNS = ("model", "by", "shape", "total", "active", "tokens", "tokens per active", "as built costs", "at its ratio")

PAGE = """# Published models planned again

What would published laws have built with the budgets of six published models? Written by
`python benchmarks/planner/replanned_models.py`.

The budget is the exact FLOPs of each model's own shape and tokens (sequences of 4096, causal attention, head in). A
mixture's total parameters are the cap. Vocabulary, kind of attention and shared experts are kept; each law chooses the
rest.

- `as built costs`: the extra compute with which the built model would reach the loss of the law's own best.
- `at its ratio`: the same, when the law must not give more tokens per active parameter than the built model had. This
  judges the shape alone.

{table}

How to read it:

- Where the total is capped, the laws of leverage over a dense loss ask for fewer active parameters and more tokens than
  DeepSeek-V3, Qwen3-235B and Moonlight have.
- `joint-moe` and the dense laws ask for far larger models on far fewer tokens than anyone has built since 2024. Serving
  explains that, and is in no budget here: see `--inference-tokens`.
- A negative figure means that the law prefers the built model to all shapes tried. These models have up to twice the
  usual attention for their width. A law that counts FLOPs takes that as compute well spent, and cannot know.
- This page cannot tell which law is right about a shape. `tian` finds DeepSeek-V3 and Qwen3-235B within 5 % of its
  best, and others do not. That shows where those models are in the range of that law, not that either is right.
- The authors of Llama-3.1-405B planned it with a law of their own (402B on 16.55T tokens at 3.8e25 FLOPs).
"""


def _rows(built: Built, shape: Architecture) -> list[list[Any]]:
    flops = float(shape.flops_per_token(LENGTH) * built.tokens)
    ratio = built.tokens / shape.params_active
    rows = [[f"**{built.name}**", f"built ({built.source})", *_size(shape, 0, built.tokens), "", ""]]
    for law in LAWS["moe" if shape.is_moe else "dense"]:
        free = _searched(law, shape, flops)
        held = _searched(law, shape, flops, tokens_per_parameter=(1.0, ratio))
        tokens = float(free.tokens[free.best])
        size = _size(free.shape, 0, tokens)
        rows.append(["", law, *size, *(percent(_cost(each, shape, built.tokens)) for each in (free, held))])
    return rows


def _searched(law: str, shape: Architecture, flops: float, **changes: Any) -> Search:
    """The best shape by a law under the limits of the built one."""
    family = Family(
        attention=shape.attention,
        num_dense_layers=min(shape.num_dense_layers, 1),
        tied_embeddings=shape.tied_embeddings,
        qk_norm="per_head" if shape.qk_norm == "per_head" else "none",
        router_score_function=shape.router_score_function,
    )
    limits = {
        "vocab_size": (shape.vocab_size,),
        "num_shared_experts": (shape.num_shared_experts,),
        "max_params_total": 1.005 * shape.params_total,
    }
    space = usual_space(family, **limits | changes)
    if not shape.is_moe:
        space = dense_space(space).model_copy(update={"max_params_total": None})
    spending = Spending(flops, Text(LENGTH))
    return search(published_loss_model(law), candidates(space, spending, constraints_of(space, flops, "h200")))


def _cost(found: Search, shape: Architecture, tokens: float) -> float:
    return float(found.regret_of(shape, tokens, to=found.lowest)[0])


def _size(shape: Architecture, row: int, tokens: float) -> list[str]:
    per = tokens / shape.params_active
    return [describe(shape, row), count(shape.params_total), count(shape.params_active), count(tokens), f"{per:.0f}"]


if __name__ == "__main__":
    main()
