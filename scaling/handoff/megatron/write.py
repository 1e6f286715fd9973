"""Megatron-LM: the MODEL_ARGS file of its own test suite, a map of flags where true is a bare flag."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import yaml

from scaling.cluster.run import Run, run_of
from scaling.handoff.comparison import shared_by_width
from scaling.handoff.fields import Field, heading, refuse, written
from scaling.handoff.megatron import fields
from scaling.handoff.tokenizer import tokenizer_files, tokenizer_omission
from scaling.plan import TrainingPlan

NAME = "megatron"
TARGET = "Megatron-LM d98e8a64dd (2026-08-22), flags also of megatron-core 0.16.1"
FILE = "model_config.yaml"

Flags = dict[str, Any]


def files(plan: TrainingPlan) -> dict[str, str]:
    """File name -> content.

    Raises:
        UserError: Megatron-LM cannot compute this model; names the key.
    """
    use = [
        "Give every key of MODEL_ARGS to pretrain_gpt.py as a flag (true: bare; a value with blanks: several).",
        "Set ${DATA_PATH}, and ${TOKENIZER_MODEL} to the folder tokenizer beside this file.",
    ]
    lines = [heading(plan, TARGET, use, omissions(plan)), _dump({"ENV_VARS": environment(plan)}, 0), "MODEL_ARGS:\n"]
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
    _refuse(run)
    tables = {
        "Model": fields.MODEL,
        "Attention": fields.LATENT if run.model.attention == "mla" else fields.GROUPED,
        "Experts": fields.EXPERTS if run.model.is_moe else (),
        "Vocabulary and data": fields.DATA,
        "Batch and length": fields.BATCH,
        "Optimizer": fields.OPTIMIZER,
        "Schedule, in samples": fields.SCHEDULE,
        "Precision": fields.PRECISION,
        "Parallel layout": fields.PARALLEL if run.layout else (),
    }
    found = {title: flags_of(table, run) for title, table in tables.items()}
    return {title: flags for title, flags in found.items() if flags}


def flags_of(table: Iterable[Field], run: Run) -> Flags:
    """Flag -> value."""
    return {name: value for name, value in written(table, run).items() if value is not None and value is not False}


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


def _refuse(run: Run) -> None:
    """Stop at the first thing that the flags cannot say."""
    model = run.model
    one = model.experts_per_token == 1
    softmax = model.router_score_function == "softmax"
    latent = model.attention == "mla"
    all_or_none = "it has biases in all linear layers or none"
    cases = [
        ("qk_norm", model.qk_norm == "full_width", "its norms of queries and keys are per head"),
        ("attention_bias", model.attention_bias and latent, "its latent projections have no bias"),
        ("attention_sinks", model.attention_sinks and latent, "its sinks are for plain attention"),
        ("attention_output_bias", model.attention_output_bias, all_or_none),
        ("dense_ffn_bias", model.dense_ffn_bias, all_or_none),
        ("num_nextn_predict_layers", model.num_nextn_predict_layers > 0, "its multi-token prediction is not written"),
        ("expert_bias", model.expert_bias, all_or_none),
        ("router_bias", model.router_bias, all_or_none),
        ("rope_theta", model.rope_theta % 1 != 0, "its rotary base is a whole number"),
        ("router_selection_bias", model.is_moe and model.router_selection_bias and softmax,
         "its expert bias needs the sigmoid score"),
        ("router_normalize", model.is_moe and not softmax and model.router_normalize == one,
         "it normalises sigmoid scores when a token has several experts, and only then"),
        ("router_normalize", model.is_moe and softmax and model.router_normalize and one,
         "it does not normalise the softmax of a single expert"),
    ]  # fmt: skip
    refuse(run, "Megatron-LM", [(f"model.{key}", wrong, why) for key, wrong, why in cases])


def _dump(value: dict[str, Any], indent: int) -> str:
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110)
    return "".join(" " * indent + line for line in text.splitlines(keepends=True))
