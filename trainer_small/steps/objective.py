"""What a training step minimises: the next token's loss, and what is added to it."""

from typing import Any

from torch import Tensor

from trainer_small.model.model import Model
from trainer_small.steps.compiled import is_compiled
from trainer_small.steps.loss import linear_cross_entropy
from trainer_small.training_config import TrainingConfig


def set_router_losses(model: Model, training: TrainingConfig) -> None:
    """Have the routers add the losses that the recipe asks for."""
    by_loss = training.balancing == "auxiliary_loss"
    for router in model.routers():
        router.auxiliary_loss_weight = training.balancing_rate if by_loss else 0.0
        router.sequence_loss_weight = training.sequence_balance_loss
        router.z_loss_weight = training.router_z_loss
        if by_loss:
            router.follow_batches()


def training_loss(model: Model, windows: Tensor, multi_token_weight: float = 0.0) -> tuple[Tensor, Tensor]:
    """The loss of ``windows [batch, length + 1]`` and the objective, both scalars.

    A stack of models (``stacked``) takes ``[models, batch, length + 1]`` and gives ``[models]`` of both.

    Args:
        multi_token_weight: weight of the mean loss of the multi-token-prediction modules. Where documents are apart a
            module's loss is the mean over the places that look ahead within their document, 0 when there are none.

    Returns:
        The mean cross-entropy of the next tokens, nats: what is recorded. And what the backward pass starts from: the
        same with the routers' losses and those of further tokens added.
    """
    hidden, router_loss = model(windows[..., :-1])
    how: dict[str, Any] = {"compiled": is_compiled(model), "device_type": model.device_type}
    loss = linear_cross_entropy(hidden, model.head, windows[..., 1:].flatten(-2), **how)
    objective = loss if router_loss is None else loss + router_loss
    modules = len(model.multi_token)
    batch, length = len(windows), windows.shape[1] - 1
    for depth in range(1, modules + 1):
        # Place i has the token i + depth before it and predicts i + depth + 1: the last places have none.
        hidden = hidden.view(batch, -1, hidden.shape[-1])[:, : length - depth].flatten(0, 1)
        tokens, targets = windows[:, :length], windows[:, depth + 1 :].reshape(-1)
        hidden, router_loss = model.look_further(hidden, tokens, depth)
        counted = model.within_document(tokens, depth)
        further = linear_cross_entropy(hidden, model.head, targets, counted=counted, **how)
        objective = objective + multi_token_weight / modules * further
        if router_loss is not None:
            objective = objective + router_loss
    return loss, objective
