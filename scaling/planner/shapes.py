"""Shapes by the column: a million candidate architectures as arrays, counted by the arithmetic that counts one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, Self

import numpy as np

from scaling.planner.search_space import SearchSpace
from trainer_small import counts
from trainer_small.architecture import Architecture
from trainer_small.ladder import Experts, Family, usual_depth

_COLUMNS = (
    "vocab_size",
    "hidden_size",
    "num_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "dense_ffn_size",
    "num_experts",
    "experts_per_token",
    "num_shared_experts",
    "expert_ffn_size",
    "num_dense_layers",
)


@dataclass(frozen=True)
class ShapeTable:
    """Architectures of one family, a column a size (``columns``, int64 of one length), read like one ``Architecture``.

    The closed choices (attention kind and its ranks, norms, biases, ties) are the family's, the same in every row.
    """

    family: Family
    columns: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.columns["hidden_size"])

    def __getattr__(self, name: str) -> Any:
        """A size as a column, a closed choice as one value."""
        if name in _COLUMNS:
            return self.columns[name]
        if name in counts.Sizes.__annotations__:
            return getattr(self._pattern, name)
        raise AttributeError(f"'ShapeTable' has no '{name}'")

    @cached_property
    def _pattern(self) -> Architecture:
        return _pattern(self.family, 1024, 2.0)

    @property
    def shared_expert_ffn_size(self) -> np.ndarray:
        return self.expert_ffn_size

    @property
    def num_moe_layers(self) -> np.ndarray:
        return np.where(self.num_experts > 0, self.num_layers - self.num_dense_layers, 0)

    @cached_property
    def activation_ratio(self) -> np.ndarray:
        """A = (experts_per_token + shared) / (num_experts + shared); 1 for a dense model."""
        visited = self.experts_per_token + self.num_shared_experts
        return np.where(self.num_experts > 0, visited / np.maximum(self.num_experts + self.num_shared_experts, 1), 1.0)

    @cached_property
    def granularity(self) -> np.ndarray:
        """G = 2 hidden_size / expert_ffn_size; a dense model's FFN counts as the one expert."""
        return 2 * self.hidden_size / np.where(self.num_experts > 0, self.expert_ffn_size, self.dense_ffn_size)

    @cached_property
    def params_by_role(self) -> dict[str, np.ndarray]:
        return counts.params_by_role(self)  # type: ignore[arg-type]  # its columns are the protocol's sizes

    @cached_property
    def params_total(self) -> np.ndarray:
        return sum(self.params_by_role.values())  # type: ignore[return-value]

    @cached_property
    def params_active(self) -> np.ndarray:
        return self.params_total - counts.unvisited_params(self)  # type: ignore[arg-type]

    @property
    def depth_factor(self) -> np.ndarray:
        """Layers over the usual depth of the width."""
        sizes, where = np.unique(self.hidden_size, return_inverse=True)
        return self.num_layers / np.array([max(round(usual_depth(int(each))), 2) for each in sizes])[where]

    @property
    def usual_heads(self) -> np.ndarray:
        """Heads that the ladder gives each width."""
        sizes, where = np.unique(self.hidden_size, return_inverse=True)
        return np.array([_pattern(self.family, int(each), 2.0).num_attention_heads for each in sizes])[where]

    @property
    def params_embedding(self) -> np.ndarray:
        """Both embedding matrices."""
        return self.params_by_role["embedding"] + self.params_by_role["lm_head"]

    @property
    def params_active_non_embedding(self) -> np.ndarray:
        return self.params_active - self.params_embedding

    @property
    def params_total_non_embedding(self) -> np.ndarray:
        return self.params_total - self.params_embedding

    def flops_per_token(self, sequence_length: int) -> np.ndarray:
        """Training FLOPs of one token, causal attention."""
        return counts.flops_per_token(self, sequence_length)  # type: ignore[arg-type]

    def take(self, rows: Any) -> Self:
        """Some rows, by mask or index."""
        return type(self)(self.family, {name: column[rows] for name, column in self.columns.items()})

    @classmethod
    def joined(cls, tables: Sequence[Self]) -> Self:
        """Tables of one family, one under the other."""
        columns = {name: np.concatenate([each.columns[name] for each in tables]) for name in _COLUMNS}
        return cls(tables[0].family, columns)

    def architecture(self, row: int) -> Architecture:
        """One row as an architecture; its exact counts are the columns'."""
        sizes = {name: int(column[row]) for name, column in self.columns.items()}
        experts = {name: sizes[name] for name in ("num_experts", "experts_per_token", "num_shared_experts")}
        routing = Experts(**experts, granularity=float(self.granularity[row]))
        family = self.family.model_copy(update={"num_dense_layers": sizes["num_dense_layers"]})
        usual = family.shape(sizes["hidden_size"], sizes["num_layers"], routing, sizes["vocab_size"])
        return Architecture.model_validate(usual.model_dump() | {"shared_expert_ffn_size": 0} | sizes)


def blocks(space: SearchSpace, *, most_flops_per_token: float = float("inf")) -> Iterator[ShapeTable]:
    """Every combination of the space, a table for each width and depth.

    Args:
        most_flops_per_token: widths that surely need more than this are left out.
    """
    for hidden_size in space.hidden_size or widths():
        usual = usual_depth(hidden_size)
        depths = space.num_layers or {max(round(usual * factor), 2) for factor in space.depth_factors}
        # Attention and the FFN hold more than 4 d^2 weights a layer, and each costs 6 FLOPs.
        depths = [depth for depth in sorted(depths) if 24 * hidden_size**2 * depth <= most_flops_per_token]
        if not depths:
            continue
        routing = _routings(space, hidden_size)
        if not len(routing):
            continue
        heads = _heads(space, hidden_size)
        for num_layers in depths:
            dense_layers = [each for each in space.num_dense_layers or (space.family.num_dense_layers,)]
            yield _block(space, hidden_size, num_layers, routing, heads, dense_layers)


def _block(
    space: SearchSpace,
    hidden_size: int,
    num_layers: int,
    routing: np.ndarray,
    heads: np.ndarray,
    dense_layers: list[int],
) -> ShapeTable:
    """All combinations at one width and depth; ``routing`` is [R, 5], ``heads`` is [H, 3]."""
    vocabularies = np.array(space.vocab_size, dtype=np.int64)
    leading = np.minimum(np.array(dense_layers, dtype=np.int64), num_layers - 1)
    sizes = (len(routing), len(heads), len(leading), len(vocabularies))
    route, head, lead, vocabulary = np.unravel_index(np.arange(np.prod(sizes)), sizes)
    experts, visited, shared, width, dense_width = routing[route].T
    moe = experts > 0
    columns = {
        "vocab_size": vocabularies[vocabulary],
        "hidden_size": np.full(len(route), hidden_size, dtype=np.int64),
        "num_layers": np.full(len(route), num_layers, dtype=np.int64),
        "num_attention_heads": heads[head, 0],
        "num_key_value_heads": heads[head, 1],
        "head_dim": heads[head, 2],
        "dense_ffn_size": dense_width,
        "num_experts": experts,
        "experts_per_token": visited,
        "num_shared_experts": shared,
        "expert_ffn_size": width,
        "num_dense_layers": np.where(moe, leading[lead], 0),
    }
    return ShapeTable(space.family, columns)


def _routings(space: SearchSpace, hidden_size: int) -> np.ndarray:
    """Routing at one width, [R, 5]: experts, experts a token, shared, expert FFN, FFN of a dense layer."""
    choices: Iterator[tuple[int, int, int, float]]
    if space.experts:
        choices = (
            (each.num_experts, each.experts_per_token, each.num_shared_experts, each.granularity)
            for each in space.experts
        )
    else:
        sizes = space.granularity or tuple(2 * hidden_size / width for width in space.expert_ffn_size)
        choices = product(space.num_experts, space.experts_per_token, space.num_shared_experts, sizes)
    exact = dict(zip((2 * hidden_size / width for width in space.expert_ffn_size), space.expert_ffn_size, strict=True))
    widths_of: dict[float, int] = {}
    least, most = space.active_ffn_ratio
    rows = []
    for experts, visited, shared, granularity in choices:
        # Where more than half of the experts are visited nothing is sparse; a sweep's own choices stand.
        if (not space.experts and 2 * visited > experts) or (experts and not visited):
            continue
        if granularity not in widths_of:
            usual = _pattern(space.family, hidden_size, granularity).expert_ffn_size
            widths_of[granularity] = exact.get(granularity, usual)
        width = widths_of[granularity]
        if not space.experts and not least <= (visited + shared) * width / hidden_size <= most:
            continue
        rows.append(
            (experts, visited, shared, width if experts else 0, (visited + shared) * width if experts else width)
        )
    return np.unique(np.array(rows, dtype=np.int64).reshape(-1, 5), axis=0)


def _heads(space: SearchSpace, hidden_size: int) -> np.ndarray:
    """Heads to try at one width, [H, 3]: heads, heads of keys and values, head_dim."""
    usual = _pattern(space.family, hidden_size, 2.0)
    step = 8 if usual.num_attention_heads >= 16 else 1
    tried = space.num_attention_heads or {
        max(round(usual.num_attention_heads * factor / step), 1) * step if factor != 1 else usual.num_attention_heads
        for factor in space.head_factors
    }
    rows = []
    for heads in sorted(tried):
        shared = heads
        if usual.attention == "gqa":
            most = min(usual.num_key_value_heads, heads)
            shared = next(count for count in range(most, 0, -1) if heads % count == 0)
        rows.append((heads, shared, usual.head_dim))
    return np.array(rows, dtype=np.int64)


def _pattern(family: Family, hidden_size: int, granularity: float) -> Architecture:
    """The usual shape of a width: the ladder's rules for heads, ranks and the rounding of expert widths."""
    least = Experts(num_experts=1, experts_per_token=1, num_shared_experts=0, granularity=granularity)
    return family.shape(hidden_size, max(round(usual_depth(hidden_size)), family.num_dense_layers + 1), least, 256)


def widths() -> list[int]:
    """Hidden sizes from 32 to 32768, in steps of about an eighth to a quarter, multiples of what fills a tile."""
    sizes: list[int] = []
    for low, high, step in ((32, 128, 16), (128, 512, 32), (512, 1024, 64), (1024, 2048, 128), (2048, 4096, 256)):
        sizes += range(low, high, step)
    for low, high, step in ((4096, 8192, 512), (8192, 16384, 1024), (16384, 32769, 2048)):
        sizes += range(low, high, step)
    return sizes
