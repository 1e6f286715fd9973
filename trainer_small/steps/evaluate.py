"""Validation: whole documents scored once, with the error that a finite sample leaves."""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from trainer_small.data.batches import pinned
from trainer_small.data.validation_tokens import ValidationTokens
from trainer_small.model.model import Model
from trainer_small.model.router_load import router_load
from trainer_small.result import GroupLosses, Router
from trainer_small.steps.compiled import eager
from trainer_small.steps.loss import token_losses


@dataclass(frozen=True)
class Evaluation:
    """Validation losses; standard errors are over documents, the unit that is sampled."""

    all: GroupLosses
    groups: dict[str, GroupLosses]
    """By what documents belong to: languages, say."""


def evaluate(
    model: Model, text: ValidationTokens, sequence_length: int, batch_tokens: int, device: torch.device
) -> tuple[Evaluation, Router | None]:
    """Score the text in windows of ``sequence_length``, every token once; and how the routers spread it."""
    routers = list(model.routers())[: model.architecture.num_moe_layers]  # those of further tokens see no validation
    for router in routers:
        router.load.zero_()
    losses = score(model, text, sequence_length, batch_tokens, device)
    load = router_load([router.load for router in routers])
    for router in routers:
        router.load.zero_()
    return _summary(losses, text), load


@torch.no_grad()
def score(
    model: Model, text: ValidationTokens, sequence_length: int, batch_tokens: int, device: torch.device
) -> np.ndarray:
    """Nats of every token of the text, float64."""
    model.eval()
    with eager(model):
        losses = [
            token_losses(model(inputs)[0], model.head, targets)
            for inputs, targets in _windows(text, sequence_length, batch_tokens, device)
        ]
    model.train()
    return torch.cat(losses).cpu().double().numpy()  # a card is waited for here alone


def _summary(losses: np.ndarray, text: ValidationTokens) -> Evaluation:
    """The sums over tokens become means with errors over documents."""
    documents = len(text.bytes)
    nats = np.bincount(text.document, weights=losses, minlength=documents)
    tokens = np.bincount(text.document, minlength=documents)
    unigram = np.bincount(text.document, weights=text.unigram_losses, minlength=documents)

    def of(chosen: np.ndarray) -> GroupLosses:
        loss, loss_error = _ratio(nats[chosen], tokens[chosen])
        nats_per_byte, byte_error = _ratio(nats[chosen], text.bytes[chosen])
        return GroupLosses(
            loss=loss,
            loss_standard_error=loss_error,
            bits_per_byte=nats_per_byte / math.log(2),
            bits_per_byte_standard_error=byte_error / math.log(2),
            unigram_loss=float(unigram[chosen].sum() / tokens[chosen].sum()),
            validation_tokens=int(tokens[chosen].sum()),
            validation_bytes=int(text.bytes[chosen].sum()),
            validation_documents=int(chosen.sum()),
        )

    groups = {text.groups[index]: of(text.group == index) for index in sorted(set(text.group.tolist()))}
    return Evaluation(all=of(np.ones(documents, dtype=bool)), groups=groups)


def _windows(text: ValidationTokens, length: int, batch_tokens: int, device: torch.device):
    """Batches of full windows, then the shorter rest as a window of its own."""
    whole = len(text.inputs) // length * length
    step = max(1, batch_tokens // length) * length
    for start, end in pairwise((*range(0, whole, step), whole, len(text.inputs))):
        if start == end:
            continue
        inputs, targets = (
            pinned(torch.from_numpy(part[start:end]), device).to(device, non_blocking=True)
            for part in (text.inputs, text.targets)
        )
        yield inputs.view(-1, min(length, end - start)), targets


def _ratio(total: np.ndarray, size: np.ndarray) -> tuple[float, float]:
    """``sum(total) / sum(size)`` and its standard error over documents (linearised ratio estimator)."""
    ratio = total.sum() / size.sum()
    if len(total) < 2:
        return float(ratio), 0.0
    spread = np.square(total - ratio * size).sum() * len(total) / (len(total) - 1)
    return float(ratio), float(np.sqrt(spread) / size.sum())
