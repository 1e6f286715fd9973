"""The columns of a run table: one list for everybody who writes or reads one."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Column:
    """One column: what it means, its unit, and which values it may hold."""

    name: str
    meaning: str
    unit: str = ""
    kind: Literal["text", "count", "number"] = "number"
    domain: Literal["any", "non-negative", "positive", "fraction"] = "positive"


_TEXT: dict[str, Any] = {"kind": "text", "domain": "any"}
_COUNT: dict[str, Any] = {"kind": "count", "domain": "positive"}
_COUNT_OR_NONE: dict[str, Any] = {"kind": "count", "domain": "non-negative"}

COLUMNS: tuple[Column, ...] = (
    Column("run_id", "name of the run", **_TEXT),
    Column("status", "done, diverged, failed, running or queued", **_TEXT),
    Column("purpose", "what the run was bought for", **_TEXT),
    Column("trunk", "run whose state before the decay this one started from", **_TEXT),
    Column("seed", "random seed", kind="count", domain="any"),
    Column("vocab_size", "tokens in the vocabulary", **_COUNT),
    Column("hidden_size", "width of the residual stream", **_COUNT),
    Column("num_layers", "transformer layers", **_COUNT),
    Column("num_attention_heads", "query heads", **_COUNT),
    Column("num_key_value_heads", "key and value heads", **_COUNT),
    Column("num_experts", "routed experts a layer; 0 is dense", **_COUNT_OR_NONE),
    Column("experts_per_token", "routed experts one token passes through", **_COUNT_OR_NONE),
    Column("num_shared_experts", "experts every token passes through", **_COUNT_OR_NONE),
    Column("expert_ffn_size", "width of one expert", **_COUNT_OR_NONE),
    Column("dense_ffn_size", "FFN width of the layers without experts", **_COUNT_OR_NONE),
    Column("num_dense_layers", "leading layers without experts", **_COUNT_OR_NONE),
    Column("params_total", "trainable parameters", **_COUNT),
    Column("params_active", "parameters one token passes through, embeddings in", **_COUNT),
    Column("params_active_non_embedding", "the same less both embedding matrices", **_COUNT),
    Column("activation_ratio", "(experts_per_token + shared) / (num_experts + shared)", domain="fraction"),
    Column("granularity", "2 * hidden_size / expert_ffn_size"),
    Column("flops_per_token", "training FLOPs of one token, causal attention", "FLOP"),
    Column("tokens", "training tokens seen", "tokens", **_COUNT),
    Column("train_flops", "flops_per_token * tokens", "FLOP"),
    Column("tokens_spent", "tokens the run trained on itself; a branch's trunk saw the others", "tokens", **_COUNT),
    Column("train_flops_spent", "flops_per_token * tokens_spent: what the run adds to the bill", "FLOP"),
    Column("train_bytes", "UTF-8 bytes of training text seen", "bytes"),
    Column("sequence_length", "tokens in a sequence", "tokens", **_COUNT),
    Column("batch_tokens", "tokens in a batch", "tokens", **_COUNT),
    Column("learning_rate", "peak learning rate"),
    Column("loss", "validation cross-entropy", "nats/token"),
    Column("bits_per_byte", "validation loss for each byte of text", "bits/byte"),
    Column("loss_standard_error", "standard error of loss", "nats/token", domain="non-negative"),
    Column("unigram_loss", "cross-entropy of the training text's unigrams; L_u is loss less this", "nats/token"),
    Column("tokenizer", "tokenizer folder or name", **_TEXT),
    Column("corpus", "training corpus", **_TEXT),
    Column("wall_seconds", "training time", "s", domain="non-negative"),
    Column("tokens_per_second", "training speed", "tokens/s", domain="non-negative"),
    Column("device", "what it ran on", **_TEXT),
)
BY_NAME = {column.name: column for column in COLUMNS}
TEXT = frozenset(column.name for column in COLUMNS if column.kind == "text")
STATUSES = ("done", "diverged", "failed", "running", "queued")
