"""A design and a budget in, a sweep out: every run with its size, tokens and recipe, never above the budget."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from fits.errors import UserError
from trainer_small.architecture import Architecture
from trainer_small.config import RunSpec, Trunk
from trainer_small.designs.blocks import Block, Design, find_design
from trainer_small.designs.recipe import Recipe, run_by, template
from trainer_small.ladder import Experts, Family, usual_depth
from trainer_small.sweeps.sweep import Sweep
from trainer_small.training_config import TrainingConfig

_FEWEST_STEPS = 20
_LARGE = 10**6
"""Steps of horizon 1 when a design's cost is measured: so many that rounding does not show."""


@dataclass(frozen=True)
class _Point:
    """A run in relative units."""

    purpose: str
    hidden_size: int
    horizon: float | None
    budget: float | None
    equal_flops: bool
    experts: Experts
    vocab_size: int
    learning_rate: float
    batch: float
    seed: int
    trunk: bool

    def run_id(self, base: Experts) -> str:
        experts = self.experts
        parts = [f"d{self.hidden_size}", f"t{self.horizon:g}" if self.horizon else f"c{self.budget:g}"]
        parts += [f"e{experts.num_experts}"]
        if experts.experts_per_token != base.experts_per_token or experts.num_shared_experts != base.num_shared_experts:
            parts += [f"k{experts.experts_per_token}", f"h{experts.num_shared_experts}"]
        parts += [f"g{experts.granularity:.3g}", f"v{self.vocab_size}"]
        parts += [f"lr{self.learning_rate:g}"] if self.learning_rate != 1 else []
        parts += [f"b{self.batch:g}"] if self.batch != 1 else []
        return "-".join(parts + ([f"s{self.seed}"] if self.seed else []))


@dataclass(frozen=True)
class _Setting:
    """What all runs of a sweep share."""

    design: Design
    family: Family
    template: RunSpec
    vocab_size: int

    @property
    def recipe(self) -> TrainingConfig:
        return self.template.training

    def shape(self, point: _Point) -> Architecture:
        depth = round(usual_depth(point.hidden_size))
        shape = self.family.shape(point.hidden_size, depth, point.experts, point.vocab_size)
        if abs(shape.granularity / point.experts.granularity - 1) > 0.1:
            raise UserError(
                f"at width {point.hidden_size} the nearest to granularity {point.experts.granularity:g} is "
                f"{shape.granularity:g}; choose widths whose experts come out whole, such as 192 or 384."
            )
        return shape

    def flops_per_token(self, point: _Point) -> int:
        return self.shape(point).flops_per_token(self.recipe.sequence_length)

    def tokens(self, point: _Point, unit: float) -> float:
        """Tokens of a run when horizon 1 is ``unit`` tokens."""
        base = replace(point, experts=self.design.base, vocab_size=self.vocab_size)
        if point.horizon is not None:
            even = self.flops_per_token(base) / self.flops_per_token(point) if point.equal_flops else 1
            return unit * point.horizon * even
        assert point.budget is not None
        first = replace(base, hidden_size=self.design.hidden_sizes[0])
        return unit * point.budget * self.flops_per_token(first) / self.flops_per_token(point)


def design_sweep(
    *,
    corpus: str | Path,
    tokenizers: Mapping[int, str | Path],
    budget_flops: float,
    design: Design | str | Path = "moe-bits",
    hidden_sizes: tuple[int, ...] | None = None,
    vocab_size: int | None = None,
    family: Family | None = None,
    recipe: Recipe = None,
) -> Sweep:
    """Scale a design to a budget: its horizons are as long as the FLOPs allow.

    Args:
        corpus: corpus folder, as the sweep file will name it (relative to that file).
        tokenizers: tokenizer file of each vocabulary size, as the sweep file will name it.
        budget_flops: training FLOPs of all runs together, shared trunks counted once; never exceeded.
        design: a ``Design``, its name, or a file.
        hidden_sizes: widths instead of the design's, smallest first.
        vocab_size: vocabulary of the grid; the middle one of ``tokenizers`` when left out.
        recipe: what the runs share beside their shapes (``designs.recipe.template``): optimizer, batch, sequence
            length, dtype, device and all other keys of a run, or a file of them.

    Raises:
        UserError: the budget is too small for the design, a vocabulary has no tokenizer, or the recipe is wrong.
    """
    if not budget_flops > 0:
        raise UserError(f"the budget is {budget_flops:g} FLOPs; give a number above 0, such as 1e13.")
    setting, points = _prepare(design, tokenizers, hidden_sizes, vocab_size, family, recipe)
    large = float(_LARGE * setting.recipe.batch_tokens)
    unit = large * budget_flops / _spent(_runs(setting, points, large))
    while True:
        _check_shortest(setting, points, unit, budget_flops)
        runs = _runs(setting, points, unit)
        if _spent(runs) <= budget_flops:
            break
        unit *= 0.995  # rounding to whole steps went the wrong way
    chosen = setting.design
    return Sweep(
        name=chosen.name,
        purpose=chosen.purpose,
        corpus=str(corpus),
        tokenizers={size: str(path) for size, path in tokenizers.items()},
        runs=tuple(runs),
    )


def candidate_runs(
    units: Iterable[float],
    *,
    design: Design | str | Path,
    tokenizers: Mapping[int, str | Path],
    hidden_sizes: tuple[int, ...] | None = None,
    vocab_size: int | None = None,
    recipe: Recipe = None,
) -> list[RunSpec]:
    """The design's runs at several lengths of horizon 1 (in tokens), each an independent run, named with its tokens."""
    setting, points = _prepare(design, tokenizers, hidden_sizes, vocab_size, None, recipe)
    points = [replace(point, trunk=False) for point in points if not point.seed]
    found: dict[tuple[str, int], RunSpec] = {}
    for unit in units:
        for run in _runs(setting, points, unit):
            if run.training.steps >= _FEWEST_STEPS:
                name = f"{run.run_id}-n{run.training.tokens}"
                found[run.architecture.model_dump_json(), run.training.tokens] = run.model_copy(update={"run_id": name})
    return list(found.values())


def _prepare(
    design: Design | str | Path,
    tokenizers: Mapping[int, str | Path],
    hidden_sizes: tuple[int, ...] | None,
    vocab_size: int | None,
    family: Family | None,
    recipe: Recipe,
) -> tuple[_Setting, list[_Point]]:
    chosen = design if isinstance(design, Design) else find_design(design)
    if hidden_sizes is not None:
        data = chosen.model_dump(mode="json") | {"hidden_sizes": hidden_sizes}
        chosen = Design.parse(data, f"design '{chosen.name}' with hidden_sizes {list(hidden_sizes)}")
    sizes = sorted(tokenizers)
    if not sizes:
        raise UserError("no tokenizer is given; make some with: scaling vocab study CORPUS --sizes 1024,2048,4096")
    vocab_size = vocab_size or sizes[len(sizes) // 2]
    if vocab_size not in tokenizers:
        raise UserError(f"vocabulary {vocab_size} has no tokenizer; there are {', '.join(map(str, sizes))}.")
    setting = _Setting(chosen, family or Family(), template(recipe), vocab_size)
    points: dict[str, _Point] = {}
    for block in chosen.blocks:
        for point in _points(chosen, block, vocab_size, sizes):
            points.setdefault(point.run_id(chosen.base), point)  # what two blocks ask for is run once
    return setting, list(points.values())


def _points(design: Design, block: Block, vocab_size: int, sizes: list[int]) -> Iterator[_Point]:
    widths = [design.hidden_sizes[rung] for rung in block.rungs] if block.rungs else design.hidden_sizes
    vocab_sizes = {"base": [vocab_size], "all": sizes, "others": [size for size in sizes if size != vocab_size]}
    lengths = [(horizon, None) for horizon in block.horizons] or [(None, budget) for budget in block.budgets]
    for width, experts, size, rate, batch, seed, (horizon, budget) in product(
        widths,
        block.experts or (design.base,),
        vocab_sizes[block.vocab_sizes],
        block.learning_rates,
        block.batches,
        block.seeds,
        lengths,
    ):
        yield _Point(
            block.purpose, width, horizon, budget, block.equal_flops, experts, size, rate, batch, seed, block.trunk
        )


def _runs(setting: _Setting, points: list[_Point], unit: float) -> list[RunSpec]:
    """The runs when horizon 1 is ``unit`` tokens; those of one trunk know each other."""
    shortest = min((point.horizon for point in points if point.trunk and point.horizon), default=None)
    warmup = None
    if shortest is not None and setting.recipe.warmup_tokens is None:
        warmup = setting.recipe.warmup_fraction * shortest * unit
    groups: dict[_Point, list[RunSpec]] = {}
    for point in points:
        # Horizons of one trunk stand together, everything else alone.
        key = replace(point, horizon=None, purpose="") if point.trunk and _can_branch(setting) else point
        groups.setdefault(key, []).append(_run(setting, point, unit, warmup))
    return [run for group in groups.values() for run in _branched(group)]


def _run(setting: _Setting, point: _Point, unit: float, warmup: float | None) -> RunSpec:
    recipe = setting.recipe
    batch = round(recipe.batch_tokens * point.batch / recipe.sequence_length) * recipe.sequence_length
    changes: dict[str, float | int | None] = {
        "batch_tokens": batch,
        "tokens": max(int(setting.tokens(point, unit) // batch), 1) * batch,
        "learning_rate": recipe.learning_rate * point.learning_rate,
        "muon_learning_rate": recipe.muon_learning_rate * point.learning_rate,
        "micro_batch_tokens": recipe.micro_batch_tokens and min(recipe.micro_batch_tokens, batch),
    }
    if warmup is not None:
        changes["warmup_tokens"] = max(round(warmup / batch), 1) * batch
    return run_by(
        setting.template,
        point.run_id(setting.design.base),
        purpose=point.purpose,
        architecture=setting.shape(point),
        seed=point.seed,
        training=changes,
    )


def _can_branch(setting: _Setting) -> bool:
    return setting.recipe.schedule == "wsd"


def _branched(runs: list[RunSpec]) -> list[RunSpec]:
    """The longest run keeps its state where the decays of the shorter ones begin; those leave it there."""
    trunk = max(runs, key=lambda run: run.training.tokens)
    leaves = {run.run_id: run.training.tokens_at(run.training.decay_start) for run in runs if run is not trunk}
    branches = [
        run.model_copy(update={"trunk": Trunk(run_id=trunk.run_id, tokens=leaves[run.run_id])})
        for run in runs
        if run is not trunk
    ]
    return [trunk.model_copy(update={"saved_at": tuple(sorted(set(leaves.values())))}), *branches]


def _spent(runs: list[RunSpec]) -> int:
    return sum(run.train_flops_spent for run in runs)


def _check_shortest(setting: _Setting, points: list[_Point], unit: float, budget_flops: float) -> None:
    def steps(point: _Point) -> float:
        return setting.tokens(point, unit) / (setting.recipe.batch_tokens * point.batch)

    shortest = min(points, key=steps)
    if steps(shortest) < _FEWEST_STEPS:
        raise UserError(
            f"a budget of {budget_flops:.3g} FLOPs leaves run {shortest.run_id(setting.design.base)} "
            f"{steps(shortest):.1f} steps; give at least {budget_flops * _FEWEST_STEPS / steps(shortest):.3g} FLOPs, "
            "smaller widths or a smaller batch."
        )
