"""megatron-core's own classes: the run's model built without memory and its parameters counted.

No GPU and no Transformer Engine is needed: what stands in for them below (a stream, latent attention's
parameter-free core) holds no parameters. Works with megatron-core 0.16.
"""

import dataclasses
import json
import sys
from typing import Any

from scaling.extras import require, run_module
from scaling.stacks.run import Run


def count(run: Run) -> int:
    """Trainable parameters of the model that megatron-core builds for this run.

    Raises:
        NotInstalled: megatron-core is not here.
        UserError: its classes refuse the configuration.
    """
    require("megatron.core", "megatron")
    request = {"config": config(run), "vocab_size": run.model.vocab_size, "tied": run.model.tied_embeddings}
    request |= {"sequence_length": run.sequence_length, "latent": run.model.attention == "mla"}
    return int(run_module("scaling.stacks.megatron_core", text=json.dumps(request)))


def config(run: Run) -> dict[str, Any]:
    """Fields of ``TransformerConfig`` (``MLATransformerConfig`` for latent attention); plain values only."""
    model = run.model
    fields: dict[str, Any] = {
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "num_attention_heads": model.num_attention_heads,
        "ffn_hidden_size": model.dense_ffn_size or model.expert_ffn_size,
        "normalization": "RMSNorm",
        "layernorm_epsilon": model.norm_eps,
        "gated_linear_unit": True,
        "add_bias_linear": False,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
    }
    if model.attention == "mla":
        fields |= {
            "q_lora_rank": model.q_lora_rank,
            "kv_lora_rank": model.kv_lora_rank,
            "qk_head_dim": model.qk_nope_head_dim,
            "qk_pos_emb_head_dim": model.qk_rope_head_dim,
            "v_head_dim": model.v_head_dim,
            "rope_type": "rope",
            "qk_layernorm": True,
        }
    else:
        fields |= {
            "num_query_groups": model.num_key_value_heads,
            "kv_channels": model.head_dim,
            "qk_layernorm": model.qk_norm == "per_head",
            "add_qkv_bias": model.attention_bias,
        }
        if model.attention_sinks:
            fields["softmax_type"] = "learnable"
    if model.is_moe:
        grouped = model.num_expert_groups > 1
        fields |= {
            "num_moe_experts": model.num_experts,
            "moe_layer_freq": [int(model.is_moe_layer(layer)) for layer in range(model.num_layers)],
            "moe_ffn_hidden_size": model.expert_ffn_size,
            "moe_router_topk": model.experts_per_token,
            "moe_router_score_function": model.router_score_function,
            "moe_router_pre_softmax": not model.router_normalize and model.router_score_function == "softmax",
            "moe_router_enable_expert_bias": model.router_selection_bias,
            "moe_router_load_balancing_type": "none" if model.router_selection_bias else "aux_loss",
            "moe_router_num_groups": model.num_expert_groups if grouped else None,
            "moe_router_group_topk": model.expert_groups_per_token if grouped else None,
            "moe_shared_expert_intermediate_size": model.num_shared_experts * model.shared_expert_ffn_size or None,
            "moe_token_dispatcher_type": "alltoall",
        }
        if model.shared_expert_gate:
            fields["moe_shared_expert_gate"] = True
    return fields


def _count_here(request: dict[str, Any]) -> int:
    """Build the model in this process, which it leaves changed."""
    import torch
    import torch.distributed
    from megatron.core import parallel_state  # pyright: ignore[reportMissingImports]
    from megatron.core.models.gpt import GPTModel  # pyright: ignore[reportMissingImports]
    from megatron.core.models.gpt.gpt_layer_specs import (  # pyright: ignore[reportMissingImports]
        get_gpt_decoder_block_spec,
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
    setting = kind(
        **request["config"],
        activation_func=torch.nn.functional.silu,
        use_cpu_initialization=True,
        perform_initialization=False,
        bf16=True,
        params_dtype=torch.bfloat16,
    )
    with torch.device("meta"):
        model = GPTModel(
            config=setting,
            transformer_layer_spec=get_gpt_decoder_block_spec(setting, use_transformer_engine=False),
            vocab_size=request["vocab_size"],
            max_sequence_length=request["sequence_length"],
            position_embedding_type="rope",
            share_embeddings_and_output_weights=request["tied"],
        )
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    print(_count_here(json.load(sys.stdin)))
