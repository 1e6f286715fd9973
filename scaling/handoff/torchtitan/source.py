"""The Python text of the torchtitan package: builders that turn the constants above them into a configuration."""

from trainer_small.architecture import Architecture

_BLOCK = {"mla": "DeepSeekV3TransformerBlock", "gqa": "Qwen3TransformerBlock"}
_MODEL = {"mla": "DeepSeekV3Model", "gqa": "Qwen3Model"}
_PARALLELIZE = {"mla": "parallelize_deepseekv3", "gqa": "parallelize_qwen3"}
_FAMILY = {"mla": "deepseek_v3", "gqa": "qwen3"}


def imports(model: Architecture, *, adapter: str | None) -> str:
    """Import lines of the module."""
    family = f"torchtitan.models.{_FAMILY[model.attention]}"
    builders = ["get_attention_config", "make_ffn_config"]
    if model.is_moe:
        builders += ["make_moe_config", "make_routed_experts_config", "make_router_config"]
    if model.attention == "gqa":
        builders.append("make_gqa_config")
        attention = "from torchtitan.models.common import CosSinRoPE, Embedding, Linear, RMSNorm\n"
    else:
        attention = "from torchtitan.models.common import ComplexRoPE, Embedding, Linear, RMSNorm\n"
    own = [_BLOCK[model.attention], _MODEL[model.attention]]
    lines = [
        "from functools import partial\n\nfrom torch import nn\n\n",
        "from torchtitan.components.loss import ChunkedLossWrapper, CrossEntropyLoss\n",
        "from torchtitan.components.optimizer import (\n    LRSchedulersContainer,\n    OptimizersContainer,\n"
        "    ParamGroupConfig,\n    register_moe_load_balancing_hook,\n)\n",
        "from torchtitan.config import ParallelismConfig, TrainingConfig\n",
        "from torchtitan.distributed.activation_checkpoint import FullAC, SelectiveAC\n",
        "from torchtitan.distributed.pipeline_parallel import pipeline_llm\n",
        "from torchtitan.hf_datasets.text_datasets import HuggingFaceTextDataLoader\n",
        attention,
        "from torchtitan.models.common.config_utils import (\n"
        + "".join(f"    {name},\n" for name in sorted(builders))
        + ")\n",
        "from torchtitan.models.common.param_init import skip_param_init\n",
        f"from {family} import make_mla_attention_config\n" if model.attention == "mla" else "",
        f"from {family}.model import {', '.join(own)}\n",
        f"from {family}.parallelize import {_PARALLELIZE[model.attention]}\n",
        f"from {family}.state_dict_adapter import {adapter}\n" if adapter else "",
        "from torchtitan.protocols.model_spec import ModelSpec\n",
        "from torchtitan.trainer import Trainer\n",
    ]
    return "".join(lines)


def builders(model: Architecture, *, adapter: str | None) -> str:
    """Functions that build the model's configuration, layer by layer."""
    attention = _MLA if model.attention == "mla" else _GQA
    choice = _MOE_LAYER if model.is_moe else _DENSE_LAYER
    text = _INIT + attention + (_MOE if model.is_moe else "") + choice + _SPEC
    names = {
        "BLOCK": _BLOCK[model.attention],
        "MODEL_CLASS": _MODEL[model.attention],
        "FAMILY": _FAMILY[model.attention],
        "PARALLELIZE": _PARALLELIZE[model.attention],
        "ADAPTER": adapter or "None",
    }
    for name, value in names.items():
        text = text.replace(f"<{name}>", value)
    return text


def trainer(*, embedding_rate: bool) -> str:
    """The function that torchtitan calls."""
    return _TRAINER.replace("<EMBEDDING_GROUP>", _EMBEDDING_GROUP if embedding_rate else "")


_INIT = """
WEIGHT = partial(nn.init.normal_, std=INIT_STD)
LINEAR = {"weight": WEIGHT, "bias": nn.init.zeros_}


def norm(size: int) -> RMSNorm.Config:
    return RMSNorm.Config(normalized_shape=size, eps=NORM_EPS, param_init={"weight": nn.init.ones_})


def feed_forward(width: int):
    return make_ffn_config(dim=HIDDEN_SIZE, hidden_dim=width, w1_param_init=LINEAR, w2w3_param_init=LINEAR)

"""

_GQA = """
def attention(layer: int):
    return make_gqa_config(
        dim=HIDDEN_SIZE,
        n_heads=NUM_HEADS,
        n_kv_heads=NUM_KEY_VALUE_HEADS,
        head_dim=HEAD_DIM,
        wqkv_param_init=LINEAR,
        wo_param_init=LINEAR,
        inner_attention=get_attention_config("flex"),
        fuse_qkv=True,
        rope=CosSinRoPE.Config(dim=HEAD_DIM, max_seq_len=SEQUENCE_LENGTH, theta=ROPE_THETA),
        qk_norm=norm(HEAD_DIM) if QK_NORM == "per_head" else None,
    )

"""

_MLA = """
def attention(layer: int):
    config = make_mla_attention_config(
        layer_id=layer,
        dim=HIDDEN_SIZE,
        n_heads=NUM_HEADS,
        q_lora_rank=Q_LORA_RANK,
        kv_lora_rank=KV_LORA_RANK,
        qk_nope_head_dim=QK_NOPE_HEAD_DIM,
        qk_rope_head_dim=QK_ROPE_HEAD_DIM,
        v_head_dim=V_HEAD_DIM,
        attn_backend="flex",
        linear_init=LINEAR,
        norm_init={"weight": nn.init.ones_},
        depth_init=lambda layer_id: LINEAR,
        rope=ComplexRoPE.Config(dim=QK_ROPE_HEAD_DIM, max_seq_len=SEQUENCE_LENGTH, theta=ROPE_THETA),
    )
    for latent_norm in (config.q_norm, config.kv_norm):
        latent_norm.eps = NORM_EPS
    return config

"""

_MOE = """
def experts():
    weights = {"w1_EFD": WEIGHT, "w2_EDF": WEIGHT, "w3_EFD": WEIGHT}
    return make_moe_config(
        num_experts=NUM_EXPERTS,
        router=make_router_config(
            dim=HIDDEN_SIZE,
            num_experts=NUM_EXPERTS,
            gate_param_init=LINEAR,
            top_k=EXPERTS_PER_TOKEN,
            score_func=ROUTER_SCORE,
            route_norm=ROUTER_NORMALIZE,
            route_scale=ROUTER_SCALE,
            num_expert_groups=EXPERT_GROUPS,
            num_limited_groups=EXPERT_GROUPS_PER_TOKEN,
        ),
        routed_experts=make_routed_experts_config(
            dim=HIDDEN_SIZE,
            hidden_dim=EXPERT_FFN_SIZE,
            num_experts=NUM_EXPERTS,
            top_k=EXPERTS_PER_TOKEN,
            param_init=weights,
            comm_backend="standard",
        ),
        shared_experts=feed_forward(NUM_SHARED_EXPERTS * SHARED_EXPERT_FFN_SIZE) if NUM_SHARED_EXPERTS else None,
        load_balance_coeff=SELECTION_BIAS_RATE,
    )

"""

_MOE_LAYER = """
def block(layer: int) -> <BLOCK>.Config:
    dense = layer in DENSE_LAYERS
    return <BLOCK>.Config(
        attention=attention(layer),
        attention_norm=norm(HIDDEN_SIZE),
        ffn_norm=norm(HIDDEN_SIZE),
        feed_forward=feed_forward(DENSE_FFN_SIZE) if dense else None,
        moe=None if dense else experts(),
    )

"""

_DENSE_LAYER = """
def block(layer: int) -> <BLOCK>.Config:
    return <BLOCK>.Config(
        attention=attention(layer),
        attention_norm=norm(HIDDEN_SIZE),
        ffn_norm=norm(HIDDEN_SIZE),
        feed_forward=feed_forward(DENSE_FFN_SIZE),
    )

"""

_SPEC = """
def model_spec() -> ModelSpec:
    table = {"weight": skip_param_init if TIED_EMBEDDINGS else WEIGHT}
    model = <MODEL_CLASS>.Config(
        vocab_size=VOCAB_SIZE,
        dim=HIDDEN_SIZE,
        tok_embeddings=Embedding.Config(num_embeddings=VOCAB_SIZE, embedding_dim=HIDDEN_SIZE, param_init=table),
        norm=norm(HIDDEN_SIZE),
        lm_head=Linear.Config(in_features=HIDDEN_SIZE, out_features=VOCAB_SIZE, param_init=LINEAR),
        layers=[block(layer) for layer in range(NUM_LAYERS)],
        enable_weight_tying=TIED_EMBEDDINGS,
    )
    return ModelSpec(
        name="<FAMILY>",
        flavor="training_plan",
        model=model,
        parallelize_fn=<PARALLELIZE>,
        pipelining_fn=pipeline_llm,
        post_optimizer_build_fn=register_moe_load_balancing_hook,
        state_dict_adapter=<ADAPTER>,
    )

"""

_EMBEDDING_GROUP = """
            ParamGroupConfig(
                pattern=r"tok_embeddings",
                optimizer_name="AdamW",
                optimizer_kwargs={**adamw, "lr": EMBEDDING_LEARNING_RATE},
            ),"""

_TRAINER = """
def pipeline_chunks() -> list[list[str]]:
    chunks, first = [], 0
    for layers in STAGE_LAYERS:
        chunks.append([f"layers.{layer}" for layer in range(first, first + layers)])
        first += layers
    chunks[0].insert(0, "tok_embeddings")
    chunks[-1] += ["norm", "lm_head"]
    return chunks


def optimizer() -> OptimizersContainer.Config:
    adamw = {"lr": LEARNING_RATE, "betas": BETAS, "eps": EPSILON, "weight_decay": WEIGHT_DECAY}
    return OptimizersContainer.Config(
        param_groups=[<EMBEDDING_GROUP>
            ParamGroupConfig(pattern=r".*", optimizer_name="AdamW", optimizer_kwargs=adamw),
        ]
    )


def main_run() -> Trainer.Config:
    return Trainer.Config(
        model_spec=model_spec(),
        hf_assets_path=TOKENIZER,
        loss=ChunkedLossWrapper.Config(loss_fn=CrossEntropyLoss.Config(global_vocab_size=VOCAB_SIZE)),
        dataloader=HuggingFaceTextDataLoader.Config(dataset=DATASET),
        optimizer=optimizer(),
        lr_scheduler=LRSchedulersContainer.Config(
            warmup_steps=WARMUP_STEPS,
            decay_ratio=DECAY_STEPS / STEPS,
            decay_type=DECAY_TYPE,
            min_lr_factor=FINAL_LEARNING_RATE_FRACTION,
        ),
        training=TrainingConfig(
            local_batch_size=LOCAL_BATCH_SIZE,
            global_batch_size=BATCH_SIZE,
            seq_len=SEQUENCE_LENGTH,
            steps=STEPS,
            max_norm=GRAD_CLIP,
            mixed_precision_param=PARAMETER_DTYPE,
            disable_cuda_graphs=DISABLE_CUDA_GRAPHS,
        ),
        activation_checkpoint={"none": None, "selective": SelectiveAC.Config(), "full": FullAC.Config()}[RECOMPUTE],
        parallelism=ParallelismConfig(
            tensor_parallel_degree=TENSOR,
            pipeline_parallel_degree=PIPELINE,
            pipeline_parallel_microbatch_size=MICRO_BATCH_SIZE,
            pipeline_parallel_schedule="Interleaved1F1B" if len(STAGE_LAYERS) > PIPELINE else "1F1B",
            module_fqns_per_model_part=pipeline_chunks() if PIPELINE > 1 else None,
            context_parallel_degree=CONTEXT,
            expert_parallel_degree=EXPERT,
        ),
    )
"""
