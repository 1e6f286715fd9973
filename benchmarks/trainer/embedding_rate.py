"""How fast should the embedding learn in a short run? Training loss against its rate factor, three seeds each.

Run: python benchmarks/trainer/embedding_rate.py [STEPS]   (about a minute a factor at 255 steps on one core)
"""

import platform
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from trainer_small.architecture import Architecture
from trainer_small.config import DataConfig, RunConfig, TrainingConfig
from trainer_small.data.token_reader import TokenReader
from trainer_small.data.tokens import prepare_tokens
from trainer_small.designs.recipe import BASE_EXPERTS
from trainer_small.ladder import Family, usual_depth
from trainer_small.steps.training import Training
from vocab_study.corpus.corpus import build_corpus
from vocab_study.study.make_study import study_vocabulary

FACTORS = (1, 10, 30, 50, 100)
SEEDS = (0, 1, 2)
HIDDEN_SIZE, VOCAB_SIZE = 64, 2048


def final_loss(shape: Architecture, tokens: Path, factor: float, steps: int, seed: int) -> float:
    """Mean training loss of the last eighth of a run, nats per token."""
    recipe = TrainingConfig(tokens=steps * 1024, batch_tokens=1024, learning_rate=2**-7, embedding_rate_factor=factor)
    config = RunConfig(
        run_id="run", architecture=shape, training=recipe, seed=seed, data=DataConfig(tokens=str(tokens))
    )
    training = Training(config, TokenReader(tokens, recipe.sequence_length, seed), torch.device("cpu"))
    for _ in range(steps):
        training.advance()
    training.settle()
    return float(np.mean(training.losses[-steps // 8 :]))


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 255
    torch.set_num_threads(1)
    shape = Family().shape(HIDDEN_SIZE, round(usual_depth(HIDDEN_SIZE)), BASE_EXPERTS, VOCAB_SIZE)
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, 1 thread, {steps} steps")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        build_corpus(["python:stdlib"], root / "corpus")
        study = study_vocabulary(root / "corpus", root / "study", max_size=VOCAB_SIZE, sizes=[VOCAB_SIZE])
        prepare_tokens(root / "corpus", study.tokenizer_file(VOCAB_SIZE), root / "tokens")
        print("factor  mean loss  spread over seeds")
        for factor in FACTORS:
            losses = [final_loss(shape, root / "tokens", factor, steps, seed) for seed in SEEDS]
            print(f"{factor:6g}  {np.mean(losses):9.3f}  {np.std(losses, ddof=1):.3f}", flush=True)


if __name__ == "__main__":
    main()
