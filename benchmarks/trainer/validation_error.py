"""How well a validation text of so many bytes measures: its sampling error, beside what another seed changes.

Three runs that differ in the seed, scored on validation texts of several sizes (whole documents of the standard
library). ``own`` is the error that ``result.json`` states: how far other documents would move one loss. Runs that are
compared share their documents, so what counts there is ``of a difference``, over the same documents.

Run: python benchmarks/trainer/validation_error.py [--tokens 400000]
"""

import argparse
import itertools
import math
import platform
import tempfile
from pathlib import Path

import numpy as np
import torch

from scaling.commands.console import print_table, say
from trainer_small.architecture import Architecture
from trainer_small.config import DataConfig, RunConfig, TrainingConfig
from trainer_small.data.token_reader import TokenReader
from trainer_small.data.tokens import prepare_tokens
from trainer_small.data.validation_tokens import ValidationTokens
from trainer_small.machine.numerics import processor_name, set_matmul_precision
from trainer_small.steps.evaluate import score
from trainer_small.steps.training import Training
from vocab_study.corpus.corpus import build_corpus
from vocab_study.study.make_study import study_vocabulary

VOCAB_SIZE, SEEDS = 2048, 3
BUDGETS = (65536, 262144, 1048576)
ARCHITECTURE = Architecture(
    vocab_size=VOCAB_SIZE,
    hidden_size=64,
    num_layers=4,
    num_attention_heads=2,
    num_experts=8,
    experts_per_token=2,
    num_shared_experts=1,
    expert_ffn_size=64,
    router_score_function="sigmoid",
    router_selection_bias=True,
)


def train(tokens: Path, recipe: TrainingConfig, seed: int) -> Training:
    config = RunConfig(
        run_id="run", architecture=ARCHITECTURE, training=recipe, seed=seed, data=DataConfig(tokens=str(tokens))
    )
    training = Training(config, TokenReader(tokens, recipe.sequence_length, seed), torch.device("cpu"))
    for _ in range(recipe.steps):
        training.advance()
    return training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=400_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    set_matmul_precision(torch.device("cpu"), ARCHITECTURE.hidden_size)
    recipe = TrainingConfig(tokens=options.tokens, learning_rate=2**-8)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        build_corpus(["python:stdlib"], root / "corpus", validation_fraction=0.15)
        study = study_vocabulary(root / "corpus", root / "study", max_size=VOCAB_SIZE, sizes=[VOCAB_SIZE])
        tokens = root / "tokens"
        prepare_tokens(root / "corpus", study.tokenizer_file(VOCAB_SIZE), tokens)
        texts = {budget: ValidationTokens(tokens, budget) for budget in BUDGETS}
        sums = {budget: [] for budget in BUDGETS}
        for seed in range(SEEDS):
            model = train(tokens, recipe, seed).model
            for budget, text in texts.items():
                losses = score(model, text, recipe.sequence_length, 16384, torch.device("cpu"))
                sums[budget].append(np.bincount(text.document, weights=losses, minlength=len(text.bytes)))
    rows = []
    for budget, text in texts.items():
        sizes = np.bincount(text.document, minlength=len(text.bytes))
        nats = np.stack(sums[budget])
        losses = nats.sum(1) / sizes.sum()
        own = np.mean([_error(one, sizes) for one in nats])
        pairs = list(itertools.combinations(nats, 2))
        paired = np.mean([_error(one - other, sizes) for one, other in pairs])
        rows.append(
            [f"{budget // 1024} KiB", len(sizes), int(sizes.sum()), f"{losses.mean():.4f}"]
            + [f"{value:.4f}" for value in (own, paired, losses.std(ddof=1), losses.std(ddof=1) * math.sqrt(2))]
        )
    title = f"{processor_name()}, {platform.system()}, torch {torch.__version__}; {options.tokens:,} training tokens"
    heads = ["text", "docs", "tokens", "loss", "own error", "of a difference", "seeds", "seeds x sqrt 2"]
    print_table(heads, rows, title=f"{title}; nats per token")
    say("'of a difference' is to be read beside 'seeds x sqrt 2': what two runs of different seeds differ by")


def _error(total: np.ndarray, size: np.ndarray) -> float:
    """Standard error of sum(total) / sum(size) over documents."""
    rest = total - total.sum() / size.sum() * size
    return float(np.sqrt(np.square(rest).sum() * len(total) / (len(total) - 1)) / size.sum())


if __name__ == "__main__":
    main()
