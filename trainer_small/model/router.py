"""The router: which experts a token goes to and with what weight; computed in at least float32."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer_small.architecture import Architecture
from trainer_small.model.attention import affine


@dataclass
class Routing:
    """Choices of one layer for ``n`` tokens."""

    indices: Tensor
    """``[n, experts_per_token]``, int64."""
    weights: Tensor
    """``[n, experts_per_token]``: the gates."""
    load: Tensor
    """``[num_experts]``: tokens that chose each expert."""
    loss: Tensor | None
    """Weighted auxiliary and z-losses of this layer, or None."""


class Router(nn.Module):
    """Sigmoid or softmax scores, group-limited top-k on scores plus selection bias, normalised gates."""

    selection_bias: Tensor | None
    load: Tensor
    batch_load: Tensor | None

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = architecture
        self.weight = nn.Parameter(torch.empty(a.num_experts, a.hidden_size))
        self.bias = nn.Parameter(torch.zeros(a.num_experts)) if a.router_bias else None
        self.top_k, self.scaling = a.experts_per_token, a.router_scaling_factor
        self.sigmoid, self.normalize = a.router_score_function == "sigmoid", a.router_normalize
        self.groups, self.groups_per_token = a.num_expert_groups, a.expert_groups_per_token
        bias = torch.zeros(a.num_experts) if a.router_selection_bias else None
        self.register_buffer("selection_bias", bias)
        self.register_buffer("load", torch.zeros(a.num_experts, dtype=torch.int64), persistent=False)
        """Tokens by expert since the last ``end_batch``."""
        self.register_buffer("batch_load", None)
        """Tokens by expert of the last whole batch, where the auxiliary loss is to go by it (``follow_batches``)."""
        self.auxiliary_loss_weight = 0.0
        self.sequence_loss_weight = 0.0
        self.z_loss_weight = 0.0

    def forward(self, x: Tensor, sequences: int = 1) -> Routing:
        """Route ``x [n, hidden]``, of so many sequences one after another.

        The caller adds to ``load``: a layer may be computed again for its gradient.
        """
        logits = affine(x.to(self.weight.dtype), self.weight, self.bias)
        scores = logits.sigmoid() if self.sigmoid else logits.softmax(-1)
        with torch.no_grad():
            indices = self._choose(scores)
            chosen = indices.flatten(-2)
            load = torch.zeros_like(self.load).scatter_add_(-1, chosen, torch.ones_like(chosen))  # bincount would sync
        weights = scores.gather(-1, indices)
        if self.normalize:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)  # sigmoid scores can all underflow
        if self.scaling != 1:
            weights = weights * self.scaling
        loss = self._losses(logits, scores, indices, load, sequences) if self.training else None
        return Routing(indices, weights, load, loss)

    def _choose(self, scores: Tensor) -> Tensor:
        biased = scores if self.selection_bias is None else scores + self.selection_bias.unsqueeze(-2)
        if self.groups > self.groups_per_token:
            grouped = biased.unflatten(-1, (self.groups, -1))
            # DeepSeek-V3 ranks groups by their two best experts (arXiv 2412.19437), DeepSeek-V2 by the best.
            best = grouped.topk(min(2 if self.selection_bias is not None else 1, grouped.shape[-1]), -1).values.sum(-1)
            allowed = torch.zeros_like(best, dtype=torch.bool).scatter_(
                -1, best.topk(self.groups_per_token, -1).indices, True
            )
            biased = grouped.masked_fill(~allowed.unsqueeze(-1), -torch.inf).flatten(-2)
        return biased.topk(self.top_k, -1, sorted=False).indices

    def _losses(self, logits: Tensor, scores: Tensor, indices: Tensor, load: Tensor, sequences: int) -> Tensor | None:
        losses = []
        if self.auxiliary_loss_weight or self.sequence_loss_weight:
            shares = scores / scores.sum(-1, keepdim=True) if self.sigmoid else scores
            experts = load.shape[-1]
            # Switch Transformers (arXiv 2101.03961, eq. 4) with k choices: 1 at perfect balance.
            if self.auxiliary_loss_weight:
                counted = load if self.batch_load is None else self.batch_load
                fraction = counted.to(shares.dtype) / counted.sum(-1, keepdim=True).clamp(min=1)
                losses.append(self.auxiliary_loss_weight * experts * (fraction * shares.mean(-2)).sum(-1))
            # The same within each sequence (DeepSeek-V3, arXiv 2412.19437, eq. 17).
            if self.sequence_loss_weight:
                chosen = indices.view(sequences, -1)
                loads = load.new_zeros(sequences, experts).scatter_add_(1, chosen, torch.ones_like(chosen))
                fractions = loads.to(shares.dtype) / chosen.shape[1]
                means = shares.view(sequences, -1, experts).mean(1)
                each = (fractions * means).sum(-1).unflatten(0, (*load.shape[:-1], -1))
                losses.append(self.sequence_loss_weight * experts * each.mean(-1))
        if self.z_loss_weight:
            # ST-MoE (arXiv 2202.08906, eq. 5).
            losses.append(self.z_loss_weight * logits.logsumexp(-1).square().mean(-1))
        return sum(losses[1:], losses[0]) if losses else None

    def follow_batches(self) -> None:
        """From now on have the auxiliary loss take the experts' shares of load from the whole batch before.

        Shares of a part of a batch would make the loss another one for every size of the parts and number of ranks, and
        would balance within parts (arXiv 2501.11873). This batch's own are known only when its last part has been
        routed; those of the batch before are a step old, as the selection bias is. The first batch goes without.
        """
        self.batch_load = torch.zeros_like(self.load)

    @torch.no_grad()
    def end_batch(self, rate: float) -> None:
        """Move the selection bias against the load of the batch (arXiv 2408.15664), then begin another.

        The step has zero mean: a bias that drifts as a whole would change nothing but its own rounding.
        """
        if self.selection_bias is not None:
            load = self.load.to(self.selection_bias.dtype)
            step = torch.sign(load.mean() - load) * rate
            self.selection_bias += step - step.mean()
        if self.batch_load is not None:
            self.batch_load.copy_(self.load)
        self.load.zero_()
