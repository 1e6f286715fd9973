"""The checks across keys that the stacks themselves let through: each fault is one sentence with its mend."""

from collections.abc import Iterator

from scaling.cluster.run import Run
from scaling.plan import Layout
from trainer_small.architecture import Architecture


def faults(run: Run) -> list[str]:
    """What would stop or silently change this run; empty when nothing would."""
    found = [*_router_faults(run.model), *_schedule_faults(run)]
    if run.layout is not None:
        found += [*_split_faults(run.model, run.layout), *_batch_faults(run, run.layout)]
    return found


def _router_faults(model: Architecture) -> Iterator[str]:
    grouped = model.is_moe and model.num_expert_groups > 1
    if grouped and model.num_experts // model.num_expert_groups < 2:
        yield (
            f"model.num_expert_groups {model.num_expert_groups} leaves one of {model.num_experts} experts in a group, "
            "and a group is scored by its best two; use fewer groups"
        )


def _schedule_faults(run: Run) -> Iterator[str]:
    if run.warmup_steps + run.decay_steps > run.steps:
        yield (
            f"the warm-up of {run.warmup_steps} steps and the decay of {run.decay_steps} exceed the {run.steps} steps "
            "of the run; shorten them"
        )
    ramp = run.batch_ramp
    if ramp is None:
        return
    if not 0 < ramp.start <= run.batch_size or ramp.increment < 1 or (run.batch_size - ramp.start) % ramp.increment:
        yield (
            f"the batch ramp from {ramp.start} by {ramp.increment} sequences does not lead to the batch of "
            f"{run.batch_size}; change one of them"
        )
    if ramp.samples > run.steps * run.batch_size:
        yield (
            f"the batch ramp of {ramp.samples} sequences is longer than the run of {run.steps * run.batch_size}; "
            "shorten it"
        )


def _split_faults(model: Architecture, layout: Layout) -> Iterator[str]:
    """Sizes that a degree of parallelism must divide."""
    tensor = layout.tensor
    for key in ("num_attention_heads", "vocab_size", "dense_ffn_size"):
        yield from _indivisible(f"model.{key}", getattr(model, key), "layout.tensor", tensor)
    if model.attention == "gqa" and tensor % model.num_key_value_heads:
        yield from _indivisible("model.num_key_value_heads", model.num_key_value_heads, "layout.tensor", tensor)
    shared = model.num_shared_experts * model.shared_expert_ffn_size
    yield from _indivisible("model.shared_expert_ffn_size x num_shared_experts", shared, "layout.tensor", tensor)
    yield from _indivisible("model.num_experts", model.num_experts, "layout.expert", layout.expert)
    yield from _indivisible(
        "model.expert_ffn_size", model.expert_ffn_size, "layout.expert_tensor", layout.expert_tensor
    )
    if layout.expert > 1 and not model.is_moe:
        yield f"layout.expert is {layout.expert} for a model without experts; set it to 1"
    if layout.pipeline > model.num_layers:
        yield (
            f"layout.pipeline {layout.pipeline} is above model.num_layers {model.num_layers}; "
            "a stage needs at least one layer"
        )
    elif layout.pipeline * layout.virtual_pipeline > model.num_layers:
        yield (
            f"layout.pipeline {layout.pipeline} x layout.virtual_pipeline {layout.virtual_pipeline} are more chunks "
            f"than model.num_layers {model.num_layers}; lower one"
        )
    if layout.virtual_pipeline > 1 and layout.pipeline == 1:
        yield f"layout.virtual_pipeline is {layout.virtual_pipeline} without a pipeline; set it to 1"
    ranks = layout.tensor * layout.pipeline * layout.context
    yield from _indivisible("layout.gpus", layout.gpus, "layout.tensor x pipeline x context =", ranks)
    if layout.expert * layout.expert_tensor > 1:
        ranks = layout.expert * layout.expert_tensor * layout.pipeline
        yield from _indivisible("layout.gpus", layout.gpus, "layout.expert x expert_tensor x pipeline =", ranks)


def _batch_faults(run: Run, layout: Layout) -> Iterator[str]:
    if layout.context > 1:
        yield from _indivisible("sequence_length", run.sequence_length, "2 x layout.context =", 2 * layout.context)
    if layout.tensor > 1:
        ranks = layout.tensor * layout.context
        yield from _indivisible("sequence_length", run.sequence_length, "layout.tensor x context =", ranks)
    replicas, rest = divmod(layout.gpus, layout.tensor * layout.pipeline * layout.context)
    if replicas and not rest:
        together = replicas * layout.micro_batch_size
        what = f"{replicas} data-parallel ranks x layout.micro_batch_size ="
        yield from _indivisible("the batch of sequences", run.batch_size, what, together)
        if run.batch_ramp:
            yield from _indivisible("the first batch of the ramp", run.batch_ramp.start, what, together)
            yield from _indivisible("the increment of the ramp", run.batch_ramp.increment, what, together)
        micro_batches = run.batch_size // together
        if layout.virtual_pipeline > 1 and micro_batches % layout.pipeline:
            yield from _indivisible("the micro-batches of a step", micro_batches, "layout.pipeline", layout.pipeline)


def _indivisible(what: str, size: int, by: str, degree: int) -> Iterator[str]:
    if degree > 1 and size % degree:
        yield f"{what} {size} is not divisible by {by} {degree}; change one of them"
