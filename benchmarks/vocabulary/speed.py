"""All vocabulary sizes in one study against training and encoding each size with Hugging Face tokenizers.

    python benchmarks/vocabulary/speed.py [--corpora FOLDER] [--sizes 4096,...] [--gigabyte]

CPU seconds (all threads) of jobs in processes of their own, in the same run. Both sides train on the train split and
encode both splits; token counts must agree at every size. Without FOLDER the standard library is the text.
``--gigabyte`` also studies about 1 GB of text and prints the peak memory.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.shared import CORPORA, LANGUAGES

SIZES = "4096,8192,16384,32768,65536,131072"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, default=CORPORA)
    parser.add_argument("--sizes", default=SIZES)
    parser.add_argument("--gigabyte", action="store_true")
    parser.add_argument("--job", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        run_job(*arguments.job)
        return
    with tempfile.TemporaryDirectory() as folder:
        if arguments.gigabyte:
            measure_memory(Path(folder), arguments.corpora)
        else:
            compare(Path(folder), arguments.corpora, [int(size) for size in arguments.sizes.split(",")])


def sources_in(corpora: Path) -> list[str]:
    return [str(corpora / name) for name in LANGUAGES] if corpora.is_dir() else ["python:stdlib"]


def compare(folder: Path, corpora: Path, sizes: list[int]) -> None:
    from vocab_study.corpus.corpus import build_corpus

    manifest = build_corpus(sources_in(corpora), folder / "corpus")
    print(f"text: {manifest.train.bytes / 1e6:.1f} MB train, {manifest.validation.bytes / 1e6:.1f} MB validation")
    machine = platform.processor() or platform.machine()
    print(f"machine: {machine}, {os.cpu_count()} cores, Python {platform.python_version()}")
    study = job("study", folder / "corpus", folder / "study", *sizes)
    print(f"\n{'job':<44}{'CPU s':>8}{'wall s':>8}{'peak GB':>9}")
    show(f"one study, every size from 257 to {max(sizes)}", study)
    total = 0.0
    for size in sizes:
        alone = job("alone", folder / "corpus", size)
        show(f"Hugging Face, {size} by itself", alone)
        total += alone["cpu"]
        if alone["tokens"] != study["tokens"][str(size)]:
            raise SystemExit(f"the token counts differ at {size}: {alone['tokens']} and {study['tokens'][str(size)]}")
    print(f"\n{len(sizes)} sizes by themselves {total:.0f} CPU s, the study {study['cpu']:.1f} ({study['trainer']})")
    print(f"ratio {total / study['cpu']:.1f}; token counts equal at all {len(sizes)} sizes")


def measure_memory(folder: Path, corpora: Path) -> None:
    from trainer_small.data.documents import read_documents
    from vocab_study.corpus.corpus import build_corpus

    build_corpus(sources_in(corpora), folder / "once")
    texts = [document for split in ("train", "validation") for document in read_documents(folder / "once", split)]
    size = sum(len(document.text.encode()) for document in texts)
    with (folder / "many.jsonl").open("w") as out:
        for copy in range(round(1e9 / size)):
            for document in texts:
                text = f"{document.text}\n{copy} {document.id}\n"  # or it would be dropped as a duplicate
                out.write(json.dumps({"id": f"{copy}/{document.id}", "source": document.source, "text": text}) + "\n")
    del texts
    print(f"{'job':<44}{'CPU s':>8}{'wall s':>8}{'peak GB':>9}")
    corpus = job("corpus", folder / "many.jsonl", folder / "corpus")
    show(f"corpus of {corpus['bytes'] / 1e9:.2f} GB", corpus)
    show("study up to 131072", job("study", folder / "corpus", folder / "study", 131_072))


def show(name: str, result: dict) -> None:
    print(f"{name:<44}{result['cpu']:>8.1f}{result['wall']:>8.1f}{result['peak']:>9.2f}", flush=True)


def job(*arguments: object) -> dict:
    """Run a job in a process of its own; its result with CPU and wall seconds and peak memory."""
    command = [sys.executable, __file__, "--job", *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def run_job(name: str, *arguments: str) -> None:
    """Do a job and print what it took; what it tells is gathered after the clock has stopped."""
    started = time.perf_counter()
    told = {"corpus": corpus_job, "study": study_job, "alone": alone_job}[name](*arguments)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    spent = {"cpu": usage.ru_utime + usage.ru_stime, "wall": time.perf_counter() - started}
    print(json.dumps(told() | spent | {"peak": usage.ru_maxrss / 1e6}))


def corpus_job(source: str, out: str) -> Callable[[], dict]:
    from vocab_study.corpus.corpus import build_corpus

    manifest = build_corpus([source], out)
    return lambda: {"bytes": manifest.train.bytes + manifest.validation.bytes}


def study_job(corpus: str, out: str, *sizes: str) -> Callable[[], dict]:
    from vocab_study.study.make_study import study_vocabulary

    study = study_vocabulary(corpus, out, max_size=max(map(int, sizes)))

    def told() -> dict:
        splits = ("train", "validation")
        tokens = {size: sum(study.at(int(size), "tokens", split=split) for split in splits) for size in sizes}
        return {"tokens": tokens, "trainer": study.summary.trainer}

    return told


def alone_job(corpus: str, size: str) -> Callable[[], dict]:
    from trainer_small.data.documents import read_documents
    from vocab_study.tokenizers.compression import count_tokens
    from vocab_study.tokenizers.tokenizer import train_tokenizer

    tokenizer = train_tokenizer((document.text for document in read_documents(corpus, "train")), int(size))
    both = (("all", d.text) for split in ("train", "validation") for d in read_documents(corpus, split))
    tokens = int(count_tokens(tokenizer, both)["all"].sum())
    return lambda: {"tokens": tokens}


if __name__ == "__main__":
    main()
