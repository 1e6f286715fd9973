"""The batches of a run's steps on their way to the device: where that is a card, they are read ahead of the training.

A copy from ordinary memory waits for all that a card has been given before. From pinned memory it takes its turn among
the kernels, and the host goes on; torch's allocator of pinned memory uses a piece again only when its copies have run.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

_AHEAD = 3
"""Steps that are read ahead for a card."""


class Batches:
    """The batch of any step, and meanwhile those of the steps after it, read by one thread.

    Args:
        read: gives the windows of a step, by the step alone: integers of any shape.
        ahead: steps to read ahead; left out, none on a CPU, whose cores the training needs itself. Without it there is
            no thread.
    """

    def __init__(self, read: Callable[[int], np.ndarray], device: torch.device, ahead: int | None = None) -> None:
        self._read, self._device = read, device
        self._ahead = ahead if ahead is not None else _AHEAD if device.type == "cuda" else 0
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="reader")  # begins with the first step
        self._coming: dict[int, Future[torch.Tensor]] = {}

    def of(self, step: int) -> torch.Tensor:
        """The windows of ``step`` on the device; steps may come in any order.

        Raises:
            Exception: whatever reading this step's windows raised.
        """
        if not self._ahead:
            return self._on_host(step).to(self._device)
        wanted = range(step, step + self._ahead + 1)
        for other in self._coming.keys() - wanted:
            self._coming.pop(other).cancel()
        for each in wanted:
            if each not in self._coming:
                self._coming[each] = self._reader.submit(self._on_host, each)
        return self._coming.pop(step).result().to(self._device, non_blocking=True)

    def close(self) -> None:
        """End the thread."""
        self._reader.shutdown(cancel_futures=True)

    def _on_host(self, step: int) -> torch.Tensor:
        return pinned(torch.from_numpy(self._read(step)), self._device)


def pinned(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor in memory that a card copies from by itself; for a CPU as it is."""
    return tensor.pin_memory() if device.type == "cuda" else tensor
