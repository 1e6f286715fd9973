"""A training plan on a terminal: what to train, how sure each number is, what binds, and who says otherwise."""

from collections.abc import Iterator

from fits.numbers import count, quantity
from scaling.commands.console import print_table, say
from scaling.plan import Advice, Neighbour, ParetoPoint, TrainingPlan


def print_plan(made: TrainingPlan) -> None:
    """Every part of a plan, the answer first."""
    say(made.question)
    print_table(["", "plan"], [*_answer(made)])
    print_table(["budget", "FLOPs", "what it counts"], [*_budget(made)], title="Three numbers for one budget")
    if made.flat_region:
        columns = ["decision", "plan", "as good (1 % compute)", "over the law's draws"]
        print_table(columns, [*_decisions(made)], title="How sure each number is")
    if made.neighbours:
        off = [[each.change, _percent(each.regret), _interval(each)] for each in made.neighbours]
        print_table(["instead", "compute", "interval"], off, title="What it costs to be off, for the same loss")
    if made.binding:
        rows = [
            [f"{each.constraint} {quantity(each.limit)}", quantity(each.relaxed_to), _percent(-each.gain), each.shape]
            for each in made.binding
        ]
        print_table(["binds", "at", "compute", "the plan then"], rows, title="What loosening a limit would buy")
    if made.pareto:
        rows = [
            [
                quantity(each.train_flops),
                f"{each.loss:.4f}",
                f"{count(each.params_total)}-A{count(each.params_active)}",
                count(each.tokens),
                f"{each.decode_seconds:.3g}",
                each.shape,
            ]
            for each in _worth_showing(made)
        ]
        columns = ["FLOPs", made.prediction.quantity, "parameters", "tokens", "decode", "shape"]
        print_table(columns, rows, title="Not beaten in loss, compute, size and decode (GPU-s/M tokens) at once")
    _print_opinions(made)
    if made.warnings:
        say()
    for warning in made.warnings:
        say(f"! {warning}")


def _answer(made: TrainingPlan) -> Iterator[list[str]]:
    model, prediction, optimizer = made.model, made.prediction, made.optimizer
    yield ["model", f"{count(model.params_total)} parameters, {count(model.params_active)} active"]
    yield ["hidden_size x layers", f"{model.hidden_size} x {model.num_layers}, {model.num_attention_heads} heads"]
    if model.is_moe:
        yield [
            "experts",
            f"{model.num_experts} of {model.expert_ffn_size} wide, {model.experts_per_token} a token, "
            f"{model.num_shared_experts} shared, first {model.num_dense_layers} layers dense",
        ]
        yield ["activation ratio, G", f"{model.activation_ratio:.4f}, {model.granularity:.3g}"]
    else:
        yield ["dense FFN", f"{model.dense_ffn_size}"]
    yield ["vocabulary", f"{model.vocab_size} ({made.tokenizer.source})"]
    repeats = f", {made.data.epochs:.3g} epochs" if made.data and made.data.epochs and made.data.epochs > 1 else ""
    yield ["tokens", f"{count(made.tokens)} in sequences of {made.sequence_length}{repeats}"]
    ramp = f", from {count(made.batch_ramp.start_batch_tokens)}" if made.batch_ramp else ""
    yield ["batch", f"{count(made.batch_tokens)} tokens{ramp}, {made.steps} steps"]
    yield [
        "rate, weight decay",
        f"{quantity(optimizer.learning_rate)}, {quantity(optimizer.weight_decay)} ({made.schedule.kind})",
    ]
    if made.layout and made.layout_estimate:
        from scaling.cluster.layout.estimate import describe

        estimate = made.layout_estimate
        yield ["layout", f"{describe(made.layout)} on {made.layout.gpus} GPUs"]
        yield [
            "",
            f"{estimate.memory_gib:.0f} GiB, {estimate.tflops_per_gpu:.0f} TFLOP/s a GPU, {estimate.days:.0f} days",
        ]
    if made.serving:
        yield ["to generate", f"{made.serving.decode_seconds:.3g} {made.serving.gpu}-seconds a million tokens"]
    yield [
        f"predicted {prediction.quantity}",
        f"{prediction.value:.4f}, {prediction.low:.4f} to {prediction.high:.4f} {prediction.unit}",
    ]
    yield ["", prediction.interval]
    yield ["by", prediction.source]
    yield ["extrapolation", f"{made.extrapolation.decades_in_train_flops:.1f} decades of compute beyond the law's runs"]
    outside = [f"{name} {decades:+.1f}" for name, decades in made.extrapolation.decades.items() if decades]
    if outside:
        yield ["", f"decades outside, by variable: {', '.join(outside)}"]


def _budget(made: TrainingPlan) -> Iterator[list[str]]:
    budget = made.budget
    if budget.hardware_flops:
        yield ["hardware", quantity(budget.hardware_flops), "what the cluster can do at the utilisation given"]
    yield ["model", quantity(budget.train_flops), budget.accounting]
    yield ["6 N D", quantity(budget.six_n_d), "active parameters x tokens x 6"]
    if budget.inference_flops:
        yield ["serving", quantity(budget.inference_flops), "set aside: 2 x active parameters a served token"]


def _decisions(made: TrainingPlan) -> Iterator[list[str]]:
    values = {"tokens": float(made.tokens)}
    for name, flat in made.flat_region.items():
        own = values.get(name) or float(getattr(made.model, name))
        draws = made.decision.get(name)
        yield [name, _plain(own), _span(flat.low, flat.high), _span(draws.low, draws.high) if draws else "no draws"]


def _worth_showing(made: TrainingPlan) -> Iterator[ParetoPoint]:
    """The front at the whole budget, and the lowest loss at each smaller one; the file has all."""
    budgets = [each.train_flops for each in made.pareto]
    for index, point in enumerate(made.pareto):
        if point.train_flops == budgets[-1] or point.train_flops not in budgets[:index]:
            yield point


def _print_opinions(made: TrainingPlan) -> None:
    priced = [each for each in made.advice if each.shape]
    sizes = [each for each in made.advice if not each.shape and each.learning_rate is None]
    recipes = [each for each in made.advice if each.learning_rate is not None]
    if priced:
        rows = [
            [
                each.law.removesuffix(", priced"),
                _size(each),
                _count(each.tokens),
                each.shape,
                _percent(each.regret),
                _out(each),
            ]
            for each in priced
        ]
        columns = ["law", "parameters", "tokens", "its best shape", "this plan", "decades"]
        print_table(
            columns, rows, title="Other laws under the same limits, and the compute this plan would cost by them"
        )
    if sizes:
        rows = [[each.law, _count(each.params_active), _count(each.tokens), _out(each)] for each in sizes]
        title = "Sizes alone, each law in its own convention, and models as built"
        print_table(["law", "active", "tokens", "decades"], rows, title=title)
    if recipes:
        own = made.optimizer
        rows = [["this plan", quantity(own.learning_rate), count(made.batch_tokens), quantity(own.weight_decay), ""]]
        rows += [
            [
                each.law.removesuffix(", rate and batch"),
                quantity(each.learning_rate or 0.0),
                _count(each.batch_tokens),
                quantity(each.weight_decay) if each.weight_decay else "",
                _out(each),
            ]
            for each in recipes
        ]
        title = "Learning rate, batch and weight decay side by side"
        print_table(["rule", "rate", "batch", "weight decay", "decades"], rows, title=title)


def _size(advice: Advice) -> str:
    return f"{_count(advice.params_total)}-A{_count(advice.params_active)}"


def _count(value: float | None) -> str:
    return count(value) if value else ""


def _out(advice: Advice) -> str:
    return f"{advice.decades_out_of_range:.1f}" if advice.decades_out_of_range is not None else "?"


def _plain(value: float) -> str:
    return count(value) if value >= 1e6 else f"{value:.0f}" if value >= 1e4 else f"{value:.4g}"


def _span(low: float, high: float) -> str:
    return _plain(low) if low == high else f"{_plain(low)} to {_plain(high)}"


def _interval(neighbour: Neighbour) -> str:
    """Published laws give no interval; a fitted one without an upper end never reaches the loss there."""
    if neighbour.low is None:
        return ""
    return f"{_percent(neighbour.low)} to {_percent(neighbour.high)}"


def _percent(value: float | None) -> str:
    return "never" if value is None else f"{value:+.1%}"
