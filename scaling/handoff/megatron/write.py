"""Megatron-LM: the MODEL_ARGS file of its own test suite, a map of flags where true is a bare flag."""

from dataclasses import replace
from typing import Any, Literal

import yaml

from fits.errors import UserError
from scaling.cluster.run import Run, run_of, shown_name
from scaling.handoff.comparison import shared_by_width
from scaling.handoff.megatron.patterns import layer_pattern, pipeline_layout
from scaling.handoff.tokenizer import tokenizer_files, tokenizer_omission
from scaling.plan import TrainingPlan
from trainer_small.architecture import Architecture

NAME = "megatron"
TARGET = "Megatron-LM d98e8a64dd (2026-08-22), flags also of megatron-core 0.16.1"
FILE = "model_config.yaml"

WSD_SHAPES: dict[Literal["sqrt", "linear"], str] = {"sqrt": "minus_sqrt", "linear": "linear"}

Flags = dict[str, Any]


def files(plan: TrainingPlan) -> dict[str, str]:
    """File name -> content.

    Raises:
        UserError: Megatron-LM cannot compute this model; names the key.
    """
    heading = [
        f"Training plan '{shown_name(plan)}' for {TARGET}.",
        f"Parameters: {plan.model.params_total:,} in all, {plan.model.params_active:,} active.",
        "Give every key of MODEL_ARGS to pretrain_gpt.py as a flag (true: bare; a value with blanks: several).",
        "Set ${DATA_PATH}, and ${TOKENIZER_MODEL} to the folder tokenizer beside this file.",
        *(f"Note: {text}" for text in omissions(plan)),
    ]
    lines = ["".join(f"# {line}\n" for line in heading), _dump({"ENV_VARS": environment(plan)}, 0), "MODEL_ARGS:\n"]
    for title, flags in sections(plan).items():
        lines.append(f"  # {title}\n{_dump(flags, 2)}")
    return {FILE: "".join(lines), **tokenizer_files(plan, "tokenizer/")}


def environment(plan: TrainingPlan) -> dict[str, Any]:
    """Variables of the job; GPUS says for how many the layout is meant."""
    fixed: dict[str, Any] = {"CUDA_DEVICE_MAX_CONNECTIONS": 1}
    return fixed | ({"GPUS": plan.layout.gpus} if plan.layout else {})


def sections(plan: TrainingPlan) -> dict[str, Flags]:
    """All flags, by the heading they stand under.

    Raises:
        UserError: Megatron-LM cannot compute this model; names the key.
    """
    run = run_of(plan)
    _refuse(plan.model)
    found = {
        "Model": _model(run),
        "Attention": _attention(run.model),
        "Experts": _experts(run.model),
        "Vocabulary and data": _data(plan),
        "Batch and length": _batch(run),
        "Optimizer": _optimizer(run),
        "Schedule, in samples": _schedule(run),
        "Precision": _precision(run),
        "Parallel layout": _parallel(run),
    }
    return {title: flags for title, flags in found.items() if flags}


def omissions(plan: TrainingPlan) -> list[str]:
    """What the plan says and these flags do not, or say otherwise."""
    model, found = plan.model, []
    if model.moe_output_norm:
        fewer = model.num_moe_layers * model.hidden_size
        found.append(
            f"moe_output_norm: needs a layer spec of your own; without it the model has {fewer:,} parameters fewer"
        )
    per_group = model.experts_per_token // model.expert_groups_per_token
    if model.num_expert_groups > 1 and per_group != 2:
        found.append(f"a group of experts is scored by its best {per_group} here, not its best 2")
    if model.is_moe and not model.router_selection_bias:
        found.append("balancing: the auxiliary loss has the coefficient 1e-2, which the plan does not give")
    if plan.optimizer.embedding_learning_rate is not None:
        found.append("embedding_learning_rate: --decoupled-lr would change the output head with it")
    if plan.layout is None:
        found.append("parallel layout: the plan has none; one GPU and a micro-batch of 1 stand here")
    found += tokenizer_omission(plan, "put tokenizer.json and its config into the folder tokenizer")
    found.append("initial weights: Megatron-LM divides --init-method-std by sqrt(2 layers) for output projections")
    return found


def expressed(run: Run) -> Run:
    """The run as these flags can hold it; what it loses is among the omissions."""
    model = shared_by_width(run.model).model_copy(update={"moe_output_norm": False})
    return replace(run, model=model, embedding_learning_rate=None)


def _model(run: Run) -> Flags:
    model = run.model
    return {
        "--transformer-impl": "transformer_engine",
        "--use-mcore-models": True,
        "--num-layers": model.num_layers,
        "--hidden-size": model.hidden_size,
        "--ffn-hidden-size": model.dense_ffn_size or model.expert_ffn_size,
        "--swiglu": True,
        "--disable-bias-linear": True,
        "--normalization": "RMSNorm",
        "--norm-epsilon": model.norm_eps,
        "--position-embedding-type": "rope",
        "--rotary-base": int(model.rope_theta),
        "--rotary-percent": 1.0,
        "--max-position-embeddings": run.sequence_length,
        "--attention-dropout": 0.0,
        "--hidden-dropout": 0.0,
        "--init-method-std": run.init_std,
    }


def _attention(model: Architecture) -> Flags:
    flags: Flags = {"--num-attention-heads": model.num_attention_heads}
    if model.attention == "mla":
        flags["--multi-latent-attention"] = True
        if model.q_lora_rank is not None:
            flags["--q-lora-rank"] = model.q_lora_rank
        return flags | {
            "--kv-lora-rank": model.kv_lora_rank,
            "--qk-head-dim": model.qk_nope_head_dim,
            "--qk-pos-emb-head-dim": model.qk_rope_head_dim,
            "--v-head-dim": model.v_head_dim,
            "--rope-type": "rope",  # its default for latent attention is yarn
            "--qk-layernorm": True,  # the norms of the latents
        }
    flags["--kv-channels"] = model.head_dim
    if model.num_key_value_heads != model.num_attention_heads:
        flags |= {"--group-query-attention": True, "--num-query-groups": model.num_key_value_heads}
    if model.qk_norm == "per_head":
        flags["--qk-layernorm"] = True
    if model.attention_bias:
        flags["--add-qkv-bias"] = True
    if model.attention_sinks:
        flags["--softmax-type"] = "learnable"
    return flags


def _experts(model: Architecture) -> Flags:
    if not model.is_moe:
        return {}
    flags: Flags = {
        "--num-experts": model.num_experts,
        "--moe-layer-freq": layer_pattern(model),
        "--moe-ffn-hidden-size": model.expert_ffn_size,
        "--moe-router-topk": model.experts_per_token,
        "--moe-router-score-function": model.router_score_function,
        "--moe-router-dtype": "fp32",
        "--moe-grouped-gemm": True,
        "--moe-token-dispatcher-type": "alltoall",
    }
    if not model.router_normalize and model.router_score_function == "softmax":
        flags["--moe-router-pre-softmax"] = True
    if model.router_scaling_factor != 1:
        flags["--moe-router-topk-scaling-factor"] = model.router_scaling_factor
    if model.num_expert_groups > 1:
        flags["--moe-router-num-groups"] = model.num_expert_groups
        flags["--moe-router-group-topk"] = model.expert_groups_per_token
    if model.num_shared_experts:
        # Megatron-LM takes the total width where Hugging Face takes a count.
        flags["--moe-shared-expert-intermediate-size"] = model.num_shared_experts * model.shared_expert_ffn_size
    if model.shared_expert_gate:
        flags["--moe-shared-expert-gate"] = True
    if model.router_selection_bias:
        return flags | {
            "--moe-router-load-balancing-type": "none",
            "--moe-router-enable-expert-bias": True,
            "--moe-router-bias-update-rate": 0.001,  # arXiv 2412.19437, section 4.2
        }
    return flags | {"--moe-router-load-balancing-type": "aux_loss", "--moe-aux-loss-coeff": 0.01}


def _data(plan: TrainingPlan) -> Flags:
    tensor = plan.layout.tensor if plan.layout else 1
    flags: Flags = {
        "--tokenizer-type": "HuggingFaceTokenizer",
        "--tokenizer-model": "${TOKENIZER_MODEL}",
        # Pads any smaller tokenizer to exactly the vocabulary of the plan.
        "--make-vocab-size-divisible-by": plan.model.vocab_size // tensor,
        "--data-path": "${DATA_PATH}",
        "--split": "99,1,0",
    }
    return flags if plan.model.tied_embeddings else flags | {"--untie-embeddings-and-output-weights": True}


def _batch(run: Run) -> Flags:
    flags: Flags = {
        "--seq-length": run.sequence_length,
        "--micro-batch-size": run.layout.micro_batch_size if run.layout else 1,
        "--global-batch-size": run.batch_size,
        "--train-samples": run.steps * run.batch_size,
    }
    if run.batch_ramp:
        ramp = run.batch_ramp
        flags["--rampup-batch-size"] = f"{ramp.start} {ramp.increment} {ramp.samples}"  # three values of one flag
    return flags


def _optimizer(run: Run) -> Flags:
    return {
        "--optimizer": "adam",
        "--adam-beta1": run.beta1,
        "--adam-beta2": run.beta2,
        "--adam-eps": run.epsilon,
        "--weight-decay": run.weight_decay,
        "--clip-grad": run.grad_clip,
        "--lr": run.learning_rate,
        "--min-lr": run.min_learning_rate,
        "--use-distributed-optimizer": True,
        "--overlap-grad-reduce": True,
        "--overlap-param-gather": True,
    }


def _schedule(run: Run) -> Flags:
    flags: Flags = {
        "--lr-decay-style": "WSD" if run.schedule == "wsd" else "cosine",
        "--lr-decay-samples": run.steps * run.batch_size,
        "--lr-warmup-samples": run.warmup_steps * run.batch_size,
    }
    if run.schedule == "wsd":
        flags["--lr-wsd-decay-style"] = WSD_SHAPES[run.decay_shape]
        flags["--lr-wsd-decay-samples"] = run.decay_steps * run.batch_size
    return flags


def _precision(run: Run) -> Flags:
    if run.precision == "fp32":
        return {}
    return {"--bf16": True} | ({"--fp8-format": "hybrid"} if run.precision == "fp8" else {})


def _parallel(run: Run) -> Flags:
    layout = run.layout
    if layout is None:
        return {}
    flags: Flags = {
        "--tensor-model-parallel-size": layout.tensor,
        "--pipeline-model-parallel-size": layout.pipeline,
        "--context-parallel-size": layout.context,
    }
    if run.model.is_moe:
        flags["--expert-model-parallel-size"] = layout.expert
        flags["--expert-tensor-parallel-size"] = layout.expert_tensor
    if layout.tensor > 1:
        flags["--sequence-parallel"] = True
    if len(run.stage_layers) > 1:
        # Also where layers divide evenly: the memory and time model may have given the last stage fewer, for the head.
        flags["--pipeline-model-parallel-layout"] = pipeline_layout(run.stage_layers)
    return flags | recomputation(run)


def recomputation(run: Run) -> Flags:
    """Flags of what the backward pass computes again; the plan's words are in ``Layout.recompute``."""
    kind = run.layout.recompute if run.layout else "none"
    if kind == "none":
        return {}
    if kind == "full":
        return {"--recompute-granularity": "full", "--recompute-method": "uniform", "--recompute-num-layers": 1}
    modules = ["layernorm"]
    modules += ["moe_act"] if run.model.is_moe else []
    modules += ["mla_up_proj"] if run.model.attention == "mla" else []
    return {"--recompute-granularity": "selective", "--recompute-modules": " ".join(modules)}


def _refuse(model: Architecture) -> None:
    """Stop at the first thing that the flags cannot say."""
    one = model.experts_per_token == 1
    softmax = model.router_score_function == "softmax"
    latent = model.attention == "mla"
    cases = [
        ("qk_norm", model.qk_norm == "full_width", "its norms of queries and keys are per head"),
        ("attention_bias", model.attention_bias and latent, "its latent projections have no bias"),
        ("attention_sinks", model.attention_sinks and latent, "its sinks are for plain attention"),
        ("attention_output_bias", model.attention_output_bias, "it has biases in all linear layers or none"),
        ("dense_ffn_bias", model.dense_ffn_bias, "it has biases in all linear layers or none"),
        ("num_nextn_predict_layers", model.num_nextn_predict_layers > 0, "its multi-token prediction is not written"),
        ("expert_bias", model.expert_bias, "it has biases in all linear layers or none"),
        ("router_bias", model.router_bias, "it has biases in all linear layers or none"),
        ("rope_theta", model.rope_theta % 1 != 0, "its rotary base is a whole number"),
        (
            "router_selection_bias",
            model.is_moe and model.router_selection_bias and softmax,
            "its expert bias needs the sigmoid score",
        ),
        (
            "router_normalize",
            model.is_moe and not softmax and model.router_normalize == one,
            "it normalises sigmoid scores when a token has several experts, and only then",
        ),
        (
            "router_normalize",
            model.is_moe and softmax and model.router_normalize and one,
            "it does not normalise the softmax of a single expert",
        ),
    ]
    for key, wrong, why in cases:
        if wrong:
            raise UserError(
                f"model.{key} {getattr(model, key)!r} cannot be given to Megatron-LM: {why}; change the plan."
            )


def _dump(value: dict[str, Any], indent: int) -> str:
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110)
    return "".join(" " * indent + line for line in text.splitlines(keepends=True))
