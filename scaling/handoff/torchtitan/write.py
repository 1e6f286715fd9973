"""torchtitan: a Python package whose config_registry has one function that returns the whole configuration."""

from dataclasses import replace

from fits.errors import UserError
from scaling.cluster.run import Run, run_of, shown_name
from scaling.handoff.fields import refuse, written
from scaling.handoff.tokenizer import tokenizer_files, tokenizer_omission
from scaling.handoff.torchtitan import fields, source
from scaling.hf.write import hf_config
from scaling.plan import TrainingPlan
from trainer_small.architecture import Architecture

NAME = "torchtitan"
TARGET = "torchtitan 0.3.0"
PACKAGE = "training_plan"
FUNCTION = "main_run"


def files(plan: TrainingPlan) -> dict[str, str]:
    """File name -> content: a package to put on PYTHONPATH.

    Raises:
        UserError: torchtitan cannot compute this model or this layout; names the key.
    """
    run = run_of(plan)
    _refuse(run)
    model = run.model
    heading = [
        f"Training plan '{shown_name(plan)}' for {TARGET}.",
        "",
        f"Parameters: {model.params_total:,} in all, {model.params_active:,} active.",
        f"Start torchtitan with --module {PACKAGE} --config {FUNCTION}, in the folder above this one and with that",
        "folder on PYTHONPATH.",
        *(f"Note: {text}" for text in omissions(plan)),
    ]
    registry = [
        '"""' + "\n".join(heading) + '\n"""\n',
        source.imports(model, adapter=_adapter(model)),
        _constants(plan, run),
        source.builders(model, adapter=_adapter(model)),
        source.trainer(embedding_rate=plan.optimizer.embedding_learning_rate is not None),
    ]
    return {
        f"{PACKAGE}/__init__.py": f'"""Training plan \'{shown_name(plan)}\' for {TARGET}."""\n',
        f"{PACKAGE}/config_registry.py": "\n".join(registry),
        **tokenizer_files(plan, "tokenizer/"),
    }


def omissions(plan: TrainingPlan) -> list[str]:
    """What the plan says and this package does not, or says otherwise."""
    found = ["data: DATASET stands for a dataset that you register with torchtitan"]
    found += tokenizer_omission(plan, "put tokenizer.json and its config into ./tokenizer")
    if plan.precision == "fp8":
        found.append("precision fp8: add torchtitan's Float8 converters; this runs in bf16")
    if plan.layout is not None and plan.layout.recompute == "selective":
        found.append("recompute selective: torchtitan keeps the costly operations and computes the others again")
    if plan.layout is None:
        found.append("parallel layout: the plan has none; every GPU shards the data here")
    if plan.model.is_moe and not plan.model.router_selection_bias:
        found.append("balancing: torchtitan has the selection bias only, and the plan has none, so nothing balances")
    if _adapter(plan.model) is None:
        found.append("checkpoints in Hugging Face form: torchtitan has no adapter for this model")
    return found


def expressed(run: Run) -> Run:
    """The run as this package can hold it; what it loses is among the omissions."""
    return replace(run, precision="fp32" if run.precision == "fp32" else "bf16")


def _constants(plan: TrainingPlan, run: Run) -> str:
    """The plan's numbers, as the top of the module."""
    table = fields.MODEL + (fields.LATENT if run.model.attention == "mla" else fields.GROUPED)
    table += fields.EXPERTS if run.model.is_moe else ()
    table += fields.TRAINING + (fields.EMBEDDING if run.embedding_learning_rate is not None else ())
    # The plan's own fraction: the run has the rate, which the division brings back but for the last bit.
    values = written(table, run) | {"FINAL_LEARNING_RATE_FRACTION": plan.schedule.final_learning_rate_fraction}
    return "".join(f"{name} = {value!r}\n" for name, value in values.items())


def _adapter(model: Architecture) -> str | None:
    """torchtitan's own converter to Hugging Face weights, where the model is of its kind."""
    try:
        model_type = hf_config(model)["model_type"]
    except UserError:
        return None
    return {"deepseek_v3": "DeepSeekV3StateDictAdapter", "qwen3": "Qwen3StateDictAdapter",
            "qwen3_moe": "Qwen3StateDictAdapter"}.get(model_type)  # fmt: skip


def _refuse(run: Run) -> None:
    """Stop at the first thing that torchtitan's blocks cannot do."""
    model, layout = run.model, run.layout
    biases = ("attention_bias", "attention_output_bias", "dense_ffn_bias", "expert_bias", "router_bias")
    cases = [
        ("model.qk_norm", model.qk_norm == "full_width", "its norms of queries and keys are per head"),
        ("model.moe_output_norm", model.moe_output_norm, "its blocks have no norm after the experts"),
        ("model.attention_sinks", model.attention_sinks, "its attention has no sinks"),
        ("model.num_nextn_predict_layers", model.num_nextn_predict_layers > 0, "it has no multi-token prediction"),
        ("model.shared_expert_gate", model.shared_expert_gate, "its shared experts have no gate"),
        *((f"model.{key}", getattr(model, key), "its blocks have no such bias") for key in biases),
        ("batch_ramp 'of the plan'", run.batch_ramp is not None, "its batch is constant"),
    ]
    if layout is not None:
        tied = model.tied_embeddings and layout.pipeline > 1
        heads, ranks = model.num_key_value_heads, layout.gpus // layout.pipeline
        cases += [
            ("layout.expert_tensor", layout.expert_tensor > 1, "it splits experts whole"),
            ("model.tied_embeddings", tied, "it cannot tie across a pipeline"),
            ("layout.tensor", heads % layout.tensor > 0, f"it must divide num_key_value_heads {heads}"),
            ("layout.expert", ranks % layout.expert > 0, f"it must divide gpus / pipeline {ranks}"),
        ]
    refuse(run, "torchtitan 0.3", cases)
