"""scaling count: exact against published models, against transformers' own products, and from every kind of file."""

import json
from pathlib import Path

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from typer.testing import CliRunner

from fits.errors import UserError
from scaling.cli import Commands
from scaling.commands import count as count_command
from scaling.hf.count import count, count_file
from scaling.hf.read import parse_hf_config
from tests.places import SHARED
from tests.scaling.hf.hf_strategies import TYPES, hf_configs
from trainer_small.architecture import Architecture

KNOWN = SHARED / "data" / "known_models.json"
RELEASED = json.loads(Path(__file__).with_name("released_models.json").read_text())
NAMES = list(json.loads(KNOWN.read_text())) if KNOWN.is_file() else []

TINY = {"vocab_size": 100, "hidden_size": 8, "num_layers": 2, "num_attention_heads": 2, "dense_ffn_size": 16}

app = typer.Typer(cls=Commands)
app.callback()(lambda: None)
count_command.register(app)


@pytest.mark.skipif(not NAMES, reason="shared/data/known_models.json is absent")
@pytest.mark.parametrize("name", NAMES)
def test_published_models_are_exact(name: str, tmp_path: Path) -> None:
    known = json.loads(KNOWN.read_text())[name]
    (tmp_path / "config.json").write_text(json.dumps({"model_type": known["hf_model_type"], **known["hf_config"]}))
    counted, truth, flops = count_file(tmp_path), known["parameters"], known["flops"]
    assert counted.params_total == truth["total"]
    assert counted.params_active == truth["active"]
    assert counted.params_active_non_embedding == truth["active_non_embedding"]
    assert counted.params_active_without_input_embedding == truth["active_without_input_embedding"]
    assert {role: number for role, number in counted.by_role.items() if number} == truth["by_role"]
    assert counted.flops_per_token.causal == flops["train_per_token_4096_causal"]
    assert counted.flops_per_token.full_attention == flops["train_per_token_4096_full_attention"]


@pytest.mark.parametrize("name", RELEASED)
def test_released_checkpoints_have_this_many_parameters(name: str) -> None:
    counted = parse_hf_config(RELEASED[name]["config"], name).architecture
    assert counted.params_total == RELEASED[name]["params_total"]


@pytest.mark.parametrize("model_type", TYPES)
def test_flops_are_the_products_that_transformers_computes(model_type: str) -> None:
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    def forward_flops(config: dict, tokens: int) -> int:
        values = {key: value for key, value in config.items() if key != "model_type"}
        name = "deepseek_v3" if model_type == "kimi_k2" else model_type
        with torch.device("meta"):
            built = transformers.AutoModelForCausalLM.from_config(
                transformers.AutoConfig.for_model(name, **values, experts_implementation="batched_mm"),
                attn_implementation="eager",
            )
            mask = torch.zeros(1, 1, tokens, tokens)
            if config.get("layer_types") is None and model_type == "gpt_oss":
                mask = {"full_attention": mask, "sliding_attention": mask}
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                ids = torch.zeros(1, tokens, dtype=torch.long)
                built(ids, attention_mask=mask, position_ids=torch.arange(tokens)[None], use_cache=False)
        return counter.get_total_flops()

    @settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(hf_configs(model_type))
    def check(config: dict) -> None:
        architecture = parse_hf_config(config, "config.json").architecture
        for tokens in (8, 24):
            assert architecture.flops_per_token(tokens, causal=False) * tokens == 3 * forward_flops(config, tokens)

    check()


@pytest.mark.parametrize("key", [None, "architecture", "model"])
def test_the_projects_own_yaml(tmp_path: Path, key: str | None) -> None:
    import yaml

    path = tmp_path / "model.yaml"
    path.write_text(yaml.safe_dump(TINY if key is None else {"schema_version": 1, key: TINY}))
    assert count_file(path) == count(Architecture.model_validate(TINY))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**TINY, "hiden_size": 8}, "unknown key 'hiden_size' .did you mean 'hidden_size'"),
        ({**TINY, "num_experts": 2, "experts_per_token": 3, "expert_ffn_size": 4}, "experts_per_token 3 is above"),
        ({**TINY, "num_attention_heads": 3}, "num_attention_heads 3 does not divide hidden_size 8"),
        ({"architecture": 3}, "model.json"),
        ({key: value for key, value in TINY.items() if key != "hidden_size"}, "key 'hidden_size' is missing"),
    ],
)
def test_bad_files_end_with_code_2_and_one_sentence(tmp_path: Path, content: dict, message: str) -> None:
    path = tmp_path / "model.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        count_file(path)
    result = CliRunner().invoke(app, ["count", str(path)])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1 and str(path) in result.stderr


def test_json_holds_every_convention_and_the_table_says_it_too(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "axk1"}))
    printed = CliRunner().invoke(app, ["count", str(path), "--sequence-length", "8192", "--json"])
    counted = json.loads(printed.stdout)
    assert counted["params_total"] == 518_983_052_288
    assert counted["params_active"] == 32_779_332_608
    assert counted["flops_per_token"]["sequence_length"] == 8192
    assert counted["flops_per_token"]["causal"] < counted["flops_per_token"]["full_attention"]
    assert counted["granularity"] == 7 and counted["model_type"] == "axk1" and counted["warnings"]
    table = CliRunner().invoke(app, ["count", str(path)], env={"COLUMNS": "120"}).stdout
    assert "518,983,052,288" in table and "class default" in table


def test_a_sequence_length_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--sequence-length is 0"):
        count(Architecture.model_validate(TINY), sequence_length=0)
    with pytest.raises(UserError, match=r"has none of config\.json"):
        count_file(tmp_path)
