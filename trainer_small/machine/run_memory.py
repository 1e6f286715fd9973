"""What a run needs in memory, from its shape, before it is begun: a formula, quick enough for tables of many runs.

``memory_estimate`` says it exactly, by the run's own code; a test holds the two together. No torch here.
"""

from trainer_small.config import RunSpec

PROCESS_BYTES = 375 * 2**20
"""Python, torch and its libraries, loaded and warm, and nothing trained."""
EXPLICIT_ATTENTION_BELOW = 1024
"""Up to this length attention keeps its probabilities on a CPU: the fused kernel's backward is slow there, and two
batched products and a softmax win."""
WIDE = 256
"""From this width on float32 products take the faster kernels: narrower models gain nothing, since one is compiled for
every size of group that a router makes."""
LOGITS_HELD, FEWEST_ROWS, LOGITS_CACHED = 2**22, 512, 2**21
"""Entries of the table of logits that the loss has at a time on a CPU, tokens it has at the least, and entries that it
has in float32 when the table is bfloat16."""


def run_memory_bytes(run: RunSpec) -> int:
    """Most that the tensors of a step take at one time on a CPU, bytes; within 10 % of ``memory_estimate``.

    Weights and moments; then the activations of one micro-batch, or the gradients that come when these go. Gradients
    of an earlier part of the batch are there beside the activations of the next.
    """
    training = run.training
    tokens = training.micro_batch_tokens or training.batch_tokens
    roles = run.architecture.params_by_role()
    weights = 4 * sum(roles.values())
    moments = 2 * weights
    if training.optimizer == "muon":  # one moment for matrices, two for the rest
        moments = weights + 4 * sum(roles[role] for role in ("embedding", "lm_head", "router", "norm"))
    narrow = run.dtype_on("cpu") == "bfloat16"
    copies = weights // 2 if narrow else 0
    head_gradient = 4 * run.architecture.vocab_size * run.architecture.hidden_size
    entries = run.architecture.vocab_size * min(tokens, max(LOGITS_HELD // run.architecture.vocab_size, FEWEST_ROWS))
    logits = 2 * entries + 4 * min(entries, LOGITS_CACHED) if narrow else 4 * entries
    kept, again = _activations_of_token(run)
    activations = tokens * kept + copies + head_gradient + max(tokens * again, logits)
    together = max(weights, activations) if tokens == training.batch_tokens else weights + activations
    return weights + moments + together


def process_bytes(run: RunSpec) -> int:
    """What a process that trains ``run`` on a CPU holds besides its tensors, bytes.

    oneDNN keeps a kernel for every number of rows that an expert has had, for each of a layer's six products, up to
    1024 of them; it multiplies bfloat16 and wide float32 models. The sizes are those measured.
    """
    architecture, training = run.architecture, run.training
    if not architecture.is_moe or (run.dtype_on("cpu") == "float32" and architecture.hidden_size < WIDE):
        return PROCESS_BYTES
    tokens = training.micro_batch_tokens or training.batch_tokens
    largest_group = 4 * tokens * architecture.experts_per_token // architecture.num_experts
    kernels = min(1024, 6 * largest_group // 16)
    return PROCESS_BYTES + 100 * 2**20 + kernels * 300 * 2**10


def _activations_of_token(run: RunSpec) -> tuple[int, int]:
    """What is kept for the backward pass, and what that computes again: norms' inputs and their outputs, queries,
    keys, values, attention probabilities and output, and what each FFN or expert that a token passes through makes."""
    architecture, length = run.architecture, run.training.sequence_length
    element = 2 if run.dtype_on("cpu") == "bfloat16" else 4
    heads = architecture.num_attention_heads
    if architecture.attention == "mla":
        size = architecture.qk_nope_head_dim + architecture.qk_rope_head_dim
        attention = 2 * heads * (size + architecture.v_head_dim)
        attention += 3 * (architecture.kv_lora_rank + (architecture.q_lora_rank or 0))
    else:
        attention = 2 * (heads + architecture.num_key_value_heads) * architecture.head_dim
    if length <= EXPLICIT_ATTENTION_BELOW:
        attention += heads * length
    layer = 4 * element * architecture.hidden_size + element * attention
    routed = architecture.experts_per_token * (architecture.hidden_size + 5 * architecture.expert_ffn_size)
    shared = architecture.num_shared_experts * 4 * architecture.shared_expert_ffn_size
    moe = architecture.num_moe_layers
    ffns = element * (moe * (routed + shared) + (architecture.num_layers - moe) * 4 * architecture.dense_ffn_size)
    if architecture.moe_output_norm:
        layer += 2 * element * architecture.hidden_size
    all_layers = architecture.num_layers * layer + ffns
    if run.activation_checkpointing:  # one layer at a time, and what goes into each
        inputs = element * architecture.num_layers * architecture.hidden_size
        return inputs, 5 * all_layers // (4 * architecture.num_layers)
    return all_layers, 0
