"""Megatron-Bridge: the YAML that overrides a recipe, made of the Megatron-LM flags under the names of its fields."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from fits.errors import UserError
from fits.files import read_text
from scaling.cluster.run import Run, run_of
from scaling.handoff.fields import heading
from scaling.handoff.megatron import write as megatron
from scaling.handoff.tokenizer import tokenizer_files
from scaling.plan import TrainingPlan
from trainer_small.architecture import Architecture

expressed = megatron.expressed
NAME = "megatron-bridge"
TARGET = "Megatron-Bridge 0.3.1 (megatron-core 0.16)"
FILE = "megatron_bridge.yaml"

RENAMED = {
    "--num-experts": "model.num_moe_experts",
    "--norm-epsilon": "model.layernorm_epsilon",
    "--swiglu": "model.gated_linear_unit",
    "--disable-bias-linear": "model.add_bias_linear",
    "--untie-embeddings-and-output-weights": "model.share_embeddings_and_output_weights",
    "--use-distributed-optimizer": "ddp.use_distributed_optimizer",
    "--overlap-param-gather": "ddp.overlap_param_gather",
    "--context-parallel-size": "model.context_parallel_size",
    "--padded-vocab-size": "model.vocab_size",
    "--train-iters": "train.train_iters",
}
"""Flags whose field has another name, or stands in several sections; all others are found by their own."""
NEGATED = ("--disable-bias-linear", "--untie-embeddings-and-output-weights")
_ELSEWHERE = (
    "--use-mcore-models", "--transformer-impl", "--group-query-attention", "--max-position-embeddings", "--data-path",
    "--make-vocab-size-divisible-by", "--bf16", "--fp8-format",
)  # fmt: skip
"""Flags without a field: always so there, or said in another way below."""
PRECISIONS = {"bf16": "bf16_mixed", "fp8": "bf16_with_fp8_delayed_scaling_mixed", "fp32": None}
_SECTIONS = ("model", "train", "scheduler", "optimizer", "ddp", "dataset", "tokenizer")

# A recipe sets these; an override that left them out would keep the recipe's.
_UNSET: dict[str, Any] = {
    "model.mtp_num_layers": None,
    "model.num_moe_experts": None,
    "model.moe_layer_freq": 1,
    "model.moe_shared_expert_intermediate_size": None,
    "model.moe_shared_expert_gate": False,
    "model.moe_router_num_groups": None,
    "model.moe_router_group_topk": None,
    "model.moe_router_topk_scaling_factor": None,
    "model.moe_router_pre_softmax": False,
    "model.moe_router_enable_expert_bias": False,
    "model.qk_layernorm": False,
    "model.add_qkv_bias": False,
    "model.softmax_type": "vanilla",
    "model.share_embeddings_and_output_weights": True,
    "model.should_pad_vocab": False,
    "model.sequence_parallel": False,
    "model.expert_model_parallel_size": 1,
    "model.expert_tensor_parallel_size": None,
    "model.pipeline_model_parallel_layout": None,
    "model.virtual_pipeline_model_parallel_size": None,
    "model.account_for_embedding_in_pipeline_split": False,
    "model.account_for_loss_in_pipeline_split": False,
    "model.num_layers_in_first_pipeline_stage": None,
    "model.num_layers_in_last_pipeline_stage": None,
    "model.recompute_granularity": None,
    "model.recompute_method": None,
    "model.recompute_num_layers": None,
    "model.recompute_modules": None,
    "train.train_samples": None,
    "train.rampup_batch_size": None,
    "scheduler.lr_decay_samples": None,
    "scheduler.lr_warmup_samples": 0,
    "scheduler.lr_warmup_fraction": None,
    "scheduler.lr_wsd_decay_iters": None,
    "scheduler.lr_wsd_decay_samples": None,
}


def files(plan: TrainingPlan) -> dict[str, str]:
    """File name -> content.

    Raises:
        UserError: Megatron-Bridge cannot compute this model or run this schedule; names the key.
    """
    content = overrides(plan)
    gpus = f" --nproc-per-node and --nnodes for {plan.layout.gpus} GPUs" if plan.layout else ""
    use = [
        f"Overrides for the recipe {recipe(plan.model)}; give torchrun{gpus or ' its GPUs'}.",
        "Set dataset.blend to your data, and put tokenizer.json and its config into ./tokenizer.",
    ]
    text = heading(plan, TARGET, use, omissions(plan))
    text += yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
    return {FILE: text, **tokenizer_files(plan, "tokenizer/")}


def recipe(model: Architecture) -> str:
    """The recipe of Megatron-Bridge whose model class is of this kind; the file overrides its sizes."""
    if model.attention == "mla":
        return "deepseek_v3_pretrain_config"
    return "qwen3_30b_a3b_pretrain_config" if model.is_moe else "qwen3_8b_pretrain_config"


def overrides(plan: TrainingPlan) -> dict[str, Any]:
    """Section -> field -> value.

    Raises:
        UserError: Megatron-Bridge cannot compute this model or run this schedule; names the key.
    """
    run = run_of(plan)
    if run.batch_ramp:
        raise UserError(
            "batch_ramp cannot be given to Megatron-Bridge: with a ramp it counts the schedule in iterations, and the "
            "plan counts it in tokens; drop the ramp."
        )
    flags = {name: value for section in megatron.sections(plan).values() for name, value in section.items()}
    _in_iterations(flags, run)
    values = dict(_UNSET)
    for flag, value in flags.items():
        if flag not in _ELSEWHERE:
            values[field_of(flag)] = (not value) if flag in NEGATED else value
    values |= {
        "model.num_query_groups": run.model.num_key_value_heads,
        "model.vocab_size": run.model.vocab_size,
        "optimizer.use_distributed_optimizer": True,
        "dataset.sequence_length": run.sequence_length,
        "tokenizer.tokenizer_model": "./tokenizer",
    }
    if run.model.attention == "mla":
        del values["model.num_query_groups"]
        values.setdefault("model.q_lora_rank", None)
    if run.model.is_moe:
        values["model.moe_layer_freq"] = [int(run.model.is_moe_layer(layer)) for layer in range(run.model.num_layers)]
    if isinstance(values["model.recompute_modules"], str):
        values["model.recompute_modules"] = values["model.recompute_modules"].split()
    content: dict[str, Any] = {section: {} for section in _SECTIONS}
    for name, value in values.items():
        section, _, field = name.partition(".")
        content[section][field] = value
    return content | {"mixed_precision": PRECISIONS[run.precision]}


def _in_iterations(flags: dict[str, Any], run: Run) -> None:
    """Recipes count in iterations; samples beside them are refused."""
    for flag in [name for name in flags if name.endswith("-samples")]:
        flags[flag.removesuffix("samples") + "iters"] = flags.pop(flag) // run.batch_size


def omissions(plan: TrainingPlan) -> list[str]:
    """What the plan says and these overrides do not, or say otherwise."""
    found = [note for note in megatron.omissions(plan) if "--decoupled-lr" not in note]
    if plan.optimizer.embedding_learning_rate is not None:
        found.append("embedding_learning_rate: needs an optimizer_config_override_provider of your own")
    found.append("activation: the recipe's, which is SiLU; a function has no place in YAML")
    found.append("checkpoint, logger and data files: the plan does not say, the recipe's stay")
    return found


@cache
def known_fields() -> frozenset[str]:
    """Every ``section.field`` of this version."""
    lines = read_text(Path(__file__).with_name("fields.txt")).splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))


@cache
def field_of(flag: str) -> str:
    """The field that a flag of Megatron-LM is: ``--num-layers`` is ``model.num_layers``."""
    if flag in RENAMED:
        return RENAMED[flag]
    name = flag.removeprefix("--").replace("-", "_")
    return next(f"{section}.{name}" for section in _SECTIONS if f"{section}.{name}" in known_fields())
