"""Megatron-LM's flags and the keys of the run behind them; a flag without a value (null, false) is left out."""

from typing import Any

from fits.errors import UserError
from scaling.cluster.run import Ramp, Run
from scaling.handoff.fields import Field, Values, fixed, layout_of
from scaling.handoff.megatron.patterns import layer_pattern, pipeline_layout

WSD_SHAPES = {"sqrt": "minus_sqrt", "linear": "linear"}


def _ffn_size(flags: Values, name: str, default: None) -> int:
    """Left out, it is two thirds of four times the width, in steps of 64."""
    return flags.whole("--ffn-hidden-size", int(flags.whole("--hidden-size") * 4 * 2 / 3 / 64) * 64)


def _expert_size(flags: Values, name: str, default: None) -> int:
    return flags.whole(name, _ffn_size(flags, name, default))


def _rank(flags: Values, name: str, default: None) -> int | None:
    return flags.whole(name) if flags.given(name) else default


def _groups(flags: Values, name: str, default: int) -> int:
    return flags.whole(name, default) if flags.get("--group-query-attention") else flags.whole("--num-attention-heads")


def _grouped(run: Run) -> bool:
    return run.model.num_key_value_heads != run.model.num_attention_heads


def _pre_softmax(run: Run) -> bool:
    return not run.model.router_normalize and run.model.router_score_function == "softmax"


def _normalizes(flags: Values, name: str, default: None) -> bool:
    if flags.get("--moe-router-score-function", "softmax") == "sigmoid":
        return flags.whole("--moe-router-topk", 2) > 1
    return not flags.get(name)


def _vocab_size(flags: Values, name: str, default: int) -> int:
    """What any tokenizer up to that size is padded to, or --vocab-size padded, unless the padded size is given."""
    if flags.get("--padded-vocab-size") is not None:
        return flags.count("--padded-vocab-size")
    multiple = flags.count(name, default) * flags.count("--tensor-model-parallel-size", 1)
    return -(-flags.whole("--vocab-size", 1) // multiple) * multiple


def _ramp(flags: Values, name: str, default: None) -> Ramp | None:
    """START INCREMENT SAMPLES, as text or as a list."""
    value = flags.get(name)
    if value is None:
        return None
    parts = value if isinstance(value, list) else str(value).strip("[]").replace(",", " ").split()
    try:
        start, increment, samples = (int(part) for part in parts)
    except (TypeError, ValueError):
        raise UserError(
            f"{flags.path}: flag '{name}' is {value!r}: must be three whole numbers: first batch, increment, samples."
        ) from None
    return Ramp(start=start, increment=increment, samples=samples)


def _ramp_text(run: Run) -> str | None:
    ramp = run.batch_ramp
    return f"{ramp.start} {ramp.increment} {ramp.samples}" if ramp else None


def _is_wsd(flags: Values) -> bool:
    return flags.get("--lr-decay-style", "linear") == "WSD"


def _decay_shape(flags: Values, name: str, default: str) -> str:
    written = flags.get(name, default)
    for shape, word in WSD_SHAPES.items():
        if written == word or not _is_wsd(flags):
            return shape
    raise UserError(
        f"{flags.path}: flag '{name}' is {written!r}, which no plan has; use one of {', '.join(WSD_SHAPES.values())}."
    )


def _precision(flags: Values, name: str, default: None) -> str:
    return "fp8" if flags.get(name) else "bf16" if flags.get("--bf16") else "fp32"


def _stages(run: Run) -> str | None:
    # Also where layers divide evenly: the memory and time model may have given the last stage fewer, for the head.
    return pipeline_layout(run.stage_layers) if len(run.stage_layers) > 1 else None


def _recompute(flags: Values, name: str, default: str) -> str:
    kind = flags.get(name, default)
    if kind not in ("none", "selective", "full"):
        raise UserError(f"{flags.path}: flag '{name}' is {kind!r}: must be selective or full.")
    return kind


def _recomputed(run: Run) -> str | None:
    """Flags of what the backward pass computes again; the plan's words are in ``Layout.recompute``."""
    modules = ["layernorm", *["moe_act"] * run.model.is_moe, *["mla_up_proj"] * (run.model.attention == "mla")]
    return " ".join(modules) if layout_of(run).recompute == "selective" else None


def _full(run: Run, value: Any) -> Any:
    return value if layout_of(run).recompute == "full" else None


MODEL = (
    fixed("--transformer-impl", "transformer_engine"),
    fixed("--use-mcore-models", True),
    Field("--num-layers", "model.num_layers"),
    Field("--hidden-size", "model.hidden_size"),
    Field("--ffn-hidden-size", "model.dense_ffn_size", _ffn_size,
          write=lambda run: run.model.dense_ffn_size or run.model.expert_ffn_size),
    fixed("--swiglu", True),
    fixed("--disable-bias-linear", True),
    fixed("--normalization", "RMSNorm"),
    Field("--norm-epsilon", "model.norm_eps", Values.number, 1e-5),
    fixed("--position-embedding-type", "rope"),
    Field("--rotary-base", "model.rope_theta", Values.number, 10000, lambda run: int(run.model.rope_theta)),
    fixed("--rotary-percent", 1.0),
    Field("--max-position-embeddings", write=lambda run: run.sequence_length),
    fixed("--attention-dropout", 0.0),
    fixed("--hidden-dropout", 0.0),
    Field("--init-method-std", "init_std", Values.number, 0.02),
)  # fmt: skip

HEADS = (Field("--num-attention-heads", "model.num_attention_heads"),)

LATENT = (
    *HEADS,
    fixed("--multi-latent-attention", True),
    Field(
        "--q-lora-rank", "model.q_lora_rank", lambda flags, name, _: flags.whole(name) if flags.given(name) else None
    ),
    Field("--kv-lora-rank", "model.kv_lora_rank", default=512),
    Field("--qk-head-dim", "model.qk_nope_head_dim", default=128),
    Field("--qk-pos-emb-head-dim", "model.qk_rope_head_dim", default=64),
    Field("--v-head-dim", "model.v_head_dim", default=128),
    fixed("--rope-type", "rope"),  # its default for latent attention is yarn
    fixed("--qk-layernorm", True),  # the norms of the latents
)

GROUPED = (
    *HEADS,
    Field("--kv-channels", "model.head_dim", default=0),
    Field("--group-query-attention", write=_grouped),
    Field("--num-query-groups", "model.num_key_value_heads", _groups, 1,
          lambda run: run.model.num_key_value_heads if _grouped(run) else None),
    Field("--qk-layernorm", "model.qk_norm", lambda flags, name, _: "per_head" if flags.get(name) else "none",
          write=lambda run: run.model.qk_norm == "per_head"),
    Field("--add-qkv-bias", "model.attention_bias", Values.yes),
    Field("--softmax-type", "model.attention_sinks", lambda flags, name, _: flags.get(name) == "learnable",
          write=lambda run: "learnable" if run.model.attention_sinks else None),
)  # fmt: skip

EXPERTS = (
    Field("--num-experts", "model.num_experts"),
    Field("--moe-layer-freq", write=lambda run: layer_pattern(run.model)),
    Field("--moe-ffn-hidden-size", "model.expert_ffn_size", _expert_size),
    Field("--moe-router-topk", "model.experts_per_token", default=2),
    Field("--moe-router-score-function", "model.router_score_function", Values.get, "softmax"),
    fixed("--moe-router-dtype", "fp32"),
    fixed("--moe-grouped-gemm", True),
    fixed("--moe-token-dispatcher-type", "alltoall"),
    Field("--moe-router-pre-softmax", "model.router_normalize", _normalizes, write=_pre_softmax),
    Field("--moe-router-topk-scaling-factor", "model.router_scaling_factor", Values.number, 1.0,
          lambda run: run.model.router_scaling_factor if run.model.router_scaling_factor != 1 else None),
    Field("--moe-router-num-groups", "model.num_expert_groups", default=1,
          write=lambda run: run.model.num_expert_groups if run.model.num_expert_groups > 1 else None),
    Field("--moe-router-group-topk", "model.expert_groups_per_token", default=1,
          write=lambda run: run.model.expert_groups_per_token if run.model.num_expert_groups > 1 else None),
    # Megatron-LM takes the total width where Hugging Face takes a count.
    Field("--moe-shared-expert-intermediate-size",
          write=lambda run: run.model.num_shared_experts * run.model.shared_expert_ffn_size or None),
    Field("--moe-shared-expert-gate", "model.shared_expert_gate", Values.yes),
    Field("--moe-router-load-balancing-type",
          write=lambda run: "none" if run.model.router_selection_bias else "aux_loss"),
    Field("--moe-router-enable-expert-bias", "model.router_selection_bias", Values.yes),
    Field("--moe-router-bias-update-rate",
          write=lambda run: 0.001 if run.model.router_selection_bias else None),  # arXiv 2412.19437, section 4.2
    Field("--moe-aux-loss-coeff", write=lambda run: None if run.model.router_selection_bias else 0.01),
)  # fmt: skip

DATA = (
    fixed("--tokenizer-type", "HuggingFaceTokenizer"),
    fixed("--tokenizer-model", "${TOKENIZER_MODEL}"),
    # Pads any smaller tokenizer to exactly the vocabulary of the plan.
    Field("--make-vocab-size-divisible-by", "model.vocab_size", _vocab_size, 128,
          lambda run: run.model.vocab_size // layout_of(run).tensor),
    fixed("--data-path", "${DATA_PATH}"),
    fixed("--split", "99,1,0"),
    Field("--untie-embeddings-and-output-weights", "model.tied_embeddings",
          lambda flags, name, _: not flags.get(name), write=lambda run: not run.model.tied_embeddings),
)  # fmt: skip

BATCH = (
    Field("--seq-length", "sequence_length"),
    Field("--micro-batch-size", "layout.micro_batch_size", Values.count),
    Field("--global-batch-size", "batch_size", Values.count),
    Field("--train-samples", write=lambda run: run.steps * run.batch_size),
    Field("--rampup-batch-size", "batch_ramp", _ramp, write=_ramp_text),
)

OPTIMIZER = (
    fixed("--optimizer", "adam"),
    Field("--adam-beta1", "beta1", Values.number, 0.9),
    Field("--adam-beta2", "beta2", Values.number, 0.999),
    Field("--adam-eps", "epsilon", Values.number, 1e-8),
    Field("--weight-decay", "weight_decay", Values.number, 0.01),
    Field("--clip-grad", "grad_clip", Values.number, 1.0),
    Field("--lr", "learning_rate", Values.number),
    Field("--min-lr", "min_learning_rate", Values.number, 0.0),
    fixed("--use-distributed-optimizer", True),
    fixed("--overlap-grad-reduce", True),
    fixed("--overlap-param-gather", True),
)

SCHEDULE = (
    Field("--lr-decay-style", "schedule", lambda flags, name, _: "wsd" if _is_wsd(flags) else "cosine",
          write=lambda run: "WSD" if run.schedule == "wsd" else "cosine"),
    Field("--lr-decay-samples", write=lambda run: run.steps * run.batch_size),
    Field("--lr-warmup-samples", write=lambda run: run.warmup_steps * run.batch_size),
    Field("--lr-wsd-decay-style", "decay_shape", _decay_shape, "exponential",
          lambda run: WSD_SHAPES[run.decay_shape] if run.schedule == "wsd" else None),
    Field("--lr-wsd-decay-samples",
          write=lambda run: run.decay_steps * run.batch_size if run.schedule == "wsd" else None),
)  # fmt: skip

PRECISION = (
    Field("--bf16", write=lambda run: run.precision != "fp32"),
    Field("--fp8-format", "precision", _precision, write=lambda run: "hybrid" if run.precision == "fp8" else None),
)

TRAINING = BATCH + OPTIMIZER + SCHEDULE + PRECISION

PARALLEL = (
    Field("--tensor-model-parallel-size", "layout.tensor", Values.count, 1),
    Field("--pipeline-model-parallel-size", "layout.pipeline", Values.count, 1),
    Field("--context-parallel-size", "layout.context", Values.count, 1),
    Field("--expert-model-parallel-size", "layout.expert", Values.count, 1,
          lambda run: layout_of(run).expert if run.model.is_moe else None),
    Field("--expert-tensor-parallel-size", "layout.expert_tensor", Values.count, 1,
          lambda run: layout_of(run).expert_tensor if run.model.is_moe else None),
    Field("--sequence-parallel", write=lambda run: layout_of(run).tensor > 1),
    Field("--pipeline-model-parallel-layout", write=_stages),
    Field("--recompute-granularity", "layout.recompute", _recompute, "none",
          lambda run: None if layout_of(run).recompute == "none" else layout_of(run).recompute),
    Field("--recompute-method", write=lambda run: _full(run, "uniform")),
    Field("--recompute-num-layers", write=lambda run: _full(run, 1)),
    Field("--recompute-modules", write=_recomputed),
)  # fmt: skip
