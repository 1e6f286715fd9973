"""The sweep as one plain shell script for ``sbatch``: for sites where the login node has no Python."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fits.files import write_text
from trainer_small.engines.command import run_command
from trainer_small.engines.engine import Resources
from trainer_small.engines.slurm import WARNING_SECONDS

MOST_ELEMENTS = 1000
"""Slurm's own MaxArraySize is 1001; more runs than this share elements."""

_SCRIPT = """\
#!/bin/bash
# Trains the runs of {list}, each array element its share. Submit it, and submit it again for what is not done:
#   sbatch {script}
{headers}

mapfile -t runs < <(awk -v first="$SLURM_ARRAY_TASK_ID" -v step={elements} \\
    '(NR - 1) % step == first' {list})
stop() {{  # preempted or nearly out of time: the runs write checkpoints, and the job queues again
    kill -TERM "$child"
    wait "$child"
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
    exit 0
}}
trap stop USR2
trap 'kill -TERM "$child"; wait "$child"; exit 143' TERM
{command} &
child=$!
wait "$child"
"""


def write_script(
    out: Path,
    directories: Sequence[Path],
    resources: Resources,
    *,
    max_parallel: int | None = None,
    options: Mapping[str, str] | None = None,
    python: str = sys.executable,
) -> Path:
    """Write ``out/sweep.sbatch`` and ``out/sweep.list``; returns the script.

    Args:
        directories: runs to train, in order.
        resources: of one run; ``per_gpu`` runs share an element's device.
        max_parallel: runs at a time.
        options: of sbatch.
        python: on the compute nodes; this one when left out.
    """
    root = out.resolve()
    names = root / "sweep.list"
    write_text(names, "".join(f"{path.resolve()}\n" for path in directories))
    elements = min(-(-len(directories) // resources.per_gpu), MOST_ELEMENTS)
    parallel = elements if max_parallel is None else max(1, max_parallel // resources.per_gpu)
    given = {
        "job-name": "scaling",
        "array": f"0-{elements - 1}%{min(parallel, elements)}",
        "output": f"{root}/slurm-%A_%a.log",
        "open-mode": "append",
        "requeue": "",
        "signal": f"B:USR2@{WARNING_SECONDS}",
        "nodes": "1",
        "ntasks": "1",
        "cpus-per-task": str(resources.threads * resources.per_gpu * max(resources.gpus, 1)),
    }
    if resources.gpus:
        given["gpus-per-node"] = str(resources.gpus)
    given |= options or {}
    headers = [f"#SBATCH --{key}" + (f"={value}" if value else "") for key, value in given.items()]
    command = shlex.join(run_command(["RUNS"], resources, python=python)).replace("RUNS", '"${runs[@]}"')
    if resources.per_gpu > 1:
        command += f" --at-once {resources.per_gpu}"
    script = root / "sweep.sbatch"
    text = _SCRIPT.format(
        list=shlex.quote(str(names)),
        script=shlex.quote(str(script)),
        headers="\n".join(headers),
        elements=elements,
        command=command,
    )
    write_text(script, text)
    return script
