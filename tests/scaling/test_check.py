"""Every fault that the stacks let through is caught here, in one sentence with its mend."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from fits.errors import UserError
from scaling.check import Report, check
from scaling.cli import Commands
from scaling.commands import check as check_command
from scaling.commands import export as export_command
from scaling.export import export
from scaling.stacks import megatron, torchtitan
from scaling.stacks.faults import faults as faults_of
from scaling.stacks.megatron_read import read_megatron
from scaling.stacks.torchtitan_read import read_torchtitan
from tests.scaling.plans import DEEPSEEK_LIKE, PROXY, training_plan

LAYOUT = {"gpus": 8, "tensor": 2, "expert": 4, "micro_batch_size": 2}

app = typer.Typer(cls=Commands)
app.callback()(lambda: None)
check_command.register(app)
export_command.register(app)


def faults(report: Report) -> str:
    assert report.ok == (not report.faults)
    return " | ".join(fault.detail for fault in report.faults)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    export(training_plan(PROXY, layout=LAYOUT), ["all"], tmp_path)
    return tmp_path


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(json.dumps(content) if path.suffix == ".json" else yaml.safe_dump(content))


def test_a_sound_export_passes_and_transformers_counts_it(exported: Path) -> None:
    report = check(exported)
    assert report.ok, faults(report)
    checks = {(Path(item.subject).name, item.name): item for item in report.checks}
    assert checks["config.json", "the same as the plan"].status == "ok"
    assert checks["model_config.yaml", "the same as the plan"].status == "ok"
    assert checks["config_registry.py", "the same as the plan"].status == "ok"
    counted = checks["config.json", "parameters by transformers"]
    assert (counted.status, counted.detail) in [("ok", "10,374,208"), ("skipped", counted.detail)]


@pytest.mark.parametrize(
    ("model", "layout", "message"),
    [
        (
            {"num_experts": 250, "num_expert_groups": 1},
            {"gpus": 64, "expert": 64},
            "model.num_experts 250 is not divisible by layout.expert 64",
        ),
        ({}, {"gpus": 48, "tensor": 3}, "model.num_attention_heads 8 is not divisible by layout.tensor 3"),
        ({"vocab_size": 4097}, {"gpus": 8, "tensor": 2}, "model.vocab_size 4097 is not divisible by layout.tensor 2"),
        ({}, {"gpus": 64, "pipeline": 8}, "layout.pipeline 8 is above model.num_layers 5"),
        ({}, {"gpus": 24, "micro_batch_size": 1}, "batch of sequences 64 is not divisible by 24 data-parallel ranks"),
        ({}, {"gpus": 9, "tensor": 2}, "layout.gpus 9 is not divisible by layout.tensor x pipeline x context = 2"),
        ({}, {"gpus": 8, "context": 4, "tensor": 1}, None),
        ({"num_expert_groups": 16, "expert_groups_per_token": 16}, {"gpus": 8}, "a group is scored by its best two"),
    ],
)
def test_plans_that_do_not_fit_their_layout(model: dict, layout: dict, message: str | None, tmp_path: Path) -> None:
    plan = training_plan({**PROXY, **model}, layout=layout)
    plan.save(tmp_path / "plan.yaml")
    found = faults(check(tmp_path / "plan.yaml"))
    assert message in found if message else not found
    if message:
        with pytest.raises(UserError) as caught:
            export(plan, ["megatron"], tmp_path / "out")
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"experts_per_token": 17}}, "experts_per_token 17 is above num_experts 16"),
        ({"model": {"num_expert_groups": 7}}, "num_expert_groups 7 does not divide num_experts 16"),
        ({"schedule": {"warmup_tokens": 950_000}}, "exceed tokens 1000000"),
        ({"model": {"hiden_size": 1}}, "unknown key 'model.hiden_size'"),
        ({"tokens": 2_000_000}, "is not flops_per_token x tokens"),
        ({"batch_tokens": 1000}, "batch_tokens 1000 is not a multiple of sequence_length 128"),
        ({"tokenizer": {"vocab_size": 5000}}, "tokenizer.vocab_size 5000 is above model.vocab_size 4096"),
    ],
)
def test_plans_edited_into_nonsense(change: dict, message: str, tmp_path: Path) -> None:
    plan = training_plan(PROXY).model_dump(mode="json")
    for key, value in change.items():
        plan[key] = plan[key] | value if isinstance(value, dict) else value
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    assert message in faults(check(tmp_path))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"--num-expert": 16}, "Megatron-LM has no flag '--num-expert' (did you mean '--num-experts'?)"),
        (
            {"--num-experts": 250, "--expert-model-parallel-size": 8},
            "--num-experts 250 is not divisible by --expert-model-parallel-size 8",
        ),
        ({"--moe-layer-freq": "([0]*1+[1]*3)"}, "names 4 layers but --num-layers is 5"),
        ({"--moe-layer-freq": "__import__('os')"}, "write it as ([0]*3+[1]*58)"),
        (
            {"--pipeline-model-parallel-size": 2, "--pipeline-model-parallel-layout": "Et*2|t*2L"},
            "holds 4 layers but --num-layers is 5",
        ),
        ({"--pipeline-model-parallel-size": 2}, "not divisible by --pipeline-model-parallel-size 2"),
        ({"--global-batch-size": 60}, "--global-batch-size 60 is not divisible by 4 data-parallel ranks"),
        ({"--moe-router-num-groups": 7}, "--moe-router-num-groups 7 does not divide --num-experts 16"),
        ({"--moe-router-topk": 17}, "--moe-router-topk 17 is above --num-experts 16"),
        ({"--lr-warmup-samples": 99_999_999}, "exceed the"),
        ({"--num-layers": None}, "flag '--num-layers' is missing"),
        ({"--hidden-size": "wide"}, "flag '--hidden-size' is 'wide': must be a number"),
        ({"--lr": 0.5}, "learning_rate is 0.5, the plan says 0.0004"),
        ({"--make-vocab-size-divisible-by": 5000}, "model.vocab_size is 10000, the plan says 4096"),
    ],
)
def test_megatron_files_edited_by_hand(flags: dict, message: str, exported: Path) -> None:
    edit(exported / "megatron" / "model_config.yaml", lambda content: content["MODEL_ARGS"].update(flags))
    assert message in faults(check(exported))


JUNK = st.one_of(st.none(), st.booleans(), st.integers(-3, 70), st.floats(), st.text(max_size=3), st.just([1, {}]))
FLAGS = yaml.safe_load(megatron.files(training_plan(PROXY, layout=LAYOUT))[megatron.FILE])


@settings(max_examples=80, deadline=None)
@given(flags=st.dictionaries(st.sampled_from(sorted(FLAGS["MODEL_ARGS"])), JUNK, max_size=3), gpus=JUNK)
def test_junk_in_a_megatron_file_is_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, flags: dict, gpus: Any
) -> None:
    path = tmp_path_factory.mktemp("junk") / "x.json"
    content = {"ENV_VARS": {"GPUS": gpus}, "MODEL_ARGS": FLAGS["MODEL_ARGS"] | flags}
    path.write_text(json.dumps(content))
    try:
        found = faults_of(read_megatron(path))
    except UserError as error:
        found = [str(error)]
    assert all("\n" not in sentence for sentence in found)


REGISTRY = torchtitan.files(training_plan(PROXY))["training_plan/config_registry.py"]


@settings(max_examples=80, deadline=None)
@given(constants=st.dictionaries(st.sampled_from(sorted(set(re.findall(r"^[A-Z_]+(?= =)", REGISTRY, re.M)))), JUNK))
def test_junk_in_a_torchtitan_module_is_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, constants: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("junk") / "config_registry.py"
    path.write_text(REGISTRY + "".join(f"{name} = {value!r}\n" for name, value in constants.items()))
    try:
        found = faults_of(read_torchtitan(path, gpus=8))
    except UserError as error:
        found = [str(error)]
    assert all("\n" not in sentence for sentence in found)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"n_routed_expert": 8, "n_routed_experts": None}, "n_routed_experts"),
        ({"num_experts_per_tok": 17}, "num_experts_per_tok 17 is above n_routed_experts 16"),
        ({"moe_intermediate_size": 256}, "model.expert_ffn_size is 256, the plan says 128"),
        ({"model_type": "glm5_moe"}, "did you mean 'glm4_moe'"),
    ],
)
def test_hugging_face_files_edited_by_hand(keys: dict, message: str, exported: Path) -> None:
    edit(exported / "hf" / "config.json", lambda content: content.update(keys))
    assert message in faults(check(exported))


def test_a_misspelt_hugging_face_key_is_a_fault(exported: Path) -> None:
    def misspell(content: dict) -> None:
        content["first_k_dense_repalce"] = content.pop("first_k_dense_replace")

    edit(exported / "hf" / "config.json", misspell)
    assert "did you mean 'first_k_dense_replace'?" in faults(check(exported))


def test_a_torchtitan_constant_edited_by_hand(exported: Path) -> None:
    path = exported / "torchtitan" / "training_plan" / "config_registry.py"
    path.write_text(path.read_text().replace("\nSTEPS = 123", "\nSTEPS = 77"))
    assert "steps is 77, the plan says 123" in faults(check(exported))
    path.write_text("STEPS = (")
    assert "not Python" in faults(check(path))


def test_a_file_is_compared_with_the_nearest_plan(exported: Path) -> None:
    export(training_plan(DEEPSEEK_LIKE), ["megatron"], exported / "other")
    assert check(exported).ok
    (exported / "other" / "plan.yaml").unlink()
    assert "model.num_layers is 61, the plan says 5" in faults(check(exported))


def test_one_file_alone_and_nothing_at_all(exported: Path, tmp_path: Path) -> None:
    assert check(exported / "megatron" / "model_config.yaml").ok
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"has none of plan\.yaml"):
        check(tmp_path / "empty")
    with pytest.raises(UserError, match="no such file"):
        check(tmp_path / "absent.yaml")


def test_the_commands(tmp_path: Path) -> None:
    training_plan(DEEPSEEK_LIKE).save(tmp_path / "plan.yaml")
    done = CliRunner().invoke(app, ["export", str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    assert {one["stack"] for one in json.loads(done.stdout)} == {"megatron", "hf", "torchtitan"}
    looked = CliRunner().invoke(app, ["check", str(tmp_path / "out"), "--json"])
    assert looked.exit_code == 0 and json.loads(looked.stdout)["ok"]
    edit(tmp_path / "out" / "hf" / "config.json", lambda content: content.update(n_group=7))
    refused = CliRunner().invoke(app, ["check", str(tmp_path / "out")])
    assert refused.exit_code == 2 and refused.stderr.count("\n") == 1
