"""Which architectures the trainer builds; the counts in ``architecture.py`` know more than it can train."""

from fits.errors import UserError
from trainer_small.architecture import Architecture

_NOT_BUILT = ("attention_sinks", "expert_bias")


def why_not_trainable(architecture: Architecture) -> str | None:
    """One clause that names the key, its value and the mend; ``None`` when the trainer builds every part."""
    for key in _NOT_BUILT:
        if getattr(architecture, key):
            return f"{key} is true, which trainer_small does not build; set it to false"
    if architecture.attention == "mla" and architecture.qk_norm != "none":
        return f"qk_norm is '{architecture.qk_norm}', which multi-head latent attention does not use; set it to 'none'"
    key = "qk_rope_head_dim" if architecture.attention == "mla" else "head_dim"
    if getattr(architecture, key) % 2:
        return f"{key} is {getattr(architecture, key)}; rotary embeddings need an even number"
    if architecture.num_expert_groups < 1 or architecture.expert_groups_per_token < 1:
        return "num_expert_groups and expert_groups_per_token must be at least 1"
    return None


def require_trainable(architecture: Architecture) -> None:
    """
    Raises:
        UserError: the architecture has a part that the trainer does not build.
    """
    if reason := why_not_trainable(architecture):
        raise UserError(f"architecture: {reason}.")
