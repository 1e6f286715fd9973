"""torchtitan: a Python package whose config_registry has one function that returns the whole configuration."""

from dataclasses import replace

from fits.errors import UserError
from scaling.cluster.run import Run, run_of, shown_name
from scaling.handoff.tokenizer import tokenizer_files, tokenizer_omission
from scaling.handoff.torchtitan import source
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
    model, layout = run.model, run.layout
    values: dict[str, object] = {
        "VOCAB_SIZE": model.vocab_size,
        "HIDDEN_SIZE": model.hidden_size,
        "NUM_LAYERS": model.num_layers,
        "NUM_HEADS": model.num_attention_heads,
        "TIED_EMBEDDINGS": model.tied_embeddings,
        "NORM_EPS": model.norm_eps,
        "ROPE_THETA": model.rope_theta,
        "INIT_STD": run.init_std,
        "DENSE_FFN_SIZE": model.dense_ffn_size,
    }
    if model.attention == "mla":
        for key in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"):
            values[key.upper()] = getattr(model, key)
        values["Q_LORA_RANK"] = model.q_lora_rank or 0  # 0: queries are projected directly
    else:
        values |= {
            "NUM_KEY_VALUE_HEADS": model.num_key_value_heads,
            "HEAD_DIM": model.head_dim,
            "QK_NORM": model.qk_norm,
        }
    if model.is_moe:
        dense = [layer for layer in range(model.num_layers) if not model.is_moe_layer(layer)]
        groups = model.num_expert_groups if model.num_expert_groups > 1 else None
        values |= {
            "DENSE_LAYERS": dense,
            "NUM_EXPERTS": model.num_experts,
            "EXPERTS_PER_TOKEN": model.experts_per_token,
            "EXPERT_FFN_SIZE": model.expert_ffn_size,
            "NUM_SHARED_EXPERTS": model.num_shared_experts,
            "SHARED_EXPERT_FFN_SIZE": model.shared_expert_ffn_size,
            "ROUTER_SCORE": model.router_score_function,
            "ROUTER_NORMALIZE": model.router_normalize,
            "ROUTER_SCALE": model.router_scaling_factor,
            "EXPERT_GROUPS": groups,
            "EXPERT_GROUPS_PER_TOKEN": model.expert_groups_per_token if groups else None,
            "SELECTION_BIAS_RATE": 0.001 if model.router_selection_bias else None,
        }
    micro = layout.micro_batch_size if layout else 1
    replicas = layout.gpus // (layout.tensor * layout.pipeline * layout.context) if layout else 1
    values |= {
        "DATASET": "c4",
        "TOKENIZER": "./tokenizer",
        "SEQUENCE_LENGTH": run.sequence_length,
        "BATCH_SIZE": run.batch_size,
        "MICRO_BATCH_SIZE": micro,
        # A pipeline splits its whole share of the batch; without one, gradients accumulate over micro-batches.
        "LOCAL_BATCH_SIZE": run.batch_size // replicas if layout and layout.pipeline > 1 else micro,
        "STEPS": run.steps,
        "WARMUP_STEPS": run.warmup_steps,
        "DECAY_STEPS": run.decay_steps,
        "DECAY_TYPE": run.decay_shape if run.schedule == "wsd" else "cosine",
        "LEARNING_RATE": run.learning_rate,
        "FINAL_LEARNING_RATE_FRACTION": plan.schedule.final_learning_rate_fraction,
        "BETAS": (run.beta1, run.beta2),
        "EPSILON": run.epsilon,
        "WEIGHT_DECAY": run.weight_decay,
        "GRAD_CLIP": run.grad_clip,
        "PARAMETER_DTYPE": "float32" if run.precision == "fp32" else "bfloat16",
        "TENSOR": layout.tensor if layout else 1,
        "PIPELINE": layout.pipeline if layout else 1,
        "STAGE_LAYERS": list(run.stage_layers),  # layers of each pipeline chunk
        "CONTEXT": layout.context if layout else 1,
        "EXPERT": layout.expert if layout else 1,
        "RECOMPUTE": layout.recompute if layout else "none",
        "DISABLE_CUDA_GRAPHS": True,  # torchtitan captures neither a pipeline nor experts that wait for the CPU
    }
    if plan.optimizer.embedding_learning_rate is not None:
        values["EMBEDDING_LEARNING_RATE"] = plan.optimizer.embedding_learning_rate
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
    no_bias = "its blocks have no such bias"
    cases = [
        ("model.qk_norm", model.qk_norm, model.qk_norm == "full_width", "its norms of queries and keys are per head"),
        ("model.moe_output_norm", True, model.moe_output_norm, "its blocks have no norm after the experts"),
        ("model.attention_sinks", True, model.attention_sinks, "its attention has no sinks"),
        (
            "model.num_nextn_predict_layers",
            model.num_nextn_predict_layers,
            model.num_nextn_predict_layers > 0,
            "it has no multi-token prediction",
        ),
        ("model.shared_expert_gate", True, model.shared_expert_gate, "its shared experts have no gate"),
        *(
            (f"model.{key}", True, getattr(model, key), no_bias)
            for key in ("attention_bias", "attention_output_bias", "dense_ffn_bias", "expert_bias", "router_bias")
        ),
    ]
    cases.append(("batch_ramp", "of the plan", run.batch_ramp is not None, "its batch is constant"))
    if layout is not None:
        tied = model.tied_embeddings and layout.pipeline > 1
        heads = model.num_key_value_heads
        shared_ranks = layout.gpus // layout.pipeline
        cases += [
            ("layout.expert_tensor", layout.expert_tensor, layout.expert_tensor > 1, "it splits experts whole"),
            ("model.tied_embeddings", True, tied, "it cannot tie across a pipeline"),
            ("layout.tensor", layout.tensor, heads % layout.tensor > 0, f"it must divide num_key_value_heads {heads}"),
            (
                "layout.expert",
                layout.expert,
                shared_ranks % layout.expert > 0,
                f"it must divide gpus / pipeline {shared_ranks}",
            ),
        ]
    for key, value, wrong, why in cases:
        if wrong:
            raise UserError(f"{key} {value!r} cannot be given to torchtitan 0.3: {why}; change the plan.")
