"""A worker process of a sweep: imports torch once, then trains the runs it is told to, one after another.

It is spoken to in JSON lines: a run's folder in on standard input, events out on standard output. SIGINT, SIGTERM
or the end of its input (the launcher died) make it write a checkpoint and leave.
"""

import json
import os
import queue
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any


def main(threads: int) -> None:
    """Serve until the input ends or a signal arrives."""
    # Libraries may print: keep the real standard output for events alone.
    events = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    orders: queue.Queue[str | None] = queue.Queue()
    stopping = threading.Event()

    def stop(*_: Any) -> None:
        stopping.set()
        orders.put(None)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)

    def listen() -> None:
        for line in sys.stdin:
            orders.put(json.loads(line)["directory"])
        stop()

    threading.Thread(target=listen, daemon=True).start()

    import torch

    from fits.errors import UserError
    from trainer_small.run import RunBusy, run_one
    from trainer_small.run_loop import RunProgress

    torch.set_num_threads(threads)

    def tell(event: str, **content: Any) -> None:
        try:
            events.write(json.dumps({"event": event, **content}) + "\n")
        except BrokenPipeError:
            stop()

    def progress(at: RunProgress) -> None:
        tell("progress", step=at.step, steps=at.steps, loss=at.loss, tokens_per_second=at.tokens_per_second)

    while not stopping.is_set() and (directory := orders.get()) is not None:
        try:
            result = run_one(Path(directory), on_progress=progress, stop=stopping.is_set)
            tell("ended", status=result.status, reason=result.reason)
        except RunBusy:
            tell("ended", status="busy", reason=None)
        except UserError as error:
            tell("ended", status="failed", reason=str(error))
        except Exception as error:
            traceback.print_exc()
            tell("ended", status="failed", reason=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
