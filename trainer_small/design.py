"""Which small runs to buy so that laws are identified: sizes x horizons, experts, granularity, vocabulary, noise."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fits.errors import UserError
from trainer_small.architecture import Architecture
from trainer_small.config import EvaluationConfig, RunSpec, TrainingConfig
from trainer_small.ladder import Experts, Family, usual_depth
from trainer_small.sweep import Sweep

HORIZON_RATIO = 3
"""Each token horizon is this many times the one before; three horizons span a factor of nine."""

BASE_EXPERTS = Experts(num_experts=8, experts_per_token=2, num_shared_experts=1, granularity=2)
"""The routing of the size x horizon grid; the other runs change one thing from here."""

# Short runs need a faster balance: at 32 experts the usual 1e-3 leaves the load uneven to the end.
PROXY_RECIPE = TrainingConfig(tokens=1, learning_rate=2**-7, batch_tokens=1024, balancing_rate=0.01)
"""Of small runs; the tokens are each run's own."""

_FEWEST_STEPS = 20


@dataclass(frozen=True)
class _Point:
    """A run before its horizon is known in tokens: ``horizon`` is the exponent of HORIZON_RATIO."""

    purpose: str
    hidden_size: int
    horizon: int
    experts: Experts
    vocab_size: int
    seed: int = 0

    def shape(self, family: Family) -> Architecture:
        return family.shape(self.hidden_size, round(usual_depth(self.hidden_size)), self.experts, self.vocab_size)

    @property
    def run_id(self) -> str:
        parts = [f"d{self.hidden_size}", f"t{self.horizon}", f"e{self.experts.num_experts}"]
        parts += [f"g{self.experts.granularity:g}", f"v{self.vocab_size}"]
        return "-".join(parts + ([f"s{self.seed}"] if self.seed else []))


def design_sweep(
    *,
    corpus: str | Path,
    tokenizers: Mapping[int, str | Path],
    budget_flops: float,
    hidden_sizes: tuple[int, int, int] = (32, 64, 96),
    vocab_size: int | None = None,
    num_experts: tuple[int, ...] = (4, 16, 32),
    granularities: tuple[int, ...] = (4,),
    repeats: int = 2,
    family: Family | None = None,
    recipe: TrainingConfig | None = None,
    evaluation: EvaluationConfig | None = None,
    name: str = "ladder",
    checkpoint_seconds: float = 10.0,
) -> Sweep:
    """A one-factor-at-a-time design around a size x horizon grid, its horizons as long as the budget allows.

    The grid (every size at horizons D, 3 D, 9 D) identifies the loss in parameters and tokens. At the two smaller
    sizes and the middle horizon the number of experts, the granularity (at a constant activation ratio and a constant
    active width) and the vocabulary (at constant training FLOPs) vary one at a time. Repeated seeds measure the noise.

    Args:
        corpus: corpus folder, as the sweep file will name it (relative to that file).
        tokenizers: tokenizer file of each vocabulary size, as the sweep file will name it.
        budget_flops: training FLOPs of all runs together; never exceeded.
        hidden_sizes: three widths, smallest first.
        vocab_size: vocabulary of the grid; the middle one of ``tokenizers`` when left out.
        num_experts: expert counts beside the base's 8.
        granularities: granularities beside the base's 2; multiples of 2.
        repeats: runs of the middle point with other seeds.
        recipe: learning rate, batch, schedule; its ``tokens`` are replaced by each run's horizon.

    Raises:
        UserError: the budget is too small for the design, or a vocabulary has no tokenizer.
    """
    if not budget_flops > 0:
        raise UserError(f"the budget is {budget_flops:g} FLOPs; give a number above 0, such as 1e13.")
    sizes = sorted(tokenizers)
    if not sizes:
        raise UserError("no tokenizer is given; make some with: scaling vocab study CORPUS --sizes 1024,2048,4096")
    vocab_size = vocab_size or sizes[len(sizes) // 2]
    if vocab_size not in tokenizers:
        raise UserError(f"vocabulary {vocab_size} has no tokenizer; there are {', '.join(map(str, sizes))}.")
    family = family or Family()
    recipe = recipe or PROXY_RECIPE
    points = list(_points(hidden_sizes, vocab_size, sizes, num_experts, granularities, repeats))
    # At another vocabulary a run costs what it would cost at the grid's, so cost is counted there for all.
    costs = [_flops_per_token(replace(point, vocab_size=vocab_size), family, recipe) for point in points]
    relative = [HORIZON_RATIO**point.horizon for point in points]
    shortest = budget_flops / sum(cost * times for cost, times in zip(costs, relative, strict=True))
    if shortest < _FEWEST_STEPS * recipe.batch_tokens:
        raise UserError(
            f"a budget of {budget_flops:.3g} FLOPs leaves the shortest run {shortest / recipe.batch_tokens:.1f} steps; "
            f"give at least {budget_flops * _FEWEST_STEPS * recipe.batch_tokens / shortest:.3g} FLOPs, "
            "smaller widths or a smaller batch."
        )

    def run(point: _Point, cost: int, times: int) -> RunSpec:
        tokens = shortest * times * cost / _flops_per_token(point, family, recipe)
        return RunSpec(
            run_id=point.run_id,
            purpose=point.purpose,
            architecture=point.shape(family),
            training=recipe.model_copy(update={"tokens": int(tokens // recipe.batch_tokens) * recipe.batch_tokens}),
            evaluation=evaluation or EvaluationConfig(),
            seed=point.seed,
            checkpoint_seconds=checkpoint_seconds,
        )

    return Sweep(
        name=name,
        purpose="loss in active parameters and tokens; effect of experts, granularity and vocabulary; seed noise",
        corpus=str(corpus),
        tokenizers={size: str(path) for size, path in tokenizers.items()},
        runs=tuple(run(*each) for each in zip(points, costs, relative, strict=True)),
    )


def _points(
    hidden_sizes: tuple[int, int, int],
    vocab_size: int,
    vocab_sizes: list[int],
    num_experts: tuple[int, ...],
    granularities: tuple[int, ...],
    repeats: int,
) -> Iterator[_Point]:
    for hidden_size in hidden_sizes:
        for horizon in range(3):
            yield _Point("size x horizon", hidden_size, horizon, BASE_EXPERTS, vocab_size)
    for hidden_size in hidden_sizes[:2]:
        for count in num_experts:
            experts = BASE_EXPERTS.model_copy(update={"num_experts": count})
            yield _Point("experts", hidden_size, 1, experts, vocab_size)
        for granularity in granularities:
            yield _Point("granularity", hidden_size, 1, _finer(granularity), vocab_size)
        for size in vocab_sizes:
            if size != vocab_size:
                yield _Point("vocabulary", hidden_size, 1, BASE_EXPERTS, size)
    for seed in range(1, repeats + 1):
        yield _Point("noise", hidden_sizes[1], 1, BASE_EXPERTS, vocab_size, seed)


def _finer(granularity: int) -> Experts:
    """The base routing with every expert cut into pieces: the same active width and activation ratio."""
    pieces, rest = divmod(granularity, 2)
    if rest or pieces < 1:
        raise UserError(f"granularity {granularity} is not a multiple of 2; choose 4, 6, 8 ...")
    base = BASE_EXPERTS
    return Experts(
        num_experts=base.num_experts * pieces,
        experts_per_token=base.experts_per_token * pieces,
        num_shared_experts=base.num_shared_experts * pieces,
        granularity=granularity,
    )


def _flops_per_token(point: _Point, family: Family, recipe: TrainingConfig) -> int:
    return point.shape(family).flops_per_token(recipe.sequence_length)
