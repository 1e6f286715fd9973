"""Reading token shards: training windows by seed and position alone, validation as whole documents."""

from pathlib import Path

import numpy as np

from fits.errors import UserError
from trainer_small.documents import Split
from trainer_small.tokens import SplitCounts, read_manifest


class _SplitFiles:
    """One split, memory-mapped: ``tokens``; by document ``ends``, ``bytes``, ``keys`` (of the text) and ``groups``."""

    def __init__(self, folder: Path, split: Split) -> None:
        self.manifest = read_manifest(folder)
        counts = getattr(self.manifest, split)
        path = folder / f"{split}.tokens"
        expected = counts.tokens * np.dtype(self.manifest.dtype).itemsize
        if not path.is_file() or path.stat().st_size != expected:
            raise UserError(f"{path} is missing or not {expected} bytes long; remove {folder} and prepare it again.")
        self.tokens = np.memmap(path, dtype=self.manifest.dtype, mode="r")
        documents = np.load(folder / f"{split}.documents.npy", allow_pickle=False)
        self.ends, self.bytes, self.keys, self.groups = documents.T
        self.counts: SplitCounts = counts


class TokenReader:
    """Training windows in an order that depends on the seed and the position alone.

    Every epoch shuffles the documents, joins them, cuts the stream into windows of ``sequence_length`` targets and
    shuffles the windows, so that the windows of one batch come from all over the corpus.

    Raises:
        UserError: the folder holds no tokens, or fewer than one window.
    """

    def __init__(self, folder: str | Path, sequence_length: int, seed: int) -> None:
        self._files = _SplitFiles(Path(folder), "train")
        self.manifest = self._files.manifest
        self.sequence_length, self._seed = sequence_length, seed
        self.windows = (self._files.counts.tokens - 1) // sequence_length
        """Windows of one epoch."""
        if self.windows < 1:
            raise UserError(
                f"{folder} has {self._files.counts.tokens} training tokens, fewer than sequence_length "
                f"{sequence_length} + 1; use a larger corpus or shorter sequences."
            )
        self._epoch = -1

    def batch(self, position: int, count: int) -> np.ndarray:
        """Windows ``position .. position + count``, int64 ``[count, sequence_length + 1]``: inputs and next tokens."""
        out = np.empty((count, self.sequence_length + 1), dtype=np.int64)
        for row in range(count):
            epoch, window = divmod(position + row, self.windows)
            if epoch != self._epoch:
                self._shuffle(epoch)
            self._read(int(self._order[window]) * self.sequence_length, out[row])
        return out

    def epochs(self, tokens: int) -> float:
        """Passes over the training text that ``tokens`` targets make."""
        return tokens / (self.windows * self.sequence_length)

    def text_bytes(self, tokens: int) -> int:
        """UTF-8 bytes of the text behind ``tokens`` targets, at the mean of the split."""
        return round(tokens * self._files.counts.bytes / self._files.counts.tokens)

    def _shuffle(self, epoch: int) -> None:
        random = np.random.default_rng((self._seed, epoch))
        ends = self._files.ends
        starts = np.concatenate(([0], ends[:-1]))
        order = random.permutation(len(ends))
        self._starts = starts[order]
        self._joined_ends = (ends - starts)[order].cumsum()
        self._order = random.permutation(self.windows)
        self._epoch = epoch

    def _read(self, start: int, out: np.ndarray) -> None:
        """Copy the joined stream from ``start`` on into ``out``."""
        document = int(np.searchsorted(self._joined_ends, start, side="right"))
        filled = 0
        while filled < len(out):
            end = int(self._joined_ends[document])
            before = int(self._joined_ends[document - 1]) if document else 0
            source = int(self._starts[document]) + (start - before)
            size = min(end - start, len(out) - filled)
            out[filled : filled + size] = self._files.tokens[source : source + size]
            filled, start, document = filled + size, start + size, document + 1


class ValidationTokens:
    """Whole validation documents up to a budget of bytes: the same text whatever the tokenizer.

    Documents come in the order of a hash of their text, so that a small budget is a fair sample of the split;
    those above a sixteenth of the budget come last, shortest first: one long document would decide the loss.

    Attributes:
        inputs, targets: int64 ``[tokens]``; the first input is the end-of-text token.
        document: int64 ``[tokens]``, the document of each target, from 0.
        bytes: int64 ``[documents]``.
        group: int64 ``[documents]``, an index into ``groups``, the names.
        unigram_losses: float64 ``[tokens]``, nats of each target by its share of the training text; a token that is
            not in it counts as met once (arXiv 2407.13623, section 3.1).
    """

    def __init__(self, folder: str | Path, budget_bytes: int | None) -> None:
        files = _SplitFiles(Path(folder), "validation")
        order = np.argsort(files.keys)
        if budget_bytes is not None:
            order = np.lexsort((files.keys, np.where(files.bytes > budget_bytes // 16, files.bytes, 0)))
            total = files.bytes[order].cumsum()
            order = order[: int(np.searchsorted(total, budget_bytes)) + 1]  # the document that reaches it counts
        starts = np.concatenate(([0], files.ends[:-1]))
        parts = [files.tokens[starts[document] : files.ends[document]] for document in order]
        self.targets = np.concatenate(parts).astype(np.int64)
        self.inputs = np.concatenate(([files.manifest.end_of_text], self.targets[:-1])).astype(np.int64)
        self.document = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        self.bytes, self.group, self.groups = files.bytes[order], files.groups[order], files.manifest.groups
        counts = np.maximum(np.load(Path(folder) / "unigram.npy", allow_pickle=False), 1)
        self.unigram_losses = (np.log(counts.sum()) - np.log(counts))[self.targets]
