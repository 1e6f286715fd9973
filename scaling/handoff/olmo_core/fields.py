"""Fields of OLMo-core's dictionaries, nested with dots, and the keys of the run behind them."""

from typing import Any

from scaling.cluster.run import Run
from scaling.handoff.fields import Field, Values, fixed, layout_of, written

CLASSES = {
    "model": "nn.transformer.config.TransformerConfig",
    "block": "nn.transformer.config.TransformerBlockConfig",
    "sequence_mixer": "nn.attention.AttentionConfig",
    "rope": "nn.rope.RoPEConfig",
    "layer_norm": "nn.layer_norm.LayerNormConfig",
    "qk_norm": "nn.layer_norm.LayerNormConfig",
    "feed_forward": "nn.feed_forward.FeedForwardConfig",
    "shared_mlp": "nn.feed_forward.FeedForwardConfig",
    "feed_forward_moe": "nn.moe.moe.MoEConfig",
    "router": "nn.moe.router.MoERouterConfig",
    "lm_head": "nn.lm_head.LMHeadConfig",
    "train_module": "train.train_module.transformer.config.TransformerTrainModuleConfig",
    "dp_config": "train.train_module.transformer.config.TransformerDataParallelConfig",
    "tp_config": "train.train_module.transformer.config.TransformerTensorParallelConfig",
    "cp_config": "train.train_module.transformer.config.TransformerContextParallelConfig",
    "pp_config": "train.train_module.transformer.config.TransformerPipelineParallelConfig",
    "ep_config": "train.train_module.transformer.config.TransformerExpertParallelConfig",
    "ac_config": "train.train_module.transformer.config.TransformerActivationCheckpointingConfig",
    "optim": "optim.adamw.AdamWConfig",
}
"""Last name of a place -> the class of olmo_core that stands there."""


def _qk_norm(file: Values, name: str, default: str) -> str:
    if file.get(name + "._CLASS_") is None:
        return default
    return "per_head" if file.get(name.replace("qk_norm", "use_head_qk_norm")) else "full_width"


def _shared_experts(run: Run) -> dict[str, Any] | None:
    width = run.model.num_shared_experts * run.model.shared_expert_ffn_size
    return {"hidden_size": width, "bias": run.model.dense_ffn_bias} if width else None


def _dense_blocks(run: Run) -> dict[int, Any] | None:
    """Layers of a model with experts that have none."""
    dense = [layer for layer in range(run.model.num_layers) if not run.model.is_moe_layer(layer)]
    return {layer: _block(run, DENSE) for layer in dense} or None if run.model.is_moe else None


def _block(run: Run, feed_forward: tuple[Field, ...]) -> dict[str, Any]:
    return nested(written((*BLOCK, *feed_forward), run))


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """A dictionary for each part of names with dots."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *places, last = name.split(".")
        inner = tree
        for place in places:
            inner = inner.setdefault(place, {})
        inner[last] = value
    return tree


NORM = (fixed("name", "rms"), Field("eps", "model.norm_eps", Values.number, 1e-5), fixed("bias", False))

BLOCK = (
    Field("sequence_mixer.n_heads", "model.num_attention_heads"),
    Field("sequence_mixer.n_kv_heads", "model.num_key_value_heads"),
    Field("sequence_mixer.head_dim", "model.head_dim"),
    Field("sequence_mixer.bias", "model.attention_bias", Values.yes),
    Field("sequence_mixer.rope.theta", "model.rope_theta", Values.number, 5e5, lambda run: int(run.model.rope_theta)),
    Field("sequence_mixer.qk_norm", "model.qk_norm", _qk_norm, "none",
          lambda run: None if run.model.qk_norm == "none" else written(NORM, run)),
    Field("sequence_mixer.use_head_qk_norm", write=lambda run: run.model.qk_norm == "per_head"),
    Field("sequence_mixer.attention_sinks", "model.attention_sinks", Values.yes),
    Field("layer_norm", write=lambda run: written(NORM, run)),
)  # fmt: skip

DENSE = (
    fixed("name", "default"),
    Field("feed_forward.hidden_size", "model.dense_ffn_size"),
    Field("feed_forward.bias", "model.dense_ffn_bias", Values.yes),
)

EXPERTS = (
    fixed("name", "moe"),
    fixed("feed_forward_moe.name", "dropless"),
    Field("feed_forward_moe.num_experts", "model.num_experts"),
    Field("feed_forward_moe.hidden_size", "model.expert_ffn_size"),
    Field("feed_forward_moe.router.top_k", "model.experts_per_token", default=1),
    Field("feed_forward_moe.router.gating_function", "model.router_score_function", Values.get, "softmax"),
    Field("feed_forward_moe.router.normalize_expert_weights", "model.router_normalize", Values.given,
          write=lambda run: 1.0 if run.model.router_normalize else None),
    Field("feed_forward_moe.router.bias_gamma", "model.router_selection_bias", Values.given,
          write=lambda run: 0.001 if run.model.router_selection_bias else None),  # arXiv 2412.19437, section 4.2
    fixed("feed_forward_moe.router.dtype", "float32"),
    Field("feed_forward_moe.shared_mlp", write=_shared_experts),
    Field("feed_forward_moe.lb_loss_weight", write=lambda run: None if run.model.router_selection_bias else 0.01),
)  # fmt: skip

MODEL = (
    Field("model.name", write=lambda run: "moe" if run.model.is_moe else "default"),
    Field("model.d_model", "model.hidden_size"),
    Field("model.vocab_size", "model.vocab_size"),
    Field("model.n_layers", "model.num_layers", Values.count),
    Field("model.block", write=lambda run: _block(run, EXPERTS if run.model.is_moe else DENSE)),
    Field("model.block_overrides", write=_dense_blocks),
    Field("model.lm_head.layer_norm", write=lambda run: written(NORM, run)),
    fixed("model.lm_head.bias", False),
    Field("model.tie_word_embeddings", "model.tied_embeddings", Values.yes),
    fixed("model.init_method", "normal"),
    Field("model.init_std", "init_std", Values.number, 0.02),
    fixed("model.dtype", "float32"),
)

TRAINING = (
    Field("train_module.rank_microbatch_size", write=lambda run: layout_of(run).micro_batch_size * run.sequence_length),
    Field("train_module.max_sequence_length", "sequence_length", Values.count),
    Field("train_module.optim.lr", "learning_rate", Values.number),
    Field("train_module.optim.betas", write=lambda run: [run.beta1, run.beta2]),
    Field("train_module.optim.eps", "epsilon", Values.number, 1e-8),
    Field("train_module.optim.weight_decay", "weight_decay", Values.number, 1e-2),
    Field("train_module.scheduler.warmup", "warmup_steps"),
    Field("train_module.max_grad_norm", "grad_clip", Values.number),
    Field("data_loader.global_batch_size", write=lambda run: run.batch_size * run.sequence_length),  # tokens
    Field("trainer.max_duration.value", "steps", Values.count),
    fixed("trainer.max_duration.unit", "steps"),
)

WSD = (
    Field("train_module.scheduler.decay", "decay_steps", Values.count),
    fixed("train_module.scheduler.decay_fraction", None),
    Field("train_module.scheduler.decay_min_lr", "min_learning_rate", Values.number, 0.0),
    fixed("train_module.scheduler._CLASS_", "olmo_core.optim.scheduler.WSD"),
)

COSINE = (
    Field("train_module.scheduler.alpha_f", write=lambda run: run.min_learning_rate / run.learning_rate),
    fixed("train_module.scheduler._CLASS_", "olmo_core.optim.scheduler.CosWithWarmup"),
)

# Left out where the degree is 1.
DEGREES = (
    Field("train_module.ep_config.degree", "layout.expert", Values.count, 1),
    Field("train_module.tp_config.degree", "layout.tensor", Values.count, 1),
    Field("train_module.cp_config.degree", "layout.context", Values.count, 1),
    Field("train_module.pp_config.degree", "layout.pipeline", Values.count, 1),
)
