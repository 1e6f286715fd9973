"""Constants of the torchtitan package's module, in their order, and the keys of the run behind them."""

from scaling.cluster.run import Run
from scaling.handoff.fields import Field, Values, fixed, layout_of


def _groups(run: Run, count: int) -> int | None:
    return count if run.model.num_expert_groups > 1 else None


def _local_batch(run: Run) -> int:
    """A pipeline splits its whole share of the batch; without one, gradients accumulate over micro-batches."""
    layout = layout_of(run)
    replicas = layout.gpus // (layout.tensor * layout.pipeline * layout.context)
    return run.batch_size // replicas if layout.pipeline > 1 else layout.micro_batch_size


def _rank(constants: Values, name: str, default: None) -> int | None:
    return constants.whole(name) or default


MODEL = (
    Field("VOCAB_SIZE", "model.vocab_size"),
    Field("HIDDEN_SIZE", "model.hidden_size"),
    Field("NUM_LAYERS", "model.num_layers"),
    Field("NUM_HEADS", "model.num_attention_heads"),
    Field("TIED_EMBEDDINGS", "model.tied_embeddings", Values.yes),
    Field("NORM_EPS", "model.norm_eps", Values.number),
    Field("ROPE_THETA", "model.rope_theta", Values.number),
    Field("INIT_STD", "init_std", Values.number),
    Field("DENSE_FFN_SIZE", "model.dense_ffn_size"),
)

LATENT = (
    Field("KV_LORA_RANK", "model.kv_lora_rank"),
    Field("QK_NOPE_HEAD_DIM", "model.qk_nope_head_dim"),
    Field("QK_ROPE_HEAD_DIM", "model.qk_rope_head_dim"),
    Field("V_HEAD_DIM", "model.v_head_dim"),
    # 0: queries are projected directly.
    Field("Q_LORA_RANK", "model.q_lora_rank", _rank, write=lambda run: run.model.q_lora_rank or 0),
)

GROUPED = (
    Field("NUM_KEY_VALUE_HEADS", "model.num_key_value_heads"),
    Field("HEAD_DIM", "model.head_dim"),
    Field("QK_NORM", "model.qk_norm", Values.get),
)

EXPERTS = (
    Field("DENSE_LAYERS", write=lambda run: [n for n in range(run.model.num_layers) if not run.model.is_moe_layer(n)]),
    Field("NUM_EXPERTS", "model.num_experts"),
    Field("EXPERTS_PER_TOKEN", "model.experts_per_token"),
    Field("EXPERT_FFN_SIZE", "model.expert_ffn_size"),
    Field("NUM_SHARED_EXPERTS", "model.num_shared_experts"),
    Field("SHARED_EXPERT_FFN_SIZE", "model.shared_expert_ffn_size"),
    Field("ROUTER_SCORE", "model.router_score_function", Values.get),
    Field("ROUTER_NORMALIZE", "model.router_normalize", Values.yes),
    Field("ROUTER_SCALE", "model.router_scaling_factor", Values.number),
    Field("EXPERT_GROUPS", "model.num_expert_groups", default=1,
          write=lambda run: _groups(run, run.model.num_expert_groups)),
    Field("EXPERT_GROUPS_PER_TOKEN", "model.expert_groups_per_token", default=1,
          write=lambda run: _groups(run, run.model.expert_groups_per_token)),
    Field("SELECTION_BIAS_RATE", "model.router_selection_bias", Values.given,
          write=lambda run: 0.001 if run.model.router_selection_bias else None),
)  # fmt: skip

TRAINING = (
    fixed("DATASET", "c4"),
    fixed("TOKENIZER", "./tokenizer"),
    Field("SEQUENCE_LENGTH", "sequence_length", Values.count),
    Field("BATCH_SIZE", "batch_size", Values.count),
    Field("MICRO_BATCH_SIZE", "layout.micro_batch_size", Values.count),
    Field("LOCAL_BATCH_SIZE", write=_local_batch),
    Field("STEPS", "steps", Values.count),
    Field("WARMUP_STEPS", "warmup_steps"),
    Field("DECAY_STEPS", "decay_steps"),
    Field("DECAY_TYPE", write=lambda run: run.decay_shape if run.schedule == "wsd" else "cosine"),
    Field("LEARNING_RATE", "learning_rate", Values.number),
    Field("FINAL_LEARNING_RATE_FRACTION", write=lambda run: run.min_learning_rate / run.learning_rate),
    Field("BETAS", write=lambda run: (run.beta1, run.beta2)),
    Field("EPSILON", "epsilon", Values.number),
    Field("WEIGHT_DECAY", "weight_decay", Values.number),
    Field("GRAD_CLIP", "grad_clip", Values.number),
    Field("PARAMETER_DTYPE", write=lambda run: "float32" if run.precision == "fp32" else "bfloat16"),
    Field("TENSOR", "layout.tensor", Values.count),
    Field("PIPELINE", "layout.pipeline", Values.count),
    Field("STAGE_LAYERS", write=lambda run: list(run.stage_layers)),  # layers of each pipeline chunk
    Field("CONTEXT", "layout.context", Values.count),
    Field("EXPERT", "layout.expert", Values.count),
    Field("RECOMPUTE", "layout.recompute", Values.get, "none"),
    fixed("DISABLE_CUDA_GRAPHS", True),  # torchtitan captures neither a pipeline nor experts that wait for the CPU
)

EMBEDDING = (Field("EMBEDDING_LEARNING_RATE", "embedding_learning_rate", Values.number),)
