"""One split of a token folder, memory-mapped shard by shard as if it were one."""

from pathlib import Path

import numpy as np

from fits.errors import UserError
from trainer_small.data.documents import Split
from trainer_small.data.tokens import SplitTokens, read_manifest


class TokenFiles:
    """
    Raises:
        UserError: the folder holds no tokens, or a shard is missing or has another size than the manifest says.
    """

    def __init__(self, folder: str | Path, split: Split) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(folder)
        self.split: SplitTokens = getattr(self.manifest, split)
        for shard in self.split.shards:
            path = self._path(shard.name, "tokens")
            expected = shard.tokens * np.dtype(self.manifest.dtype).itemsize
            if not path.is_file() or path.stat().st_size != expected:
                raise UserError(
                    f"{path} is missing or not {expected} bytes long; remove {folder} and prepare it again."
                )
        self._tokens = [
            np.asarray(np.memmap(self._path(shard.name, "tokens"), dtype=self.manifest.dtype, mode="r"))
            for shard in self.split.shards
            if shard.tokens
        ]
        self._shard_starts = np.cumsum([0, *(len(tokens) for tokens in self._tokens)])

    def document_ends(self) -> np.ndarray:
        """Where each document ends in the split, int64."""
        before = np.cumsum([0, *(shard.tokens for shard in self.split.shards)])
        return np.concatenate([table[:, 0] + offset for table, offset in zip(self._tables(), before, strict=False)])

    def document_columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Bytes, key (a hash of the text) and group (an index into the manifest's) of each document, int64."""
        number = {group: index for index, group in enumerate(self.manifest.groups)}
        groups = [np.array([number[group] for group in shard.groups], dtype=np.int64) for shard in self.split.shards]
        tables = list(self._tables())
        return (
            np.concatenate([table[:, 1] for table in tables]),
            np.concatenate([table[:, 2] for table in tables]),
            np.concatenate([own[table[:, 3]] for own, table in zip(groups, tables, strict=True)]),
        )

    def read(self, starts: np.ndarray, sizes: np.ndarray, out: np.ndarray, places: np.ndarray) -> None:
        """Copy ``sizes`` tokens from each of ``starts`` on to ``places`` of ``out``; a document never spans two shards,
        and nor may a piece."""
        shards = np.searchsorted(self._shard_starts, starts, side="right") - 1
        firsts = starts - self._shard_starts[shards]
        pieces = (each.tolist() for each in (shards, firsts, sizes, places))  # plain numbers: a piece may be short
        for shard, first, size, place in zip(*pieces, strict=True):
            out[place : place + size] = self._tokens[shard][first : first + size]

    def _tables(self) -> list[np.ndarray]:
        names = [self._path(shard.name, "documents.npy") for shard in self.split.shards]
        return [np.load(name, allow_pickle=False, mmap_mode="r") for name in names]

    def _path(self, shard: str, kind: str) -> Path:
        return self.folder / f"{shard}.{kind}"
