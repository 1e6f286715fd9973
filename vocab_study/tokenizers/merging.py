"""Byte-pair merges learnt from counted pre-tokens, and every pre-token segmented with them, in one pass.

The rule is that of Hugging Face ``tokenizers``: merge the most frequent adjacent pair, of equals the one with the
smallest ids, from left to right. The result is the same to the last merge. What makes it fast is that each distinct
pre-token is handled once however often it occurs, that frequent pairs are merged as whole arrays, and that pairs too
rare to be next are not tracked: when the tracked ones are used up, the text is scanned again for rarer ones.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vocab_study.tokenizers.tokenizer import SMALLEST_SIZE, byte_ids

BOUNDARY, GONE = 0, -1  # what stands between pre-tokens, and where a merged right part was
FIRST_FLOOR, FLOOR_STEP = 1 << 14, 4
ONE_BY_ONE = 80  # up to so many places, plain Python is faster than arrays
LONG = 4096  # from so many places, dropping rare pairs before sorting pays
HASH_BITS = 22

Ids = NDArray[np.int32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Merged:
    """The merges in rank order, and the pre-tokens as they are split at the largest vocabulary."""

    left: list[int]
    right: list[int]
    ids: Ids
    """Ids of all pre-tokens, one after another."""
    pretoken: Ids
    """Index of the pre-token that each of ``ids`` belongs to."""

    def histogram(self, counts: Ints) -> Ints:
        """Occurrences of each id when pre-token ``i`` occurs ``counts[i]`` times, shape [vocabulary size]."""
        size = SMALLEST_SIZE + len(self.left)
        # Sums in double precision are exact below 2**53 tokens.
        return np.bincount(self.ids, weights=counts[self.pretoken], minlength=size).astype(np.int64)


def learn_merges(
    pretokens: Sequence[bytes], counts: Ints, max_size: int, *, progress: Callable[[int], None] | None = None
) -> Merged:
    """Learn merges up to a vocabulary of ``max_size``, or as many as the pre-tokens have pairs for.

    Args:
        pretokens: distinct and not empty; those of held-out text may be among them, with a count of 0.
        counts: how often each occurs in the training text.
        max_size: the special token and the bytes in.
        progress: called with the vocabulary size reached, at every thousandth merge.
    """
    return _Merger(pretokens, np.asarray(counts, dtype=np.int64)).run(max_size, progress)


class _Merger:
    """All pre-tokens in one array of ids, linked to their neighbours; a heap of the pairs that may be next.

    A pair's count in the heap is that of its birth: pairs only get rarer, so the true count is taken when the pair
    comes to the top, from the places where it was born.
    """

    def __init__(self, pretokens: Sequence[bytes], counts: Ints) -> None:
        lengths = np.fromiter((len(word) for word in pretokens), dtype=np.int64, count=len(pretokens))
        word = np.repeat(np.arange(len(pretokens), dtype=np.int32), lengths)
        places = np.arange(len(word)) + word + 1
        size = len(word) + len(pretokens) + 1
        self.ids = np.zeros(size, dtype=np.int32)
        self.ids[places] = byte_ids()[np.frombuffer(b"".join(pretokens), dtype=np.uint8)]
        self.word = np.zeros(size, dtype=np.int32)
        self.word[places] = word
        self.counts = counts if len(counts) else np.zeros(1, dtype=np.int64)
        self.left: list[int] = []
        self.right: list[int] = []
        self.heap: list[tuple[int, int, int]] = []
        """(minus the count, left id, right id)"""
        self.places: dict[tuple[int, int], Ids | list[int]] = {}
        """Where the left part of each tracked pair stands, in rising order."""

    @property
    def size(self) -> int:
        return SMALLEST_SIZE + len(self.left)

    def run(self, max_size: int, progress: Callable[[int], None] | None) -> Merged:
        self.floor = FIRST_FLOOR
        while self.size < max_size:
            self._scan()
            while self.heap and self.size < max_size:
                negative, left, right = self.heap[0]
                places = self.places[left, right]
                if len(places) > ONE_BY_ONE:
                    merged = self._merge_array(np.asarray(places), left, right, -negative)
                else:
                    merged = self._merge_list(list(map(int, places)), left, right, -negative)
                if merged and progress and self.size % 1000 == 0:
                    progress(self.size)
            if self.floor == 1:
                break
            self.floor = max(1, self.floor // FLOOR_STEP)
        kept = np.flatnonzero(self.ids > BOUNDARY)
        return Merged(self.left, self.right, self.ids[kept], self.word[kept])

    def _scan(self) -> None:
        """Close the gaps, link the neighbours, and track all pairs that occur at least ``floor`` times."""
        kept = np.flatnonzero(self.ids != GONE)
        self.ids, self.word = self.ids[kept], self.word[kept]
        self.after = np.arange(1, len(kept) + 1, dtype=np.int32)
        self.before = np.arange(-1, len(kept) - 1, dtype=np.int32)
        self.heap, self.places = [], {}
        places = np.flatnonzero((self.ids[:-1] != BOUNDARY) & (self.ids[1:] != BOUNDARY)).astype(np.int32)
        left, right, weights = self.ids[places], self.ids[places + 1], self.counts[self.word[places]]
        # Pairs that share a bucket are counted together: none that occurs often is lost, few others get through.
        mixed = left.view(np.uint32) * np.uint32(0x9E3779B1) + right.view(np.uint32) * np.uint32(0x85EBCA77)
        buckets = mixed >> np.uint32(32 - HASH_BITS)
        often = (np.bincount(buckets, weights=weights, minlength=1 << HASH_BITS) >= self.floor)[buckets]
        self._track(left[often], right[often], places[often], weights[often])
        # Plain Python reads single elements of these much faster than of arrays; the memory is the same.
        arrays = (self.ids, self.after, self.before, self.word, self.counts)
        self.views = [memoryview(array) for array in arrays]  # type: ignore[arg-type]

    def _track(self, left: Ids, right: Ids, places: Ids, weights: Ints) -> None:
        """Put pairs on the heap: one element a place, in rising order of place."""
        if len(places) == 0:
            return
        order = np.lexsort((_narrow(right), _narrow(left)))
        left, right, places = left[order], right[order], places[order]
        starts = np.flatnonzero(np.concatenate([[True], (left[1:] != left[:-1]) | (right[1:] != right[:-1])]))
        counts = np.add.reduceat(weights[order], starts)
        ends = np.append(starts[1:], len(places))
        often = counts >= self.floor
        starts, ends, counts = starts[often], ends[often], counts[often]
        pairs = list(zip(left[starts].tolist(), right[starts].tolist(), strict=True))
        self.places.update(zip(pairs, map(places.__getitem__, map(slice, starts.tolist(), ends.tolist())), strict=True))
        born = [(-count, *pair) for count, pair in zip(counts.tolist(), pairs, strict=True)]
        if len(born) > len(self.heap):
            self.heap += born
            heapq.heapify(self.heap)
        else:
            for entry in born:
                heapq.heappush(self.heap, entry)

    def _settle(self, places: Ids | list[int], left: int, right: int, count: int, actual: int) -> bool:
        """Take the top of the heap off if its count is the true one; else put it back where it belongs."""
        if actual == count:
            heapq.heappop(self.heap)
            del self.places[left, right]
            self.left.append(left)
            self.right.append(right)
            return True
        if actual >= self.floor:
            self.places[left, right] = places
            heapq.heapreplace(self.heap, (-actual, left, right))
        else:
            heapq.heappop(self.heap)
            del self.places[left, right]
        return False

    def _merge_array(self, places: Ids, left: int, right: int, count: int) -> bool:
        ids, after, before = self.ids, self.after, self.before
        there = (ids[places] == left) & (ids[after[places]] == right)
        places = places[there]
        weights = self.counts[self.word[places]]
        new = self.size
        if not self._settle(places, left, right, count, int(weights.sum())):
            return False
        if left == right:
            chosen = _without_overlaps(places, after[places])
            places, weights = places[chosen], weights[chosen]
        gone = after[places]
        following = after[gone]
        ids[places], ids[gone] = new, GONE
        after[places], before[following] = following, places
        preceding = before[places]
        for a, b, where in ((preceding, places, preceding), (places, following, places)):
            a, b = ids[a], ids[b]
            real = (a != BOUNDARY) & (b != BOUNDARY)
            if where is preceding:
                real &= a != new  # two new tokens in a row are a pair once, seen from the left one
            other = a if where is preceding else b
            if len(places) > LONG:
                real &= np.bincount(other, weights=weights)[other] >= self.floor
            self._track(a[real], b[real], where[real], weights[real])
        return True

    def _merge_list(self, places: list[int], left: int, right: int, count: int) -> bool:
        ids, after, before, word, counts = self.views
        there = [place for place in places if ids[place] == left and ids[after[place]] == right]
        new = self.size
        if not self._settle(there, left, right, count, sum(counts[word[place]] for place in there)):
            return False
        born: dict[tuple[int, int], list[int]] = {}
        for place in there:
            if ids[place] != left:
                continue  # the right part of the place before, where both parts are one token
            gone = after[place]
            following = after[gone]
            ids[place], ids[gone] = new, GONE
            after[place], before[following] = following, place
            preceding = before[place]
            if ids[preceding] != BOUNDARY:
                born.setdefault((ids[preceding], new), []).append(preceding)
            if ids[following] != BOUNDARY:
                born.setdefault((new, ids[following]), []).append(place)
        for pair, where in born.items():
            total = sum(counts[word[place]] for place in where)
            if total >= self.floor:
                heapq.heappush(self.heap, (-total, *pair))
                self.places[pair] = where
        return True


def _narrow(ids: Ids) -> NDArray[np.integer]:
    """Small ids in 16 bits, which NumPy sorts by radix."""
    return ids.astype(np.uint16) if ids.max() < 1 << 16 else ids


def _without_overlaps(places: Ids, following: Ids) -> list[int]:
    """Of places in rising order, those that do not begin inside the pair before."""
    chosen, taken = [], -1
    for index, (place, end) in enumerate(zip(places.tolist(), following.tolist(), strict=True)):
        if place != taken:
            chosen.append(index)
            taken = end
    return chosen
