"""Peak memory predicted before a run against what the run took, over shapes; each run has a process of its own.

python benchmarks/trainer/memory_prediction.py [--only NAME] [--compile] [--room]
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.byte_tokenizer import save_byte_tokenizer
from benchmarks.trainer.forms import EXPERTS, LATENT
from scaling.commands.console import print_table, say
from trainer_small.config import RunConfig
from trainer_small.data.tokens import prepare_tokens
from trainer_small.machine.memory import LARGE_PAGES
from trainer_small.machine.numerics import processor_name
from trainer_small.result import Result
from trainer_small.steps.memory_estimate import memory_estimate

DENSE = {"vocab_size": 8192, "hidden_size": 256, "num_layers": 4, "num_attention_heads": 4, "dense_ffn_size": 768}
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "dense, 2k tokens": (DENSE, {}, {}),
    "dense, 8k tokens": (DENSE, {"batch_tokens": 8192}, {}),
    "dense, 8k tokens in parts of 2k": (DENSE, {"batch_tokens": 8192, "micro_batch_tokens": 2048}, {}),
    "16 experts, 2k tokens": (DENSE | EXPERTS, {}, {}),
    "16 experts, 8k tokens": (DENSE | EXPERTS, {"batch_tokens": 8192}, {}),
    "16 experts, bfloat16": (DENSE | EXPERTS, {"batch_tokens": 4096}, {"dtype": "bfloat16"}),
    "16 experts, MLA": (DENSE | EXPERTS | LATENT, {"batch_tokens": 4096}, {}),
    "16 experts, layers recomputed": (
        DENSE | EXPERTS,
        {"batch_tokens": 8192},
        {"activation_checkpointing": True},
    ),
    "64 experts of 128": (DENSE | EXPERTS | {"num_experts": 64, "expert_ffn_size": 128}, {}, {}),
    "128 experts, 8 layers": (DENSE | EXPERTS | {"num_experts": 128, "num_layers": 8, "expert_ffn_size": 64}, {}, {}),
    "vocabulary 32k": (DENSE | EXPERTS | {"vocab_size": 32768}, {"batch_tokens": 4096}, {}),
    "vocabulary 163,840": (DENSE | EXPERTS | {"vocab_size": 163_840}, {"batch_tokens": 4096}, {}),
    "512 wide, 8 layers": (
        DENSE | EXPERTS | {"hidden_size": 512, "num_layers": 8, "num_attention_heads": 8},
        {"batch_tokens": 4096},
        {},
    ),
    "tiny: 64 wide": (
        DENSE | EXPERTS | {"vocab_size": 2048, "hidden_size": 64, "expert_ffn_size": 64, "dense_ffn_size": 128},
        {},
        {},
    ),
    # From here on: made after the constants of ``process_bytes`` were set.
    "384 wide, 24 experts, 4 a token, Muon": (
        DENSE
        | EXPERTS
        | {"hidden_size": 384, "num_attention_heads": 6, "num_layers": 3, "num_experts": 24, "experts_per_token": 4}
        | {"expert_ffn_size": 192, "vocab_size": 16384},
        {"optimizer": "muon", "batch_tokens": 6144},
        {},
    ),
    "320 wide, MLA, first layer dense, bfloat16": (
        DENSE
        | EXPERTS
        | LATENT
        | {"hidden_size": 320, "num_layers": 6, "num_dense_layers": 1, "num_experts": 40, "expert_ffn_size": 128}
        | {"moe_output_norm": True, "vocab_size": 12032},
        {"batch_tokens": 4096, "sequence_length": 512},
        {"dtype": "bfloat16"},
    ),
    "dense, sequences of 2,048": (
        DENSE | {"hidden_size": 192, "num_attention_heads": 6, "num_layers": 10, "dense_ffn_size": 512},
        {"batch_tokens": 8192, "sequence_length": 2048},
        {},
    ),
    "two more tokens predicted, softmax gate": (
        DENSE
        | EXPERTS
        | {"router_score_function": "softmax", "router_selection_bias": False}
        | {"num_nextn_predict_layers": 2, "num_experts": 12, "hidden_size": 128, "num_attention_heads": 2},
        {"batch_tokens": 4096, "micro_batch_tokens": 2048, "balancing": "auxiliary_loss"},
        {},
    ),
}


def make_tokens(folder: Path) -> Path:
    """Tokens of some made-up text, by bytes: any vocabulary can have them."""
    corpus, words = folder / "corpus", random.Random(0)
    corpus.mkdir()
    for split, documents in (("train", 200), ("validation", 8)):
        texts = (" ".join(words.choices(("alpha", "beta", "gamma", "delta"), k=200)) for _ in range(documents))
        lines = [json.dumps({"id": str(at), "source": "made", "text": text}) + "\n" for at, text in enumerate(texts)]
        (corpus / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    save_byte_tokenizer(corpus / "tokenizer.json")
    prepare_tokens(corpus, corpus / "tokenizer.json", folder / "tokens")
    return folder / "tokens"


def config_of(name: str, tokens: Path, *, compiled: bool) -> RunConfig:
    architecture, training, keys = SHAPES[name]
    training = {"sequence_length": 256, "batch_tokens": 2048, "learning_rate": 1e-3} | training
    data = {
        "run_id": "run",
        "architecture": architecture,
        "training": training | {"tokens": 5 * training["batch_tokens"]},
        "evaluation": {"validation_bytes": 4096},
        "device": "cpu",
        "compile": compiled,
        "data": {"tokens": str(tokens)},
    }
    return RunConfig.parse(data | keys, name)


def measure(config: RunConfig, folder: Path, *, room: bool) -> int:
    """Peak resident bytes of the run in a process of its own."""
    config.save(folder / "config.yaml")
    program = (
        "import sys; from trainer_small.engines.run_process import run_in_process; "
        "run_in_process(sys.argv[1], threads=1)"
    )
    # As a run has it that needs most of the free memory (``memory.give_back_at_once``), or one with room.
    memory = LARGE_PAGES if room else {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
    environment = os.environ | memory | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", program, str(folder)], check=True, env=environment)
    result = Result.load(folder / "result.json")
    assert result.speed is not None
    return result.speed.peak_memory_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=list(SHAPES))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--room", action="store_true", help="as a run that has much more memory than it needs")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        tokens = make_tokens(Path(folder))
        for at, name in enumerate([options.only] if options.only else SHAPES):
            config = config_of(name, tokens, compiled=options.compile)
            predicted = memory_estimate(config)
            (run := Path(folder, f"run-{at}")).mkdir()
            taken = measure(config, run, room=options.room)
            parts = predicted.tensors, predicted.total, taken
            rows.append([name, *(round(part / 2**20) for part in parts), f"{predicted.total / taken - 1:+.1%}"])
    title = f"{processor_name()}, 1 thread{', compiled' if options.compile else ''}; MiB"
    print_table(["run", "tensors", "predicted", "measured", "error"], rows, title=title)
    say(f"largest error {max(abs(float(row[-1].rstrip('%'))) for row in rows):.1f} %")


if __name__ == "__main__":
    main()
