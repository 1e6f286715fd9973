"""OLMo-core: the model and the training module as dictionaries that its ``Config.from_dict`` takes."""

from dataclasses import replace
from itertools import accumulate
from typing import Any

import yaml

from scaling.cluster.run import Run, run_of
from scaling.handoff.comparison import shared_by_width
from scaling.handoff.fields import heading, layout_of, refuse, written
from scaling.handoff.olmo_core.fields import CLASSES, COSINE, DEGREES, MODEL, TRAINING, WSD, nested
from scaling.handoff.tokenizer import tokenizer_files, tokenizer_omission
from scaling.plan import TrainingPlan

NAME = "olmo-core"
TARGET = "OLMo-core 3.0.0 (ai2-olmo-core)"
FILE = "olmo_core.yaml"


def files(plan: TrainingPlan) -> dict[str, str]:
    """File name -> content.

    Raises:
        UserError: OLMo-core cannot compute this model or run this layout; names the key.
    """
    run = run_of(plan)
    _refuse(run)
    use = [
        "In your script: TransformerConfig.from_dict(content['model']) and",
        "TransformerTrainModuleConfig.from_dict(content['train_module']); data_loader and trainer hold their numbers.",
        *(f"GPUs: {run.layout.gpus}" for _ in [0] if run.layout),
    ]
    text = heading(plan, TARGET, use, omissions(plan))
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
    fields = (*MODEL, *TRAINING, *(WSD if run.schedule == "wsd" else COSINE))
    return _with_classes(nested(written(fields, run) | _parallel(run)), "")


def _with_classes(tree: dict[str, Any], place: str) -> dict[str, Any]:
    found = {name: _with_classes(inner, "block" if type(name) is int else name) if isinstance(inner, dict) else inner
             for name, inner in tree.items()}  # fmt: skip
    return found | ({"_CLASS_": f"olmo_core.{CLASSES[place]}"} if place in CLASSES else {})


def _parallel(run: Run) -> dict[str, Any]:
    layout = layout_of(run)
    degrees = {name: degree for name, degree in written(DEGREES, run).items() if degree > 1}
    data: dict[str, Any] = {"name": "fsdp"}
    if layout.expert > 1:  # its experts are split over the ranks that share the weights
        replicas = layout.gpus // (layout.pipeline * layout.context * layout.expert)
        data = {"name": "hsdp", "shard_degree": layout.expert, "num_replicas": replicas}
    data |= {"param_dtype": "float32" if run.precision == "fp32" else "bfloat16", "reduce_dtype": "float32"}
    found = {"train_module.dp_config": data, **degrees}
    if layout.context > 1:
        found["train_module.cp_config.ring"] = {"load_balancer": "zig_zag", "head_stride": 1}
    if layout.pipeline > 1:
        found["train_module.pp_config.schedule"] = "Interleaved1F1B" if layout.virtual_pipeline > 1 else "1F1B"
        # The first layer of each further chunk.
        found["train_module.pp_config.split_points"] = list(accumulate(run.stage_layers))[:-1]
    if layout.recompute == "full":
        found["train_module.ac_config.mode"] = "full"
    return found


def _refuse(run: Run) -> None:
    """Stop at the first thing that OLMo-core's classes cannot say."""
    model, layout = run.model, run.layout
    moe = model.is_moe
    cases = [
        ("model.attention", model.attention == "mla", "it has no latent attention"),
        ("model.attention_bias", model.attention_bias != model.attention_output_bias,
         "its attention has all biases or none"),
        ("model.expert_bias", moe and model.expert_bias, "its experts have no bias"),
        ("model.router_bias", model.router_bias, "its router has no bias"),
        ("model.shared_expert_gate", model.shared_expert_gate, "its shared experts have no gate"),
        ("model.moe_output_norm", model.moe_output_norm, "its blocks have no norm after the experts"),
        ("model.num_nextn_predict_layers", model.num_nextn_predict_layers > 0, "it predicts one token"),
        ("model.rope_theta", model.rope_theta % 1 != 0, "its rotary base is a whole number"),
        ("model.num_expert_groups", moe and model.num_expert_groups > 1, "its router has no groups"),
        ("model.router_scaling_factor", moe and model.router_scaling_factor != 1, "its router does not scale"),
        ("batch_ramp 'of the plan'", run.batch_ramp is not None, "its batch scheduler scales the rate too"),
        ("schedule.final_learning_rate_fraction 1", run.min_learning_rate >= run.learning_rate,
         "it decays below the peak"),
    ]  # fmt: skip
    if layout is not None:
        both = layout.tensor > 1 and layout.expert > 1
        tied = model.tied_embeddings and layout.pipeline > 1
        ranks = layout.gpus // (layout.pipeline * layout.context * layout.tensor)
        cases += [
            ("layout.expert", both, "expert and tensor parallelism exclude each other there"),
            ("layout.expert", ranks % layout.expert > 0, f"it must divide the {ranks} data ranks"),
            ("layout.expert_tensor", layout.expert_tensor > 1, "it splits experts whole"),
            ("layout.recompute", layout.recompute == "selective", "choose none or full"),
            ("model.tied_embeddings", tied, "it cannot tie across a pipeline"),
        ]
    refuse(run, "OLMo-core 3.0", cases)
