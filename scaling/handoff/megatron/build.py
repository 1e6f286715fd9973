"""megatron-core's own classes: the run's model built without memory and its parameters counted.

No GPU and no Transformer Engine is needed: what stands in for them below (a stream, latent attention's
parameter-free core) holds no parameters. Works with megatron-core 0.16.
"""

import dataclasses
import json
import sys
from functools import cache
from typing import Any

from scaling.cluster.run import Run
from scaling.handoff.comparison import Proof, compared_steps
from scaling.handoff.megatron.fields import EXPERTS, GROUPED, LATENT, PARALLEL, WSD_SHAPES
from scaling.handoff.megatron.write import flags_of
from scaling.installation.extras import require, run_module

_NOT_ASKED = (
    "--multi-latent-attention", "--group-query-attention", "--moe-router-dtype", "--moe-grouped-gemm",
    "--moe-router-topk-scaling-factor", "--moe-router-bias-update-rate", "--moe-aux-loss-coeff",
)  # fmt: skip


def prove(run: Run) -> Proof:
    """What megatron-core makes of this run: its configs are built, the model is counted, the schedule is asked.

    Raises:
        NotInstalled: megatron-core is not here.
        UserError: its classes refuse the configuration.
    """
    require("megatron.core", "megatron")
    samples = run.batch_size
    request = {
        "config": config(run),
        "layout": layout_config(run),
        "vocab_size": run.model.vocab_size,
        "tied": run.model.tied_embeddings,
        "sequence_length": run.sequence_length,
        "latent": run.model.attention == "mla",
        "optimizer": {"optimizer": "adam", "lr": run.learning_rate, "min_lr": run.min_learning_rate,
                      "weight_decay": run.weight_decay, "adam_beta1": run.beta1, "adam_beta2": run.beta2,
                      "adam_eps": run.epsilon, "clip_grad": run.grad_clip, "bf16": run.precision != "fp32",
                      "use_distributed_optimizer": True},
        "schedule": {"init_lr": 0.0, "max_lr": run.learning_rate, "min_lr": run.min_learning_rate,
                     "lr_warmup_steps": run.warmup_steps * samples, "lr_decay_steps": run.steps * samples,
                     "lr_decay_style": "WSD" if run.schedule == "wsd" else "cosine",
                     "wsd_decay_steps": run.decay_steps * samples, "lr_wsd_decay_style": WSD_SHAPES[run.decay_shape],
                     "start_wd": run.weight_decay, "end_wd": run.weight_decay, "wd_incr_steps": run.steps * samples,
                     "wd_incr_style": "constant"},
        "samples": [step * samples for step in compared_steps(run)],
    }  # fmt: skip
    answer = _asked(json.dumps(request))
    return Proof(answer["parameters"], dict(zip(compared_steps(run), answer["rates"], strict=True)))


@cache
def _asked(request: str) -> dict[str, Any]:
    """The answer of a process that imports megatron-core; Megatron-LM's file and Megatron-Bridge's ask the same."""
    return json.loads(run_module("scaling.handoff.megatron.build", text=request))


def rate_at(run: Run, step: int) -> float:
    """The plan's rate for a step: Megatron-LM asks when the steps before it are done."""
    return run.learning_rate_after(step)


def layout_config(run: Run) -> dict[str, Any]:
    """Fields of ``TransformerConfig`` that say how the model is split."""
    if run.layout is None:
        return {}
    fields = _names_of_flags(flags_of(PARALLEL, run))
    if run.layout.pipeline == 1:
        fields.pop("pipeline_model_parallel_layout", None)
    if "recompute_modules" in fields:
        fields["recompute_modules"] = fields["recompute_modules"].split()
    return fields


def config(run: Run) -> dict[str, Any]:
    """Fields of ``TransformerConfig`` (``MLATransformerConfig`` for latent attention); plain values only."""
    model = run.model
    latent = model.attention == "mla"
    fields: dict[str, Any] = {
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "ffn_hidden_size": model.dense_ffn_size or model.expert_ffn_size,
        "normalization": "RMSNorm",
        "layernorm_epsilon": model.norm_eps,
        "gated_linear_unit": True,
        "add_bias_linear": False,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
    }
    fields |= _names_of_flags(flags_of((LATENT if latent else GROUPED) + (EXPERTS if model.is_moe else ()), run))
    if latent:
        fields.setdefault("q_lora_rank", None)  # its default is a rank
    if model.is_moe:
        fields["num_moe_experts"] = fields.pop("num_experts")
        fields["moe_layer_freq"] = [int(model.is_moe_layer(layer)) for layer in range(model.num_layers)]
    return fields


def _names_of_flags(flags: dict[str, Any]) -> dict[str, Any]:
    """What the fields of ``TransformerConfig`` call them, less those that change neither a count nor a check."""
    return {flag[2:].replace("-", "_"): value for flag, value in flags.items() if flag not in _NOT_ASKED}


def _prove_here(request: dict[str, Any]) -> dict[str, Any]:
    """Build configs and model in this process, which it leaves changed."""
    import torch
    import torch.distributed
    from megatron.core import parallel_state  # pyright: ignore[reportMissingImports]
    from megatron.core.distributed import DistributedDataParallelConfig  # pyright: ignore[reportMissingImports]
    from megatron.core.models.gpt import GPTModel  # pyright: ignore[reportMissingImports]
    from megatron.core.models.gpt.gpt_layer_specs import (  # pyright: ignore[reportMissingImports]
        get_gpt_decoder_block_spec,
    )
    from megatron.core.optimizer import OptimizerConfig  # pyright: ignore[reportMissingImports]
    from megatron.core.optimizer_param_scheduler import (  # pyright: ignore[reportMissingImports]
        OptimizerParamScheduler,
    )
    from megatron.core.transformer import (  # pyright: ignore[reportMissingImports]
        MLATransformerConfig,
        TransformerConfig,
        multi_latent_attention,
    )
    from megatron.core.transformer.dot_product_attention import (  # pyright: ignore[reportMissingImports]
        DotProductAttention,
    )

    plain_attention = DotProductAttention.__init__

    def without_widths(self: Any, *args: Any, k_channels: Any = None, v_channels: Any = None, **kwargs: Any) -> None:
        plain_attention(self, *args, **kwargs)

    DotProductAttention.__init__ = without_widths
    multi_latent_attention.HAVE_TE = False
    torch.cuda.Stream = lambda *args, **kwargs: None  # type: ignore[assignment,misc]
    torch.cuda.current_device = lambda: "cpu"  # type: ignore[assignment,return-value]
    store = torch.distributed.HashStore()  # pyright: ignore[reportPrivateImportUsage]
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    kind = MLATransformerConfig if request["latent"] else TransformerConfig
    known = {field.name for field in dataclasses.fields(kind)}
    unknown = sorted(set(request["config"]) - known)
    if unknown:
        raise SystemExit(f"this megatron-core has no {', '.join(unknown)}")
    common: dict[str, Any] = {
        **request["config"],
        "activation_func": torch.nn.functional.silu,
        "use_cpu_initialization": True,
        "perform_initialization": False,
        "bf16": True,
        "params_dtype": torch.bfloat16,
    }
    # The split as it will be, which only the configs can check here, and the whole model on one rank, to be counted.
    kind(**common, **request["layout"], pipeline_dtype=torch.bfloat16, moe_grouped_gemm="num_moe_experts" in common)
    OptimizerConfig(**request["optimizer"])
    DistributedDataParallelConfig(use_distributed_optimizer=True, overlap_grad_reduce=True, overlap_param_gather=True)
    setting = kind(**common)
    spec: Any = get_gpt_decoder_block_spec(setting, use_transformer_engine=False)
    with torch.device("meta"):
        model = GPTModel(
            config=setting,
            transformer_layer_spec=spec,
            vocab_size=request["vocab_size"],
            max_sequence_length=request["sequence_length"],
            position_embedding_type="rope",
            share_embeddings_and_output_weights=request["tied"],
        )
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = OptimizerParamScheduler(optimizer, **request["schedule"])  # pyright: ignore[reportArgumentType]
    rates = []
    for samples in request["samples"]:
        scheduler.num_steps = samples
        rates.append(float(scheduler.get_lr({})))
    return {"parameters": sum(parameter.numel() for parameter in model.parameters()), "rates": rates}


if __name__ == "__main__":
    print(json.dumps(_prove_here(json.load(sys.stdin))))
