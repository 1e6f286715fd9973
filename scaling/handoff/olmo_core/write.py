"""OLMo-core: the model and the training module as dictionaries that its ``Config.from_dict`` takes."""

from dataclasses import replace
from typing import Any

import yaml

from fits.errors import UserError
from scaling.cluster.run import Run, run_of, shown_name
from scaling.handoff.comparison import shared_by_width
from scaling.handoff.tokenizer import tokenizer_files, tokenizer_omission
from scaling.plan import TrainingPlan
from trainer_small.architecture import Architecture

NAME = "olmo-core"
TARGET = "OLMo-core 3.0.0 (ai2-olmo-core)"
FILE = "olmo_core.yaml"

CLASSES = {
    "TransformerConfig": "nn.transformer.config",
    "TransformerBlockConfig": "nn.transformer.config",
    "AttentionConfig": "nn.attention",
    "RoPEConfig": "nn.rope",
    "LayerNormConfig": "nn.layer_norm",
    "FeedForwardConfig": "nn.feed_forward",
    "MoEConfig": "nn.moe.moe",
    "MoERouterConfig": "nn.moe.router",
    "LMHeadConfig": "nn.lm_head",
    "TransformerTrainModuleConfig": "train.train_module.transformer.config",
    "TransformerDataParallelConfig": "train.train_module.transformer.config",
    "TransformerTensorParallelConfig": "train.train_module.transformer.config",
    "TransformerContextParallelConfig": "train.train_module.transformer.config",
    "TransformerPipelineParallelConfig": "train.train_module.transformer.config",
    "TransformerExpertParallelConfig": "train.train_module.transformer.config",
    "TransformerActivationCheckpointingConfig": "train.train_module.transformer.config",
    "AdamWConfig": "optim.adamw",
    "WSD": "optim.scheduler",
    "CosWithWarmup": "optim.scheduler",
}
"""Class -> module of olmo_core that has it."""


def files(plan: TrainingPlan) -> dict[str, str]:
    """File name -> content.

    Raises:
        UserError: OLMo-core cannot compute this model or run this layout; names the key.
    """
    run = run_of(plan)
    _refuse(run)
    model = run.model
    heading = [
        f"Training plan '{shown_name(plan)}' for {TARGET}.",
        f"Parameters: {model.params_total:,} in all, {model.params_active:,} active.",
        "In your script: TransformerConfig.from_dict(content['model']) and",
        "TransformerTrainModuleConfig.from_dict(content['train_module']); data_loader and trainer hold their numbers.",
        *(f"GPUs: {run.layout.gpus}" for _ in [0] if run.layout),
        *(f"Note: {text}" for text in omissions(plan)),
    ]
    text = "".join(f"# {line}\n" for line in heading)
    text += yaml.dump(config(run), Dumper=_WithoutAliases, sort_keys=False, allow_unicode=True)
    return {FILE: text, **tokenizer_files(plan, "tokenizer/")}


class _WithoutAliases(yaml.SafeDumper):
    """Writes an object that stands in several places out in full."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def omissions(plan: TrainingPlan) -> list[str]:
    """What the plan says and these dictionaries do not, or say otherwise."""
    model, run, found = plan.model, run_of(plan), []
    if run.schedule == "wsd" and run.decay_shape == "sqrt":
        low, high = run.min_learning_rate, run.learning_rate
        middle = low + (high - low) * (1 - 0.5**0.5)
        found.append(
            f"schedule: OLMo-core decays in a straight line and the plan by 1 - sqrt; half-way down its rate is "
            f"{(low + high) / 2:.3g} instead of {middle:.3g} (schedule.decay_shape: linear plans what it does)"
        )
    if model.is_moe and model.num_shared_experts:
        k = model.experts_per_token
        found.append(
            f"shared experts: OLMo-core weighs them 1/{k + 1} and the routed ones {k}/{k + 1}; the plan adds both whole"
        )
    if model.is_moe and not model.router_selection_bias:
        found.append("balancing: the auxiliary loss has the coefficient 1e-2, which the plan does not give")
    if plan.optimizer.embedding_learning_rate is not None:
        found.append("embedding_learning_rate: its schedules have one floor for all groups of parameters")
    if plan.precision == "fp8":
        found.append("precision fp8: add a Float8Config; this runs in bf16")
    if plan.layout is None:
        found.append("parallel layout: the plan has none; every GPU shards the data here")
    return found + tokenizer_omission(plan, "give OLMo-core's TokenizerConfig your own")


def expressed(run: Run) -> Run:
    """The run as these dictionaries can hold it; what it loses is among the omissions."""
    shape = "linear" if run.schedule == "wsd" else "sqrt"
    precision = "fp32" if run.precision == "fp32" else "bf16"
    model = shared_by_width(run.model)
    return replace(run, model=model, decay_shape=shape, precision=precision, embedding_learning_rate=None)


def config(run: Run) -> dict[str, Any]:
    """``model``, ``train_module``, ``data_loader`` and ``trainer``."""
    return {
        "model": _model(run),
        "train_module": _train_module(run),
        "data_loader": {"global_batch_size": run.batch_size * run.sequence_length},  # tokens
        "trainer": {"max_duration": {"value": run.steps, "unit": "steps"}},
    }


def _of(kind: str, /, **fields: Any) -> dict[str, Any]:
    return {**fields, "_CLASS_": f"olmo_core.{CLASSES[kind]}.{kind}"}


def _model(run: Run) -> dict[str, Any]:
    model = run.model
    norm = _norm(model)
    dense = _of("FeedForwardConfig", hidden_size=model.dense_ffn_size, bias=model.dense_ffn_bias)
    plain = _block(model, {"name": "default", "feed_forward": dense})
    usual, others = plain, {}
    if model.is_moe:
        usual = _block(model, {"name": "moe", "feed_forward_moe": _experts(model)})
        others = {layer: plain for layer in range(model.num_layers) if not model.is_moe_layer(layer)}
    return _of(
        "TransformerConfig",
        name="moe" if model.is_moe else "default",
        d_model=model.hidden_size,
        vocab_size=model.vocab_size,
        n_layers=model.num_layers,
        block=usual,
        block_overrides=others or None,
        lm_head=_of("LMHeadConfig", layer_norm=norm, bias=False),
        tie_word_embeddings=model.tied_embeddings,
        init_method="normal",
        init_std=run.init_std,
        dtype="float32",
    )


def _norm(model: Architecture) -> dict[str, Any]:
    return _of("LayerNormConfig", name="rms", eps=model.norm_eps, bias=False)


def _block(model: Architecture, feed_forward: dict[str, Any]) -> dict[str, Any]:
    mixer = _of(
        "AttentionConfig",
        n_heads=model.num_attention_heads,
        n_kv_heads=model.num_key_value_heads,
        head_dim=model.head_dim,
        bias=model.attention_bias,
        rope=_of("RoPEConfig", theta=int(model.rope_theta)),
        qk_norm=None if model.qk_norm == "none" else _norm(model),
        use_head_qk_norm=model.qk_norm == "per_head",
        attention_sinks=model.attention_sinks,
    )
    return _of("TransformerBlockConfig", sequence_mixer=mixer, layer_norm=_norm(model), **feed_forward)


def _experts(model: Architecture) -> dict[str, Any]:
    width = model.num_shared_experts * model.shared_expert_ffn_size
    router = _of(
        "MoERouterConfig",
        top_k=model.experts_per_token,
        gating_function=model.router_score_function,
        normalize_expert_weights=1.0 if model.router_normalize else None,
        bias_gamma=0.001 if model.router_selection_bias else None,  # arXiv 2412.19437, section 4.2
        dtype="float32",
    )
    return _of(
        "MoEConfig",
        name="dropless",
        num_experts=model.num_experts,
        hidden_size=model.expert_ffn_size,
        router=router,
        shared_mlp=_of("FeedForwardConfig", hidden_size=width, bias=model.dense_ffn_bias) if width else None,
        lb_loss_weight=None if model.router_selection_bias else 0.01,
    )


def _train_module(run: Run) -> dict[str, Any]:
    micro = run.layout.micro_batch_size if run.layout else 1
    if run.schedule == "wsd":
        shape = {"decay": run.decay_steps, "decay_fraction": None, "decay_min_lr": run.min_learning_rate}
        schedule = _of("WSD", warmup=run.warmup_steps, **shape)
    else:
        fraction = run.min_learning_rate / run.learning_rate
        schedule = _of("CosWithWarmup", warmup=run.warmup_steps, alpha_f=fraction)
    optimizer = _of(
        "AdamWConfig",
        lr=run.learning_rate,
        betas=[run.beta1, run.beta2],
        eps=run.epsilon,
        weight_decay=run.weight_decay,
    )
    return _of(
        "TransformerTrainModuleConfig",
        rank_microbatch_size=micro * run.sequence_length,  # tokens
        max_sequence_length=run.sequence_length,
        optim=optimizer,
        scheduler=schedule,
        max_grad_norm=run.grad_clip,
        **_parallel(run),
    )


def _parallel(run: Run) -> dict[str, Any]:
    precision = {"param_dtype": "float32" if run.precision == "fp32" else "bfloat16", "reduce_dtype": "float32"}
    layout = run.layout
    if layout is None:
        return {"dp_config": _of("TransformerDataParallelConfig", name="fsdp", **precision)}
    kind: dict[str, Any] = {"name": "fsdp"}
    if layout.expert > 1:  # its experts are split over the ranks that share the weights
        replicas = layout.gpus // (layout.pipeline * layout.context * layout.expert)
        kind = {"name": "hsdp", "shard_degree": layout.expert, "num_replicas": replicas}
    found = {"dp_config": _of("TransformerDataParallelConfig", **kind, **precision)}
    if layout.expert > 1:
        found["ep_config"] = _of("TransformerExpertParallelConfig", degree=layout.expert)
    if layout.tensor > 1:
        found["tp_config"] = _of("TransformerTensorParallelConfig", degree=layout.tensor)
    if layout.context > 1:
        ring = {"load_balancer": "zig_zag", "head_stride": 1}
        found["cp_config"] = _of("TransformerContextParallelConfig", degree=layout.context, ring=ring)
    if layout.pipeline > 1:
        ends = [sum(run.stage_layers[: chunk + 1]) for chunk in range(len(run.stage_layers) - 1)]
        found["pp_config"] = _of(
            "TransformerPipelineParallelConfig",
            degree=layout.pipeline,
            schedule="Interleaved1F1B" if layout.virtual_pipeline > 1 else "1F1B",
            split_points=ends,  # the first layer of each further chunk
        )
    if layout.recompute == "full":
        found["ac_config"] = _of("TransformerActivationCheckpointingConfig", mode="full")
    return found


def _refuse(run: Run) -> None:
    """Stop at the first thing that OLMo-core's classes cannot say."""
    model, layout = run.model, run.layout
    biased = model.attention_bias != model.attention_output_bias
    shared_bias = model.is_moe and model.expert_bias
    cases: list[tuple[str, Any, bool, str]] = [
        ("model.attention", model.attention, model.attention == "mla", "it has no latent attention"),
        ("model.attention_bias", model.attention_bias, biased, "its attention has all biases or none"),
        ("model.expert_bias", True, shared_bias, "its experts have no bias"),
        ("model.router_bias", True, model.router_bias, "its router has no bias"),
        ("model.shared_expert_gate", True, model.shared_expert_gate, "its shared experts have no gate"),
        ("model.moe_output_norm", True, model.moe_output_norm, "its blocks have no norm after the experts"),
        (
            "model.num_nextn_predict_layers",
            model.num_nextn_predict_layers,
            model.num_nextn_predict_layers > 0,
            "it predicts one token",
        ),
        ("model.rope_theta", model.rope_theta, model.rope_theta % 1 != 0, "its rotary base is a whole number"),
        (
            "model.num_expert_groups",
            model.num_expert_groups,
            model.is_moe and model.num_expert_groups > 1,
            "its router has no groups",
        ),
        (
            "model.router_scaling_factor",
            model.router_scaling_factor,
            model.is_moe and model.router_scaling_factor != 1,
            "its router does not scale",
        ),
        ("batch_ramp", "of the plan", run.batch_ramp is not None, "its batch scheduler scales the rate too"),
        (
            "schedule.final_learning_rate_fraction",
            1,
            run.min_learning_rate >= run.learning_rate,
            "it decays below the peak",
        ),
    ]
    if layout is not None:
        both = layout.tensor > 1 and layout.expert > 1
        tied = model.tied_embeddings and layout.pipeline > 1
        ranks = layout.gpus // (layout.pipeline * layout.context * layout.tensor)
        cases += [
            ("layout.expert", layout.expert, both, "expert and tensor parallelism exclude each other there"),
            ("layout.expert", layout.expert, ranks % layout.expert > 0, f"it must divide the {ranks} data ranks"),
            ("layout.expert_tensor", layout.expert_tensor, layout.expert_tensor > 1, "it splits experts whole"),
            ("layout.recompute", layout.recompute, layout.recompute == "selective", "choose none or full"),
            ("model.tied_embeddings", True, tied, "it cannot tie across a pipeline"),
        ]
    for key, value, wrong, why in cases:
        if wrong:
            raise UserError(f"{key} {value!r} cannot be given to OLMo-core 3.0: {why}; change the plan.")
