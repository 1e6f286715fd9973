"""The exported class computes what the small runs computed: same weights in, same logits out."""

from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings

from scaling.hf.write import hf_config
from tests.scaling.hf.hf_strategies import architectures
from trainer_small.architecture import Architecture
from trainer_small.supported import why_not_trainable

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def hugging_face_weights(model: Any) -> dict[str, Any]:
    """The trainer's weights under the names of transformers."""
    architecture: Architecture = model.architecture
    weights = {"model.embed_tokens.weight": model.embedding.weight, "model.norm.weight": model.norm.weight}
    weights["lm_head.weight"] = model.head
    for index, block in enumerate(model.blocks):
        layer = f"model.layers.{index}"
        weights[f"{layer}.input_layernorm.weight"] = block.attention_norm.weight
        weights[f"{layer}.post_attention_layernorm.weight"] = block.ffn_norm.weight
        latent = architecture.attention == "mla"
        attention = _latent(block.attention) if latent else _grouped(block.attention, architecture)
        weights |= {f"{layer}.self_attn.{name}": value for name, value in attention.items()}
        ffn = _experts(block.ffn, architecture) if block.is_moe else _feed_forward(block.ffn)
        weights |= {f"{layer}.mlp.{name}": value for name, value in ffn.items()}
    return weights


def _grouped(attention: Any, architecture: Architecture) -> dict[str, Any]:
    heads, groups, size = attention.heads, attention.kv_heads, attention.head_dim
    rows = [heads * size, groups * size, groups * size]
    found = _parts({"o_proj": attention.o_proj})
    for kind in ("weight", "bias"):
        joined = getattr(attention.qkv_proj, kind)
        if joined is not None:
            found |= {f"{name}_proj.{kind}": part for name, part in zip("qkv", joined.split(rows), strict=True)}
    if architecture.qk_norm != "none":
        found |= {"q_norm.weight": attention.q_norm.weight, "k_norm.weight": attention.k_norm.weight}
    return found


def _latent(attention: Any) -> dict[str, Any]:
    names = {"q_proj": "q_proj", "q_a_proj": "q_a_proj", "q_a_norm": "q_a_layernorm", "q_b_proj": "q_b_proj"}
    names |= {"kv_a_proj": "kv_a_proj_with_mqa", "kv_a_norm": "kv_a_layernorm", "kv_b_proj": "kv_b_proj"}
    names["o_proj"] = "o_proj"
    return _parts({theirs: getattr(attention, ours) for ours, theirs in names.items() if hasattr(attention, ours)})


def _parts(modules: dict[str, Any]) -> dict[str, Any]:
    """Weights, and biases where there are any."""
    parts = {f"{name}.{kind}": getattr(module, kind, None) for name, module in modules.items() for kind in _KINDS}
    return {name: part for name, part in parts.items() if part is not None}


_KINDS = ("weight", "bias")


def _feed_forward(ffn: Any) -> dict[str, Any]:
    found = _parts({"down_proj": ffn.down_proj})
    for kind in _KINDS:
        if getattr(ffn.gate_up_proj, kind) is not None:
            found[f"gate_proj.{kind}"], found[f"up_proj.{kind}"] = getattr(ffn.gate_up_proj, kind).chunk(2)
    return found


def _experts(moe: Any, architecture: Architecture) -> dict[str, Any]:
    found = {"gate.weight": moe.router.weight, "experts.gate_up_proj": moe.gate_up_proj}
    found["experts.down_proj"] = moe.down_proj
    if moe.router.selection_bias is not None:
        found["gate.e_score_correction_bias"] = moe.router.selection_bias
    if moe.shared_experts is not None:
        name = "shared_expert" if architecture.shared_expert_gate else "shared_experts"
        found |= {f"{name}.{key}": value for key, value in _feed_forward(moe.shared_experts).items()}
    if moe.shared_gate is not None:
        found["shared_expert_gate.weight"] = moe.shared_gate.weight
    if moe.output_norm is not None:
        found["post_mlp_layernorm.weight"] = moe.output_norm.weight
    return found


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(architectures())
def test_the_exported_class_computes_the_proxys_logits(architecture: Architecture) -> None:
    from trainer_small.model.model import Model

    assume(why_not_trainable(architecture) is None)
    # transformers fixes the epsilon of the latent norms, and interleaves rotary pairs unless told otherwise.
    architecture = architecture.model_copy(update={"norm_eps": 1e-6})
    config = {**hf_config(architecture, dtype="float32"), "rope_interleave": False}
    config["experts_implementation"] = "eager"
    assume(config["model_type"] != "deepseek_v2")  # its rotary pairs are always interleaved
    torch.manual_seed(0)
    ours = Model(architecture).double().eval()
    for tensor in [*ours.parameters(), *(router.selection_bias for router in ours.routers())]:
        if tensor is not None:
            torch.nn.init.normal_(tensor, std=0.5)
    ours = ours.float()
    settings_of = transformers.AutoConfig.for_model(config.pop("model_type"), **config)
    theirs = transformers.AutoModelForCausalLM.from_config(settings_of, attn_implementation="eager").eval()
    missing, unexpected = theirs.load_state_dict(hugging_face_weights(ours), strict=False)
    assert not unexpected
    assert all("shared_experts" in name for name in missing)  # of width 0 where the plan has none
    tokens = torch.randint(architecture.vocab_size, (2, 9))
    with torch.no_grad():
        expected, found = ours.logits(tokens), theirs(tokens).logits
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)
