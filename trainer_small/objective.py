"""What a training step minimises: the next token's loss, and what is added to it."""

from torch import Tensor

from trainer_small.loss import linear_cross_entropy
from trainer_small.model import Model


def training_loss(model: Model, windows: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of ``windows [batch, length + 1]`` and the objective, both scalars.

    Returns:
        The mean cross-entropy of the next tokens, nats: what is recorded. And what the backward pass starts from: the
        same with the routers' losses added.
    """
    hidden, router_loss = model(windows[:, :-1])
    loss = linear_cross_entropy(hidden, model.head, windows[:, 1:].reshape(-1))
    return loss, loss if router_loss is None else loss + router_loss
