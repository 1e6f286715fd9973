"""A training plan as a notebook shows it."""

from typing import TYPE_CHECKING

from fits.html import card, number
from scaling.console import count

if TYPE_CHECKING:
    from scaling.plan import TrainingPlan

_MOST_NEIGHBOURS = 6


def plan_card(plan: "TrainingPlan") -> str:
    """HTML: the answer, each decision's interval and flat region, what it costs to be off, and the warnings."""
    model, promise = plan.model, plan.prediction
    rows = [
        ["parameters", f"{count(model.params_total)}, {count(model.params_active)} active"],
        ["shape", f"{model.hidden_size} wide, {model.num_layers} layers, {model.num_attention_heads} heads"],
        [
            "experts",
            f"{model.experts_per_token} of {model.num_experts} and {model.num_shared_experts} shared, "
            f"each {model.expert_ffn_size} wide",
        ],
        ["vocabulary", f"{model.vocab_size:,}"],
        ["tokens", f"{count(plan.tokens)} in batches of {plan.batch_tokens:,}: {plan.steps:,} steps"],
        ["learning rate", number(plan.optimizer.learning_rate)],
        ["training FLOPs", f"{plan.budget.train_flops:.4g}"],
        [
            f"predicted {promise.quantity}",
            f"{promise.value:.4f} ({promise.low:.4f} to {promise.high:.4f}) {promise.unit}; {promise.interval}",
        ],
        ["beyond the law's runs", f"{plan.extrapolation.decades_in_train_flops:.1f} decades of compute"],
    ]
    for name, each in plan.decision.items():
        rows.append([f"{name}, by the law's draws", f"{number(each.low)} to {number(each.high)}"])
    for each in plan.neighbours[:_MOST_NEIGHBOURS]:
        cost = "never reaches the loss" if each.regret is None else f"{each.regret:+.1%} compute"
        if each.low is not None and each.high is not None:
            cost += f" ({each.low:+.1%} to {each.high:+.1%})"
        rows.append([f"instead {each.change}", cost])
    return card(plan.name, about=plan.question, rows=rows, notes=plan.warnings)
