"""The model types whose config.json is understood, as the data file beside this one describes them."""

from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from fits.files import read_mapping

_ALL = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "tied_embeddings": "tie_word_embeddings",
    "norm_eps": "rms_norm_eps",
}
_ATTENTION = {
    "gqa": {"num_key_value_heads": "num_key_value_heads"},
    "mla": {key: key for key in ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")},
}
# Keys of every file, whatever the model type; they change no count.
FRAMEWORK_KEYS = (
    "model_type", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version", "rope_scaling",
    "rope_theta", "rope_parameters", "partial_rotary_factor", "head_dim", "quantization_config", "_name_or_path",
)  # fmt: skip


class ModelType(BaseModel):
    """One model type; the data file's heading says what each key means."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    class_name: str
    attention: Literal["gqa", "mla"]
    fields: dict[str, str]
    fixed: dict[str, Any] = {}
    dense_layers: Literal["all", "none", "first_k_dense_replace", "mlp_only_layers", "mlp_layer_types"]
    heads_divide_hidden_size: bool = False
    rope_theta: float
    aliases: dict[str, str] = {}
    unread: dict[str, Any] = {}
    defaults: dict[str, Any]
    neutral: dict[str, Any] = {}

    @property
    def has_experts(self) -> bool:
        return self.dense_layers != "all"

    @property
    def known_keys(self) -> set[str]:
        """Every key that a file of this type usually holds."""
        return {*self.defaults, *self.aliases, *self.unread, *FRAMEWORK_KEYS}


@cache
def model_types() -> dict[str, ModelType]:
    """All model types by name."""
    entries = read_mapping(Path(__file__).with_suffix(".yaml"))
    return {name: _model_type(name, entry) for name, entry in entries.items()}


def _model_type(name: str, entry: dict[str, Any]) -> ModelType:
    fields = {**_ALL, **_ATTENTION[entry["attention"]], **entry["fields"]}
    if entry["dense_layers"] != "all":
        fields["experts_per_token"] = "num_experts_per_tok"
    values = {key: value for key, value in entry.items() if key not in ("class", "fields")}
    return ModelType(name=name, class_name=entry["class"], fields=fields, **values)
