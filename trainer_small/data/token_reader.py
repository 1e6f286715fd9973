"""Reading token folders to train on: windows by seed and position alone, from one source or a mixture of several."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fits.errors import UserError
from trainer_small.config import TokenSource
from trainer_small.data.mixture import Interleaving
from trainer_small.data.token_files import TokenFiles
from trainer_small.result import SourceUse


class TokenReader:
    """Training windows in an order that depends on the seed and the position alone.

    Every epoch of a source shuffles its documents, joins them, cuts the stream into windows of ``sequence_length``
    targets and shuffles the windows, so that the windows of one batch come from all over the corpus. Several sources
    are interleaved window by window; each counts its own epochs.

    Memory: about 40 bytes a document and 8 a window; the tokens stay on disk.

    Args:
        sources: a token folder, or several with their weights, all made with one tokenizer.

    Raises:
        UserError: a folder holds no tokens, fewer than one window, or those of another tokenizer.
    """

    def __init__(self, sources: str | Path | Sequence[TokenSource], sequence_length: int, seed: int) -> None:
        if isinstance(sources, str | Path):
            sources = [TokenSource(tokens=str(sources))]
        self.sequence_length = sequence_length
        self.sources = tuple(_Source(source, sequence_length, (seed, number)) for number, source in enumerate(sources))
        first = self.sources[0].files.manifest
        for source in self.sources:
            if source.files.manifest.tokenizer_sha256 != first.tokenizer_sha256:
                raise UserError(
                    f"{source.folder} and {self.sources[0].folder} are made with different tokenizers; "
                    "prepare all sources of a mixture with the same one."
                )
        self._interleaving = Interleaving([source.weight for source in sources])
        self.vocab_size, self.end_of_text = first.vocab_size, first.end_of_text
        self.tokenizer_sha256 = first.tokenizer_sha256

    @property
    def corpus_sha256(self) -> str:
        """Of the one corpus, or of the corpora's hashes and their shares."""
        if len(self.sources) == 1:
            return self.sources[0].files.manifest.corpus_sha256
        corpora = [source.files.manifest.corpus_sha256 for source in self.sources]
        return hashlib.sha256(repr(list(zip(corpora, self._interleaving.shares, strict=True))).encode()).hexdigest()

    @property
    def identity(self) -> str:
        """Of what is read and in which order: part of a checkpoint's."""
        parts = [source.files.split.sha256 for source in self.sources]
        shares = [] if len(parts) == 1 else list(self._interleaving.shares)
        return " ".join(map(str, parts + shares))

    def batch(self, position: int, count: int) -> np.ndarray:
        """Windows ``position .. position + count``, int64 ``[count, sequence_length + 1]``: inputs and next tokens."""
        out = np.empty((count, self.sequence_length + 1), dtype=np.int64)
        sources, windows = self._interleaving.at(np.arange(position, position + count))
        for number, source in enumerate(self.sources):
            rows = np.flatnonzero(sources == number)
            source.read(windows[rows], out, rows)
        return out

    @property
    def longest_document(self) -> int:
        """Tokens of the longest document of the training text, its end-of-text in."""
        return max(int(np.diff(source.files.document_ends(), prepend=0).max()) for source in self.sources)

    def epochs(self, tokens: int) -> float:
        """Passes that ``tokens`` targets make over the source that is repeated most."""
        return max(use.epochs for use in self.use(tokens))

    def text_bytes(self, tokens: int) -> int:
        """UTF-8 bytes of the text behind ``tokens`` targets, at each source's mean."""
        return sum(source.text_bytes(use.tokens) for source, use in zip(self.sources, self.use(tokens), strict=True))

    def use(self, tokens: int) -> tuple[SourceUse, ...]:
        """What ``tokens`` targets take from each source."""
        counts = self._interleaving.counts(tokens // self.sequence_length)
        parts = zip(self.sources, self._interleaving.shares, counts, strict=True)
        return tuple(source.use(share, int(count)) for source, share, count in parts)


class _Source:
    """The windows of one folder, epoch after epoch."""

    def __init__(self, source: TokenSource, sequence_length: int, seed: tuple[int, int]) -> None:
        self.folder, self._length, self._seed = source.tokens, sequence_length, seed
        self.files = TokenFiles(source.tokens, "train")
        self.tokens = self.files.split.tokens
        self.windows = (self.tokens - 1) // sequence_length
        """Windows of one epoch."""
        if self.windows < 1:
            raise UserError(
                f"{self.folder} has {self.tokens} training tokens, fewer than sequence_length "
                f"{sequence_length} + 1; use a larger corpus or shorter sequences."
            )
        self._epoch = _NO_EPOCH

    def read(self, windows: np.ndarray, out: np.ndarray, rows: np.ndarray) -> None:
        """Copy each window into its row."""
        numbers, windows = np.divmod(windows, self.windows)
        for number in np.unique(numbers).tolist():
            epoch = self._epoch  # another thread may be in another one
            if epoch.number != number:
                epoch = self._epoch = self._shuffle(number)
            own = numbers == number
            self._read(epoch, epoch.order[windows[own]] * self._length, out, rows[own])

    def text_bytes(self, tokens: int) -> int:
        return round(tokens * self.files.split.bytes / self.tokens)

    def use(self, share: float, windows: int) -> SourceUse:
        tokens, unique = windows * self._length, self.windows * self._length
        return SourceUse(
            name=Path(self.folder).name,
            corpus_sha256=self.files.manifest.corpus_sha256,
            share=share,
            tokens=tokens,
            unique_tokens=unique,
            epochs=windows / self.windows,
        )

    def _shuffle(self, number: int) -> "_Epoch":
        seed, source = self._seed
        random = np.random.default_rng((seed, number, source) if source else (seed, number))
        ends = self.files.document_ends()
        starts = np.concatenate(([0], ends[:-1]))
        order = random.permutation(len(ends))
        bounds = np.concatenate(([0], (ends - starts)[order].cumsum()))
        return _Epoch(number, starts[order], bounds, random.permutation(self.windows))

    def _read(self, epoch: "_Epoch", starts: np.ndarray, out: np.ndarray, rows: np.ndarray) -> None:
        """Copy the joined stream from each of ``starts`` on into its row: pieces of the documents that lie there."""
        length = out.shape[1]
        first = np.searchsorted(epoch.bounds, starts, side="right") - 1
        pieces = np.searchsorted(epoch.bounds, starts + length - 1, side="right") - first
        row = np.repeat(np.arange(len(starts)), pieces)
        document = first[row] + np.arange(len(row)) - (pieces.cumsum() - pieces)[row]
        # The document lies from ``begin`` to ``end`` of its window; the window may begin within it, or end.
        begin, end = (epoch.bounds[document + after] - starts[row] for after in (0, 1))
        skipped = np.maximum(-begin, 0)
        sizes = np.minimum(end, length) - begin - skipped
        at = epoch.document_starts[document] + skipped
        self.files.read(at, sizes, out.reshape(-1), rows[row] * length + begin + skipped)


@dataclass(frozen=True)
class _Epoch:
    """One order of a source's documents and windows."""

    number: int
    document_starts: np.ndarray
    """In the files, by place in the shuffled stream."""
    bounds: np.ndarray
    """Of the documents in the shuffled stream: 0, and where each ends."""
    order: np.ndarray


_NO_EPOCH = _Epoch(-1, np.empty(0), np.empty(0), np.empty(0))
