"""Published laws that can price a shape, each in its own convention, and why the others cannot."""

import numpy as np

from fits.errors import UserError, nearest
from fits.laws.coefficients import Published, list_published, published
from scaling.planner.loss_model import LossModel

_LEVERAGE = "of the dense model with leverage x the FLOPs per token on the same tokens (M/6 parameters)"
_DENSE = "num_experts == 0"
# The columns of each law's variables where they differ from the law's own, by the conventions in its file; the shapes
# it was fitted to; and what had to be decided to ask it about others.
_BIND: dict[str, tuple[dict[str, str], str, str]] = {
    "joint-moe": (
        {"E": "1/activation_ratio"},
        "",
        "E is the inverse activation ratio, which is the number of experts at one expert a token, as it was fitted",
    ),
    "krajewski": (
        {"N": "params_total_non_embedding"},
        "num_experts == 64*experts_per_token",
        "fitted at 64 experts for each one that a token visits, and asked about no others",
    ),
    "abnar": ({}, "", ""),
    "flame": (
        {"N": "params_active"},
        "activation_ratio > 0.1 and activation_ratio < 0.15",
        "fitted at 8 of 66 experts; its coefficients are where its optimiser began: a warning, not advice",
    ),
    "besiroglu": ({"N": "params_active"}, _DENSE, ""),
    "hoffmann": ({"N": "params_active"}, _DENSE, ""),
    "kaplan": ({}, _DENSE, ""),
    "gadre-c4": ({"N": "params_active"}, _DENSE, ""),
    "gadre-redpajama": ({"N": "params_active"}, _DENSE, ""),
    "gadre-refinedweb": ({"N": "params_active"}, _DENSE, ""),
    "muennighoff": ({"N": "params_active", "D": "tokens_seen", "U": "unique_tokens"}, _DENSE, ""),
    "tao-loss": ({}, _DENSE, "loss less that of the unigrams, so that vocabularies compare"),
    "tao-loss-corrected": ({}, _DENSE, "loss less that of the unigrams, so that vocabularies compare"),
}
_LEVERED = {"tian": "besiroglu", "tian-besiroglu": "besiroglu", "tian-hoffmann": "hoffmann"}


def loss_model_names() -> list[str]:
    """What ``published:NAME`` may name."""
    return [*_LEVERED, *_BIND]


def published_loss_model(name: str) -> LossModel:
    """A published law as a judge of shapes.

    ``tian`` is the efficiency leverage of arXiv 2507.17702 on a dense loss law: at equal tokens, a mixture of experts
    with M FLOPs a token is as good as a dense model with leverage x M.

    Raises:
        UserError: the law is unknown, or prices no shape; says what it does give.
    """
    if name in _LEVERED:
        return _levered(name, published(_LEVERED[name]), published("tian-leverage"))
    if name not in _BIND:
        raise _cannot(name)
    found = published(name)
    changes, holds, note = _BIND[name]
    bind = {variable.name: changes.get(variable.name, variable.column or "") for variable in found.law.variables}
    notes = [note, found.record.notes]
    if found.record.evidence in ("memory", "secondary"):
        notes.append("coefficients recalled or from another's text, not read in the paper")
    ranges = {key: span for key, span in found.record.range.items() if key != "C"}
    return LossModel(
        name=name,
        law=found.law,
        coefficients=_row(found),
        bind=bind,
        quantity="loss",
        unit=f"{found.record.unit}, of its own corpus and tokenizer",
        source=found.source,
        ranges=ranges | ({"train_flops": found.record.range["C"]} if "C" in found.record.range else {}),
        holds=holds,
        note="; ".join(part for part in notes if part),
    )


def _levered(name: str, dense: Published, leverage: Published) -> LossModel:
    spans = leverage.record.range
    return LossModel(
        name=name,
        law=dense.law,
        coefficients=_row(dense),
        bind={"N": "tian_leverage*flops_per_token_without_head/6", "D": "tokens"},
        quantity="loss",
        unit="nats/token, of the dense law's own corpus and tokenizer",
        source=f"{leverage.source}, over {dense.source}",
        ranges={"train_flops": spans["C"]},
        note=f"loss {_LEVERAGE}",
    )


def _row(found: Published) -> np.ndarray:
    return np.array([[found.record.coefficients[each] for each in found.law.parameter_names]])


def _cannot(name: str) -> UserError:
    known = loss_model_names()
    usable = f"usable are {', '.join(known)}"
    sets = [each for each in list_published() if name in (each.name, each.record.allocation)]
    if not sets:
        return UserError(f"--law published:{name} is not known{nearest(name, known)}; {usable}.")
    gives = ", ".join(sorted({each.record.quantity for each in sets}))
    if gives == "loss":
        missing = "tokens" if "D" not in sets[0].law.variable_names else "the shape"
        return UserError(f"published law '{name}' does not see {missing}, so it cannot choose a plan; {usable}.")
    return UserError(f"published law '{name}' gives {gives} and no loss, so it cannot price a shape; {usable}.")
