"""A byte-pair tokenizer taken apart: the tokens it always has, then each merged token and its two parts."""

import json
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from fits.errors import UserError
from vocab_study.tokenizers.byte_characters import byte_of

_BYTE_FALLBACK = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class MergeTree:
    """A vocabulary of size ``V`` is the first ``V`` of ``ids``: the tokenizer with its last merges taken away."""

    ids: NDArray[np.int64]
    """Ids of the tokenizer: those that are in every size (bytes, characters, special and added tokens), then the
    merged ones in rank order. Shape [vocabulary size]."""
    left: list[int]
    """Position in ``ids`` of the left part of each merged token."""
    right: list[int]
    partial: NDArray[np.bool_]
    """Whether each of ``ids`` is a piece of a character and not text by itself, shape [vocabulary size]."""

    @property
    def smallest_size(self) -> int:
        return len(self.ids) - len(self.left)


def take_apart(tokenizer: Tokenizer, source: str = "the tokenizer") -> MergeTree:
    """Order a tokenizer's vocabulary by the ranks of its merges.

    A token that several merges make (tokenizers that were converted list every way) has the parts that merging in
    rank order leaves just before it is made. One that no merge makes, such as a special token, is in every size.

    Raises:
        UserError: it is no byte-pair tokenizer, so smaller sizes do not follow from it.
    """
    content = json.loads(tokenizer.to_str())
    model = content["model"]
    if model.get("type", "BPE") != "BPE" or "merges" not in model:
        raise UserError(
            f"{source} is a {model.get('type')} model; only in byte-pair encoding (BPE) is a smaller vocabulary the "
            "larger one stopped earlier, so give a BPE tokenizer, or study without --tokenizer."
        )
    added = {token["content"]: token["id"] for token in content.get("added_tokens") or ()}
    vocabulary: dict[str, int] = model["vocab"] | added
    ways = _ways(model)
    merged = [token for token in ways if token not in added]
    ranks = {pair: rank for rank, pair in enumerate(map(tuple, model["merges"]))}
    parts: dict[str, tuple[str, str]] = {}
    for token in merged:
        pair = ways[token][0]
        if len(ways[token]) > 1 or model.get("ignore_merges"):
            found = _before(token, ranks, ranks[pair], vocabulary)
            if len(found) != 2:
                continue  # reached as a whole pre-token only: like an added token it is in every size
            pair = (found[0], found[1])
        parts[token] = pair
    constant = sorted(id for token, id in vocabulary.items() if token not in parts)
    ids = np.array(constant + [vocabulary[token] for token in parts], dtype=np.int64)
    place = {int(id): position for position, id in enumerate(ids)}
    left = [place[vocabulary[a]] for a, _ in parts.values()]
    right = [place[vocabulary[b]] for _, b in parts.values()]
    for rank, (token, a, b) in enumerate(zip(parts, left, right, strict=True)):
        if max(a, b) >= len(constant) + rank:
            raise UserError(f"{source}: the merge that makes {token!r} uses a token that is made later; mend the file.")
    names = {id: token for token, id in vocabulary.items()}
    whole = set(added.values())
    byte_level = "ByteLevel" in json.dumps([content.get("pre_tokenizer"), content.get("decoder")])
    partial = [id not in whole and _is_partial(names[int(id)], byte_level) for id in ids]
    return MergeTree(ids, left, right, np.array(partial))


def cut(tokenizer: Tokenizer, size: int, source: str = "the tokenizer") -> Tokenizer:
    """The tokenizer of a smaller vocabulary; ids close up where tokens go, in their old order.

    For one that was trained here, equal to a tokenizer trained at ``size`` on the same documents.

    Raises:
        UserError: ``size`` is not between the smallest and the tokenizer's own, or it is no BPE.
    """
    tree = take_apart(tokenizer, source)
    if not tree.smallest_size <= size <= len(tree.ids):
        raise UserError(
            f"vocabulary size {size} is not between {tree.smallest_size} and {len(tree.ids)}, the sizes of {source}; "
            "choose one of those."
        )
    content = json.loads(tokenizer.to_str())
    new = {int(old): position for position, old in enumerate(np.sort(tree.ids[:size]))}
    model = content["model"]
    joint = model.get("continuing_subword_prefix") or ""
    model["vocab"] = {token: new[id] for token, id in model["vocab"].items() if id in new}
    model["merges"] = [[a, b] for a, b in model["merges"] if {a, b, a + b.removeprefix(joint)} <= model["vocab"].keys()]
    for added in content.get("added_tokens") or ():
        added["id"] = new[added["id"]]
    _renumber(content.get("post_processor"), new)
    return Tokenizer.from_str(json.dumps(content))


def _ways(model: dict[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """The merges that make each token, in rank order of the first."""
    joint = model.get("continuing_subword_prefix") or ""
    ways: dict[str, list[tuple[str, str]]] = {}
    for a, b in model["merges"]:
        ways.setdefault(a + b.removeprefix(joint), []).append((a, b))
    return ways


def _before(token: str, ranks: dict[tuple[str, ...], int], limit: int, vocabulary: dict[str, int]) -> list[str]:
    """The token's characters merged in rank order by the merges below ``limit``."""
    parts = list(token)
    if not all(part in vocabulary for part in parts):
        return []
    while len(parts) > 1:
        pairs = [ranks.get(pair, limit) for pair in pairwise(parts)]
        first = min(pairs)
        if first >= limit:
            break
        at = pairs.index(first)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def _is_partial(token: str, byte_level: bool) -> bool:
    if not byte_level:
        return bool(_BYTE_FALLBACK.fullmatch(token))
    try:
        bytes(byte_of(character) for character in token).decode()
    except UnicodeDecodeError:
        return True
    except KeyError:  # a token of characters that stand for no byte is text as it is
        return False
    return False


def _renumber(processor: Any, new: dict[int, int]) -> None:
    """Give the special tokens that a post-processor adds their new ids."""
    if isinstance(processor, dict):
        for special in (processor.get("special_tokens") or {}).values():
            special["ids"] = [new[id] for id in special["ids"]]
        for inner in processor.get("processors") or ():
            _renumber(inner, new)
        for name in ("sep", "cls"):
            if isinstance(processor.get(name), list):
                processor[name][1] = new[processor[name][1]]
