"""The first minutes of the GPU trainer on a card, in one command: what works, how fast it is, where the time goes.

python benchmarks/gpu/first_minutes.py --minutes 9 --out DIR [--parts 1,2,3]; on a machine without a GPU, to see that it
works: python benchmarks/gpu/first_minutes.py --out DIR --device cpu --tiny

Each part is a process of its own with a limit of its own, writes what it finds after every row, and costs the others
nothing when it fails. Read ``page.md`` in the folder; ``README.md`` beside this file says what else is there.
"""

import argparse
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))  # nothing of the project need be installed

from benchmarks.gpu.page import page  # noqa: E402
from benchmarks.gpu.record import read, write  # noqa: E402

MINUTES = 9.0
_MODULES = {"pyyaml": "yaml"}
"""Packages that are imported by another name."""
_REPORT_ONLY = {"altair", "vl-convert-python"}
"""What no part needs: they draw the charts of the report."""
_BESIDES = ("pydantic-core", "annotated-types", "typing-inspection", "typing-extensions", "transformers", "safetensors")
_BESIDES += ("pytest",)
"""What the project's own list does not name: what pydantic needs in turn, and what the parts do."""
_LEAST_SECONDS = 15.0
"""Left to a part for it to be started again."""


@dataclass(frozen=True)
class Part:
    number: int
    name: str
    script: Path
    seconds: float
    """Of ``MINUTES``; what a part leaves the next one has too."""

    @property
    def title(self) -> str:
        return f"{self.number}_{self.name}"


PARTS = (
    Part(1, "machine", HERE / "machine.py", 80),
    Part(2, "shapes", HERE / "six_shapes.py", 170),
    Part(3, "small", HERE / "many_small.py", 85),
    Part(4, "sweep", HERE / "proxy_sweep.py", 145),
    Part(5, "profile", HERE / "profile_slowest.py", 60),
)


def missing() -> list[str]:
    """Packages without which a part cannot run."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [requirement.split(">")[0] for requirement in project["dependencies"]]
    return [
        name
        for name in (*names, *_BESIDES)
        if name not in _REPORT_ONLY and importlib.util.find_spec(_MODULES.get(name, name.replace("-", "_"))) is None
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of all parts together, at most (9)")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the results")
    parser.add_argument("--parts", default=",".join(str(part.number) for part in PARTS), help="such as 1,2")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="sizes for a test; nothing is compiled")
    options = parser.parse_args(arguments)
    known = {str(part.number): part for part in PARTS}
    if unknown := [number for number in options.parts.split(",") if number not in known]:
        return _refuse(f"--parts has {unknown[0]!r}; choose of {','.join(known)}.")
    if lacking := missing():
        return _refuse(
            f"not installed here: {', '.join(lacking)}; install them, or bring them as wheels as "
            "benchmarks/gpu/README.md says."
        )
    if options.device == "cuda" and not _sees_a_gpu():
        return _refuse("torch sees no GPU here; run this on one, or with --device cpu --tiny to see that it works.")
    options.out.mkdir(parents=True, exist_ok=True)
    spare, all_done = 0.0, True
    with tempfile.TemporaryDirectory(prefix="first_minutes_") as work:
        for number in options.parts.split(","):
            limit = known[number].seconds * options.minutes / MINUTES + spare
            print(f"part {known[number].title}: at most {limit:.0f} s", flush=True)
            started = time.monotonic()
            try:
                done = run(known[number], limit, options, Path(work))
            finally:
                (options.out / "page.md").write_text(page(options.out), encoding="utf-8")
            spare = max(0.0, limit - (time.monotonic() - started))
            all_done &= done
    print(f"read {options.out / 'page.md'}")
    return 0 if all_done else 1


def run(part: Part, limit: float, options: argparse.Namespace, work: Path) -> bool:
    """One part to its end or its limit; what became of it goes into its file, and what it printed into the log.

    A part that dies is started again and goes on after the row it died in.
    """
    started = time.monotonic()
    out, log = options.out / f"{part.title}.json", options.out / "log.txt"
    out.unlink(missing_ok=True)
    with log.open("a", encoding="utf-8") as handle:
        handle.write(f"\n==== part {part.title}\n")
    begins = log.stat().st_size
    while True:
        before = _last_tried(out)
        status = _process(part, limit - (time.monotonic() - started), out, log, options, work)
        left = limit - (time.monotonic() - started)
        if status == "done" or left < _LEAST_SECONDS or _last_tried(out) == before:
            break
    if left <= 0:
        status = f"stopped at its limit of {limit:.0f} s"
    with log.open("rb") as handle:
        handle.seek(begins)
        lines = handle.read().decode("utf-8", "replace").splitlines()
    out.with_name(f".{out.name}.new").unlink(missing_ok=True)
    content = read(out)
    if cut := content.pop("trying", None):
        content["left_out"].append({"what": cut, "why": f"was being measured when the part was {status}"})
    content["part"] = {
        "title": part.title,
        "status": status,
        "seconds": time.monotonic() - started,
        "limit": limit,
        "device": options.device,
        "tiny": options.tiny,
        "last_lines": [] if status == "done" else lines[-12:],
    }
    write(out, content)
    print(f"part {part.title}: {status}, {content['part']['seconds']:.0f} s", flush=True)
    return status == "done"


def _process(part: Part, seconds: float, out: Path, log: Path, options: argparse.Namespace, work: Path) -> str:
    """Start it and wait; how it ended, in words."""
    folder = work / part.title
    folder.mkdir(exist_ok=True)
    command = [sys.executable, str(part.script), "--out", str(out.resolve()), "--work", str(folder)]
    command += ["--seconds", f"{seconds:.1f}", "--device", options.device, *(["--tiny"] if options.tiny else [])]
    path = os.pathsep.join(each for each in (str(ROOT), os.environ.get("PYTHONPATH")) if each)
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    with log.open("ab") as handle:
        process = subprocess.Popen(
            command,
            stdout=handle,
            stderr=subprocess.STDOUT,
            env=os.environ | offline | {"PYTHONPATH": path},
            start_new_session=True,  # so that its own processes end with it
        )
        try:
            code = process.wait(max(1.0, seconds))
        except subprocess.TimeoutExpired:
            return "stopped at its limit"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return "done" if code == 0 else f"ended with exit code {code}"


def _last_tried(out: Path) -> object:
    content = read(out)
    return len(content.get("tried", [])), content.get("trying")


def _sees_a_gpu() -> bool:
    if shutil.which("nvidia-smi") and any(Path("/dev").glob("nvidia[0-9]*")):
        return True
    asked = [sys.executable, "-c", "import torch, sys; sys.exit(not torch.cuda.is_available())"]
    return subprocess.run(asked).returncode == 0


def _refuse(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
