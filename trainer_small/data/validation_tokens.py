"""Validation text: whole documents, the same whatever the tokenizer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fits.errors import UserError
from trainer_small.config import TokenSource
from trainer_small.data.token_files import TokenFiles


class ValidationTokens:
    """Whole validation documents up to a budget of bytes: the same text whatever the tokenizer.

    Documents come in the order of a hash of their text, so that a small budget is a fair sample of the split;
    those above a sixteenth of the budget come last, shortest first: one long document would decide the loss. Of a
    mixture every source gives its share of the budget.

    Attributes:
        inputs, targets: int64 ``[tokens]``; the first input is the end-of-text token.
        document: int64 ``[tokens]``, the document of each target, from 0.
        bytes: int64 ``[documents]``.
        group: int64 ``[documents]``, an index into ``groups``, the names.
        unigram_losses: float64 ``[tokens]``, nats of each target by its share of the training text; a token that is
            not in it counts as met once (arXiv 2407.13623, section 3.1).
    """

    def __init__(self, sources: str | Path | Sequence[TokenSource], budget_bytes: int | None) -> None:
        if isinstance(sources, str | Path):
            sources = [TokenSource(tokens=str(sources))]
        total = sum(source.weight for source in sources)
        parts = [
            _Part(source, None if budget_bytes is None else round(budget_bytes * source.weight / total))
            for source in sources
        ]
        self.groups = tuple(dict.fromkeys(group for part in parts for group in part.groups))
        self.targets = np.concatenate([part.targets for part in parts])
        self.inputs = np.concatenate(([parts[0].end_of_text], self.targets[:-1])).astype(np.int64)
        self.bytes = np.concatenate([part.bytes for part in parts])
        self.document = np.repeat(np.arange(len(self.bytes)), np.concatenate([part.lengths for part in parts]))
        number = {group: index for index, group in enumerate(self.groups)}
        self.group = np.concatenate([[number[part.groups[own]] for own in part.group] for part in parts])
        counts = [np.maximum(part.unigram, 1) for part in parts]
        shares = sum(source.weight / total * count / count.sum() for source, count in zip(sources, counts, strict=True))
        self.unigram_losses = -np.log(shares)[self.targets]


class _Part:
    """The documents that one source gives."""

    def __init__(self, source: TokenSource, budget_bytes: int | None) -> None:
        files = TokenFiles(source.tokens, "validation")
        ends = files.document_ends()
        sizes, keys, groups = files.document_columns()
        order = np.argsort(keys)
        if budget_bytes is not None:
            order = np.lexsort((keys, np.where(sizes > budget_bytes // 16, sizes, 0)))
            total = sizes[order].cumsum()
            order = order[: int(np.searchsorted(total, budget_bytes)) + 1]  # the document that reaches it counts
        starts = np.concatenate(([0], ends[:-1]))
        self.lengths = (ends - starts)[order]
        self.targets = np.empty(self.lengths.sum(), dtype=np.int64)
        files.read(starts[order], self.lengths, self.targets, self.lengths.cumsum() - self.lengths)
        self.bytes, self.group, self.groups = sizes[order], groups[order], files.manifest.groups
        self.end_of_text = files.manifest.end_of_text
        path = Path(source.tokens) / "unigram.npy"
        if not path.is_file():
            raise UserError(f"{path} is missing; remove {source.tokens} and prepare it again.")
        self.unigram = np.load(path, allow_pickle=False)
