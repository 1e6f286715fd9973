"""Part 1: what the machine is and gives, the tests marked ``gpu``, and the kernels of attention beside each other."""

import time

_STARTED = time.perf_counter()
import torch  # noqa: E402

_TORCH_SECONDS = time.perf_counter() - _STARTED
import importlib  # noqa: E402
import importlib.util  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import platform  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from itertools import product  # noqa: E402
from pathlib import Path  # noqa: E402

from benchmarks.gpu import attention  # noqa: E402
from benchmarks.gpu.record import Record, arguments  # noqa: E402
from benchmarks.gpu.timing import clean, copy_bandwidth, gemm_flops, times_of  # noqa: E402

ROOT = Path(__file__).parents[2]


def facts(device: torch.device) -> dict[str, object]:
    found: dict[str, object] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "memory_gib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
    }
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        found |= {
            "card": card.name,
            "driver": _driver(),
            "cuda": torch.version.cuda,
            "card_memory_gib": card.total_memory / 2**30,
            "card_free_gib": torch.cuda.mem_get_info(device)[0] / 2**30,
            "multiprocessors": card.multi_processor_count,
        }
    return found


def _processor() -> str:
    from trainer_small.machine.numerics import processor_name

    return processor_name()


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.splitlines()[0]
    except (OSError, IndexError, subprocess.TimeoutExpired):
        return None


def speeds(record: Record, device: torch.device, *, tiny: bool) -> None:
    size = 2**20 if tiny else 2**32
    record.facts(gemm_flops=gemm_flops(device, 256 if tiny else 8192), copy_bytes=copy_bandwidth(device, size))
    if device.type == "cuda":
        host = torch.zeros(2**28, dtype=torch.uint8).pin_memory()
        there = torch.empty_like(host, device=device)
        times = times_of(lambda: there.copy_(host, non_blocking=True), device, steps=5, warm_up=1)
        record.facts(to_card_bytes=2**28 / min(times))


def imports(record: Record) -> None:
    seconds = {"torch": _TORCH_SECONDS}
    for name in ("transformers", "trainer_small.runs.run", "scaling.cli"):
        started = time.perf_counter()
        importlib.import_module(name)
        seconds[name] = time.perf_counter() - started
    import transformers

    record.facts(import_seconds=seconds, transformers=transformers.__version__)


def tests(record: Record, work: Path, seconds: float, *, tiny: bool) -> None:
    """Run them, several at a time where pytest-xdist is there, and keep every outcome as it comes."""
    outcomes = work / "outcomes.jsonl"
    outcomes.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "benchmarks.gpu.outcomes", "--tb=short"]
    command += ["-m", "gpu and not slow" if tiny else "gpu", "tests/gpu"]
    if importlib.util.find_spec("xdist") and not tiny:
        command += ["-n", str(min(8, len(os.sched_getaffinity(0))))]
    environment = os.environ | {
        "OUTCOMES": str(outcomes),
        "OMP_NUM_THREADS": "1",
        "TORCHINDUCTOR_COMPILE_THREADS": "2",  # each process would start as many compilers as there are cores
    }
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.5)
        _keep(record, outcomes)
    stopped = process.poll() is None
    if stopped:
        process.kill()
        process.wait()
    _keep(record, outcomes)
    if stopped:
        raise TimeoutError(f"the tests were stopped after {seconds:.0f} s: those not named had not ended")
    if process.returncode not in (0, 1):
        raise RuntimeError(f"pytest ended with exit code {process.returncode}: see the log")


def _keep(record: Record, outcomes: Path) -> None:
    if outcomes.exists():
        lines = outcomes.read_text(encoding="utf-8").splitlines(keepends=True)
        record.facts(tests=[json.loads(line) for line in lines if line.endswith("\n")])


def main() -> None:
    options = arguments(__doc__)
    record, device = Record(options, clean), torch.device(options.device)
    record.facts(**facts(device))
    record.attempt("product and copy", lambda: speeds(record, device, tiny=options.tiny), limit=15)
    record.attempt("imports", lambda: imports(record), limit=30)

    def kernel(heads: attention.Heads, name: str) -> None:
        record.row(**attention.measure(heads, name, device, tiny=options.tiny))

    def kernels(names: list[str]) -> None:
        for name, heads in product(names, attention.HEADS):
            what = f"attention, {heads.name}, {name}"
            record.attempt(what, lambda heads=heads, name=name: kernel(heads, name), limit=20)

    names = attention.kernels(device)
    kernels([name for name in names if name != "flex"])
    seconds = max(5.0, record.left() - 4)
    record.attempt("tests", lambda: tests(record, options.work, seconds, tiny=options.tiny), limit=seconds + 2)
    kernels([name for name in names if name == "flex"])  # which is compiled for each kind of head: last


if __name__ == "__main__":
    main()
