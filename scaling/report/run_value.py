"""What another run is worth: candidates ranked by how much of the plan's uncertainty each removes for its FLOPs."""

from dataclasses import dataclass

import numpy as np

from fits import next_runs
from fits.errors import UserError
from scaling.planner.loss_model import fitted_loss_model, law_variables
from scaling.planner.search_space import space_of_sweep
from scaling.report.bytes_per_token import bytes_per_token
from scaling.report.collect import Material
from trainer_small.architecture import Architecture
from trainer_small.ladder import usual_depth

_LONGER = (1.0, 3.0, 10.0)
"""Each shape is offered at the longest horizon of the runs and at these multiples of it."""
_WIDER = (1.5, 2.0)
"""Beside the shapes of the sweep, the plan's routing at the widest proxy's width times these."""
_MOST_OF_PLAN = 0.1
"""A run that costs more than this share of the plan is no proxy."""
_SHOWN, _LEAST_GAIN = 6, 0.02


@dataclass(frozen=True)
class RunValue:
    """One run that could be bought next."""

    shape: Architecture
    tokens: float
    train_flops: float
    removes: float
    """Share of the variance of the predicted loss at the plan."""


@dataclass(frozen=True)
class Purchase:
    """How uncertain the plan's loss is now (a fraction, one standard error), and what would help, best buy first."""

    error: float
    runs: list[RunValue]


def worth_buying(material: Material) -> Purchase | None:
    """The best buys by the law's own draws, or None without a law with draws, a sweep and a plan.

    The law is taken as right: what its form leaves out, only a run far beyond the others shows.
    """
    law, sweep, plan = material.law, material.sweep, material.plan
    if law is None or sweep is None or plan is None or len(law.draws) < 30:
        return None
    rate = bytes_per_token(material) if "train_bytes" in fitted_loss_model(law).sees else None
    length = sweep.runs[0].training.sequence_length
    longest = max(run.training.tokens_trained for run in sweep.runs)
    runs = [(shape, longest * times) for shape in _shapes(material) for times in _LONGER]
    costs = [shape.flops_per_token(length) * tokens for shape, tokens in runs]
    affordable = [index for index, cost in enumerate(costs) if cost <= _MOST_OF_PLAN * plan.budget.train_flops]
    if not affordable:
        return None

    def variables(shape: Architecture, tokens: float) -> dict[str, float]:
        return {name: float(value) for name, value in law_variables(law, shape, tokens, rate).items()}

    target, names = variables(plan.model, plan.tokens), list(law.parameters)

    def log_loss(draws: np.ndarray) -> np.ndarray:
        return np.log(law.as_law.evaluate(dict(zip(names, draws.T, strict=True)), target))

    try:
        error, ranked = next_runs(
            law, [variables(*runs[index]) for index in affordable], [costs[index] for index in affordable], log_loss
        )
    except UserError:
        return None  # no scatter, or no draws to speak of
    best = [each for each in ranked if each.gain >= _LEAST_GAIN][:_SHOWN]
    return Purchase(error, [RunValue(*runs[affordable[each.index]], each.cost, each.gain) for each in best])


def _shapes(material: Material) -> list[Architecture]:
    """Every shape of the sweep once, then the plan's routing at wider proxies."""
    assert material.sweep is not None and material.plan is not None
    shapes = list(dict.fromkeys(run.architecture for run in material.sweep.runs))
    space, model = space_of_sweep(material.sweep), material.plan.model
    widest = max(shape.hidden_size for shape in shapes)
    for experts in space.experts:
        if (experts.num_experts, experts.granularity) == (model.num_experts, round(model.granularity, 3)):
            for factor in _WIDER:
                width = round(factor * widest / 32) * 32
                shapes.append(space.family.shape(width, round(usual_depth(width)), experts, model.vocab_size))
    return shapes
