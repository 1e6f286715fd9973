"""The road of the text: tokenizing into shards (speed, and memory that does not grow), and reading windows for a GPU.

The text is the standard library's sources, over and over with a number in front. Each size runs in a process of its
own, so that peak memory is its own:
python benchmarks/trainer/data_speed.py [--megabytes 32,128,512] [--vocab-size 8192]

Then what the thread gives that reads ahead of a GPU's training, of documents that are whole files, of such that are
single lines, and of a mixture of both; nothing is trained beside it.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.byte_tokenizer import save_byte_tokenizer
from scaling.commands.console import print_table, say
from trainer_small.config import TokenSource
from trainer_small.data.batches import Batches
from trainer_small.data.token_reader import TokenReader
from trainer_small.data.tokens import prepare_tokens, read_manifest
from trainer_small.machine.memory import peak_memory_bytes
from trainer_small.machine.numerics import processor_name

NEEDED = 2_000_000
"""Tokens a second that the fastest proxy of one GPU takes (11M active parameters)."""
HEADS = ["text MB", "shards", "MB/s", "peak MB", "+ reading", "Mtok/s 2048", "Mtok/s 128", "shuffle ms"]
LENGTHS = (128, 512, 2048, 8192)


def sources() -> list[str]:
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(
        path for path in root.rglob("*.py") if "site-packages" not in path.parts and "test" not in path.parts
    )
    return [path.read_text(encoding="utf-8", errors="ignore") for path in paths]


def documents(megabytes: int) -> Iterator[str]:
    texts, done, number = sources(), 0, 0
    while done < megabytes * 10**6:
        text = f"# {number}\n{texts[number % len(texts)]}"
        yield text
        done, number = done + len(text), number + 1


def write_corpus(folder: Path, megabytes: int, *, by_line: bool = False) -> None:
    folder.mkdir()
    for split, size in (("train", megabytes), ("validation", 1)):
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as handle:
            texts = documents(size)
            if by_line:
                texts = (line for text in texts for line in text.splitlines() if line.strip())
            for number, text in enumerate(texts):
                handle.write(json.dumps({"id": f"{split}-{number}", "source": "stdlib", "text": text}) + "\n")


def measure_one(folder: Path, tokenizer: Path) -> dict[str, float]:
    before = peak_memory_bytes()
    started = time.perf_counter()
    manifest = prepare_tokens(folder, tokenizer, folder / "tokens")
    seconds = time.perf_counter() - started
    out = {"tokenize_mb_s": manifest.train.bytes / seconds / 1e6, "tokenize_mb": (peak_memory_bytes() - before) / 1e6}
    out |= {"tokens": float(manifest.train.tokens), "shards": float(len(manifest.train.shards))}
    for length, rows in ((2048, 32), (128, 512)):
        reader = TokenReader(folder / "tokens", length, seed=0)
        started = time.perf_counter()
        reader.batch(0, 1)  # shuffles the epoch
        out[f"shuffle_{length}"] = time.perf_counter() - started
        started, batches = time.perf_counter(), 20
        for batch in range(batches):
            reader.batch(batch * rows, rows)
        out[f"read_{length}"] = batches * rows * length / (time.perf_counter() - started)
    out["all_mb"] = (peak_memory_bytes() - before) / 1e6
    return out


def tokens_per_second(sources: list[TokenSource], length: int) -> float:
    """Of steps of 65,536 tokens, one after another from the thread that reads ahead."""
    reader, rows, steps = TokenReader(sources, length, seed=0), 2**16 // length, 64
    batches = Batches(lambda step: reader.batch(step * rows, rows), torch.device("cpu"), ahead=3)
    batches.of(0)
    started = time.perf_counter()
    for step in range(1, steps + 1):
        batches.of(step)
    seconds = time.perf_counter() - started
    batches.close()
    return steps * rows * length / seconds


def measure_reading(folder: Path, tokenizer: Path, title: str) -> None:
    for name in ("files", "lines"):
        write_corpus(folder / name, 32, by_line=name == "lines")
        prepare_tokens(folder / name, tokenizer, folder / name / "tokens")
    files, lines = (TokenSource(tokens=str(folder / name / "tokens")) for name in ("files", "lines"))
    subjects = {"files": [files], "lines": [lines], "three of files to one of lines": [files] * 3 + [lines]}
    rows = []
    for name, sources in subjects.items():
        manifests = [read_manifest(source.tokens).train for source in sources]
        mean = sum(one.tokens for one in manifests) / sum(one.documents for one in manifests)
        speeds = (tokens_per_second(sources, length) for length in LENGTHS)
        rows.append([name, round(mean), *(f"{speed / 1e6:.0f}" for speed in speeds)])
    heads = ["documents", "tokens each", *(f"Mtok/s {length}" for length in LENGTHS)]
    print_table(heads, rows, title=f"{title}; one thread that reads ahead")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", default="32,128,512")
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "TOKENIZER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure_one(Path(options.one[0]), Path(options.one[1]))))
        return
    rows = []
    with tempfile.TemporaryDirectory() as name:
        tokenizer = Path(name, "tokenizer.json")
        save_byte_tokenizer(tokenizer, documents(8), options.vocab_size)
        for size in map(int, options.megabytes.split(",")):
            folder = Path(name, str(size))
            write_corpus(folder, size)
            command = [sys.executable, __file__, "--one", str(folder), str(tokenizer)]
            done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            rows.append(
                [
                    size,
                    int(done["shards"]),
                    round(done["tokenize_mb_s"], 1),
                    round(done["tokenize_mb"]),
                    round(done["all_mb"]),
                    *(f"{done[f'read_{length}'] / 1e6:.0f}" for length in (2048, 128)),
                    *(round(done["shuffle_2048"] * 1e3, 1),),
                ]
            )
            for path in folder.rglob("*.*"):
                path.unlink()
        cores = len(os.sched_getaffinity(0))
        title = f"{processor_name()}, {cores} core(s), {platform.system()}; vocabulary {options.vocab_size:,}"
        print_table(HEADS, rows, title=title)
        measure_reading(Path(name), tokenizer, title)
    say(f"one GPU takes at most about {NEEDED / 1e6:.0f} million tokens a second; one reader runs on one core")


if __name__ == "__main__":
    main()
