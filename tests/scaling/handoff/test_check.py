"""Every fault that the stacks let through is caught here, in one sentence with its mend."""

import json
import re
import shutil
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
from scaling.cli import Commands
from scaling.cluster.faults import faults as faults_of
from scaling.commands import check as check_command
from scaling.commands import export as export_command
from scaling.handoff.check import Report, check_configs
from scaling.handoff.export import export_plan
from scaling.handoff.megatron import write as megatron
from scaling.handoff.megatron.read import read_megatron
from scaling.handoff.torchtitan import write as torchtitan
from scaling.handoff.torchtitan.read import read_torchtitan
from tests.scaling.plans import DEEPSEEK_LIKE, PROXY, training_plan

RAMP = {"start_batch_tokens": 4096, "increment_tokens": 4096, "ramp_tokens": 100_000}
LAYOUT = {"gpus": 8, "tensor": 2, "expert": 4, "micro_batch_size": 2}

app = typer.Typer(cls=Commands)
app.callback()(lambda: None)
check_command.register(app)
export_command.register(app)


def faults(report: Report) -> str:
    assert report.ok == (not report.faults)
    return " | ".join(fault.detail for fault in report.faults)


@pytest.fixture(autouse=True)
def no_stack_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own checks alone; what the stacks' classes say is in test_proofs."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    export_plan(training_plan(PROXY, layout=LAYOUT), ["all"], tmp_path)
    return tmp_path


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(json.dumps(content) if path.suffix == ".json" else yaml.safe_dump(content))


def test_a_sound_export_passes(exported: Path) -> None:
    report = check_configs(exported)
    assert report.ok, faults(report)
    same = {Path(item.subject).name for item in report.checks if item.name == "the same as the plan"}
    assert same == {"config.json", "model_config.yaml", "megatron_bridge.yaml", "config_registry.py"}


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
    found = faults(check_configs(tmp_path / "plan.yaml"))
    assert message in found if message else not found
    if message:
        with pytest.raises(UserError) as caught:
            export_plan(plan, ["megatron"], tmp_path / "out")
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"experts_per_token": 17}}, "experts_per_token 17 is above num_experts 16"),
        ({"model": {"num_expert_groups": 7}}, "num_expert_groups 7 does not divide num_experts 16"),
        ({"schedule": {"warmup_tokens": 950_000}}, "exceed tokens 1000000"),
        ({"model": {"hiden_size": 1}}, "unknown key 'model.hiden_size'"),
        ({"tokens": 2_000_000}, "is not flops_per_token x tokens"),
        ({"tokens": "many"}, "tokens"),
        ({"layout": {"gpus": 8, "tensors": 2}}, "unknown key 'layout.tensors'"),
        ({"layout": {"gpus": 8, "virtual_pipeline": 2}}, "layout.virtual_pipeline is 2 without a pipeline"),
        ({"layout": {"gpus": 8, "pipeline": 4, "virtual_pipeline": 2}}, "are more chunks than model.num_layers 5"),
        ({"layout": {"gpus": 16, "pipeline": 2, "virtual_pipeline": 2, "micro_batch_size": 8}}, "of a step 1 is not"),
        ({"schedule": {"decay_shape": "square"}}, "schedule.decay_shape"),
        ({"optimizer": {"learning_rate": -1}}, "optimizer.learning_rate"),
        (
            {"batch_ramp": {"start_batch_tokens": 4096, "increment_tokens": 4096, "ramp_tokens": 10**9}},
            "is longer than",
        ),
        (
            {"batch_ramp": {"start_batch_tokens": 1024, "increment_tokens": 3072, "ramp_tokens": 10}},
            "does not lead from",
        ),
        ({"batch_tokens": 1000}, "batch_tokens 1000 is not a multiple of sequence_length 128"),
        ({"tokenizer": {"vocab_size": 5000}}, "tokenizer.vocab_size 5000 is above model.vocab_size 4096"),
    ],
)
def test_plans_edited_into_nonsense(change: dict, message: str, tmp_path: Path) -> None:
    plan = training_plan(PROXY).model_dump(mode="json")
    for key, value in change.items():
        plan[key] = (plan[key] or {}) | value if isinstance(value, dict) else value
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    assert message in faults(check_configs(tmp_path))


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
    assert message in faults(check_configs(exported))


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
    assert message in faults(check_configs(exported))


def test_a_misspelt_hugging_face_key_is_a_fault(exported: Path) -> None:
    def misspell(content: dict) -> None:
        content["first_k_dense_repalce"] = content.pop("first_k_dense_replace")

    edit(exported / "hf" / "config.json", misspell)
    assert "did you mean 'first_k_dense_replace'?" in faults(check_configs(exported))


def test_a_torchtitan_constant_edited_by_hand(exported: Path) -> None:
    path = exported / "torchtitan" / "training_plan" / "config_registry.py"
    path.write_text(path.read_text().replace("\nSTEPS = 123", "\nSTEPS = 77"))
    assert "steps is 77, the plan says 123" in faults(check_configs(exported))
    path.write_text("STEPS = (")
    assert "not Python" in faults(check_configs(path))


def test_a_file_is_compared_with_the_nearest_plan(exported: Path) -> None:
    export_plan(training_plan(DEEPSEEK_LIKE), ["megatron"], exported / "other")
    assert check_configs(exported).ok
    (exported / "other" / "plan.yaml").unlink()
    assert "model.num_layers is 61, the plan says 5" in faults(check_configs(exported))


def test_one_file_alone_and_nothing_at_all(exported: Path, tmp_path: Path) -> None:
    assert check_configs(exported / "megatron" / "model_config.yaml").ok
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"has none of plan\.yaml"):
        check_configs(tmp_path / "empty")
    with pytest.raises(UserError, match="no such file"):
        check_configs(tmp_path / "absent.yaml")


def test_the_commands(tmp_path: Path) -> None:
    training_plan(DEEPSEEK_LIKE).save(tmp_path / "plan.yaml")
    done = CliRunner().invoke(app, ["export", str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    written = {one["stack"] for one in json.loads(done.stdout) if one["files"]}
    assert written == {"megatron", "hf", "torchtitan", "megatron-bridge"}
    looked = CliRunner().invoke(app, ["check", str(tmp_path / "out"), "--json"])
    assert looked.exit_code == 0 and json.loads(looked.stdout)["ok"]
    edit(tmp_path / "out" / "hf" / "config.json", lambda content: content.update(n_group=7))
    refused = CliRunner().invoke(app, ["check", str(tmp_path / "out")])
    assert refused.exit_code == 2 and refused.stderr.count("\n") == 1


BRIDGE, OLMO = "megatron-bridge/megatron_bridge.yaml", "olmo-core/olmo_core.yaml"
OLMO_PROXY = {**PROXY, "router_scaling_factor": 1.0}
PIPELINED = {"gpus": 16, "pipeline": 2, "expert": 4, "micro_batch_size": 2}

# What handoff.md found the stacks to let through, or to see only in a full run: fault -> how each file has it.
SABOTAGE: dict[str, dict[str, tuple[dict[str, Any], str]]] = {
    "a misspelt key": {
        "megatron": ({"--num-expert": 16}, "did you mean '--num-experts'?"),
        "megatron-bridge": ({"model.num_moe_expert": 16}, "did you mean 'model.num_moe_experts'?"),
        "torchtitan": ({"STEPZ": 3}, "no constant 'STEPZ' (did you mean 'STEPS'?) is used"),
        "olmo-core": ({"model.d_mdoel": 16}, "has no field 'model.d_mdoel' (did you mean 'd_model'?)"),
        "hf": ({"first_k_dense_replace": ..., "first_k_dense_repalce": 1}, "did you mean 'first_k_dense_replace'?"),
    },
    "experts that EP does not divide": {
        "megatron": ({"--num-experts": 18}, "--num-experts 18 is not divisible by --expert-model-parallel-size 4"),
        "megatron-bridge": ({"model.num_moe_experts": 18}, "model.num_moe_experts 18 is not divisible by"),
        "torchtitan": ({"NUM_EXPERTS": 18}, "model.num_experts 18 is not divisible by layout.expert 4"),
        "olmo-core": ({"model.block.feed_forward_moe.num_experts": 18}, "18 is not divisible by layout.expert 4"),
    },
    "heads that TP does not divide": {
        "megatron": ({"--tensor-model-parallel-size": 3}, "--num-attention-heads 8 is not divisible by"),
        "megatron-bridge": ({"model.tensor_model_parallel_size": 3}, "model.num_attention_heads 8 is not divisible"),
        "torchtitan": ({"TENSOR": 3}, "model.num_attention_heads 8 is not divisible by layout.tensor 3"),
        "olmo-core": ({"train_module.tp_config.degree": 3}, "attention_heads 8 is not divisible by layout.tensor 3"),
    },
    "a MoE layer pattern one layer short": {
        "megatron": ({"--moe-layer-freq": "([0]*1+[1]*3)"}, "names 4 layers but --num-layers is 5"),
        "megatron-bridge": ({"model.moe_layer_freq": [0, 1, 1, 1]}, "names 4 layers but model.num_layers is 5"),
        "torchtitan": ({"DENSE_LAYERS": [0, 7]}, "must lie in 1..4"),
        "olmo-core": ({"model.block_overrides.7.name": "default"}, "'model.block_overrides.7' is no layer of 5"),
        "hf": ({"first_k_dense_replace": 2}, "model.num_dense_layers is 2, the plan says 1"),
    },
    "a pipeline layout that adds up to other layers": {
        "megatron": ({"--pipeline-model-parallel-layout": "Et*2|t*2L"}, "holds 4 layers but --num-layers is 5"),
        "megatron-bridge": ({"model.pipeline_model_parallel_layout": "Et*2|t*2L"}, "holds 4 layers but model.num_l"),
        "torchtitan": ({"STAGE_LAYERS": [2, 2]}, "holds 4 layers in 2 chunks, but there are NUM_LAYERS 5"),
        "olmo-core": ({"train_module.pp_config.split_points": [6]}, "must be rising layers below n_layers 5"),
    },
    "a pipeline cut otherwise than the memory model cut it": {
        "megatron": ({"--pipeline-model-parallel-layout": "Et|t*4L"}, "stage_layers is (1, 4), the plan says"),
        "megatron-bridge": ({"model.pipeline_model_parallel_layout": "Et|t*4L"}, "stage_layers is (1, 4), the plan"),
        "torchtitan": ({"STAGE_LAYERS": [1, 4]}, "stage_layers is (1, 4), the plan says"),
        "olmo-core": ({"train_module.pp_config.split_points": [1]}, "stage_layers is (1, 4), the plan says"),
    },
    "a batch that DP x micro-batch does not divide": {
        "megatron": ({"--global-batch-size": 60}, "--global-batch-size 60 is not divisible by 8 data-parallel ranks"),
        "megatron-bridge": ({"train.global_batch_size": 60}, "train.global_batch_size 60 is not divisible by 8 data"),
        "torchtitan": ({"BATCH_SIZE": 60}, "the batch of sequences 60 is not divisible by 8 data-parallel ranks"),
        "olmo-core": ({"data_loader.global_batch_size": 60 * 128}, "sequences 60 is not divisible by 8 data-parallel"),
    },
    "groups that do not divide the experts": {
        "megatron": ({"--moe-router-num-groups": 7}, "--moe-router-num-groups 7 does not divide --num-experts 16"),
        "megatron-bridge": ({"model.moe_router_num_groups": 7}, "7 does not divide model.num_moe_experts 16"),
        "torchtitan": ({"EXPERT_GROUPS": 7}, "num_expert_groups 7 does not divide num_experts 16"),
        "hf": ({"n_group": 7}, "does not divide"),
    },
    "a top-k above the experts": {
        "megatron": ({"--moe-router-topk": 17}, "--moe-router-topk 17 is above --num-experts 16"),
        "megatron-bridge": ({"model.moe_router_topk": 17}, "model.moe_router_topk 17 is above model.num_moe_experts"),
        "torchtitan": ({"EXPERTS_PER_TOKEN": 17}, "experts_per_token 17 is above num_experts 16"),
        "olmo-core": ({"model.block.feed_forward_moe.router.top_k": 17}, "experts_per_token 17 is above num_experts"),
        "hf": ({"num_experts_per_tok": 17}, "num_experts_per_tok 17 is above n_routed_experts 16"),
    },
    "a warm-up longer than the run": {
        "megatron": ({"--lr-warmup-samples": 99_999_999}, "exceed the 123 steps of the run"),
        "megatron-bridge": ({"scheduler.lr_warmup_iters": 999}, "exceed the 123 steps of the run"),
        "torchtitan": ({"WARMUP_STEPS": 999}, "exceed the 123 steps of the run"),
        "olmo-core": ({"train_module.scheduler.warmup": 999}, "exceed the 123 steps of the run"),
    },
    "a padded vocabulary other than the plan's": {
        "megatron": ({"--make-vocab-size-divisible-by": 5000}, "model.vocab_size is 5000, the plan says 4096"),
        "megatron-bridge": ({"model.vocab_size": 5000}, "model.vocab_size is 5000, the plan says 4096"),
        "torchtitan": ({"VOCAB_SIZE": 5000}, "model.vocab_size is 5000, the plan says 4096"),
        "olmo-core": ({"model.vocab_size": 5000}, "model.vocab_size is 5000, the plan says 4096"),
        "hf": ({"vocab_size": 5000}, "model.vocab_size is 5000, the plan says 4096"),
    },
    "a pipeline with CUDA graphs left on": {
        "torchtitan": ({"DISABLE_CUDA_GRAPHS": False}, "with PIPELINE 2, and torchtitan captures no pipeline"),
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def pipelined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipelined")
    export_plan(training_plan(OLMO_PROXY, layout=PIPELINED), ["all"], folder)
    return folder


@pytest.mark.parametrize(("fault", "stack"), [(fault, stack) for fault, stacks in SABOTAGE.items() for stack in stacks])
def test_sabotage_is_seen_without_the_stack(fault: str, stack: str, pipelined: Path, tmp_path: Path) -> None:
    shutil.copytree(pipelined, tmp_path, dirs_exist_ok=True)
    changes, message = SABOTAGE[fault][stack]
    path = tmp_path / stack / FILES[stack]
    assert stack == "hf" or check_configs(path.parent.parent, [stack]).ok
    if path.suffix == ".py":
        path.write_text(path.read_text() + "".join(f"{name} = {value!r}\n" for name, value in changes.items()))
    else:
        edit(path, lambda content: [put(content, name, value) for name, value in changes.items()])
    found = faults(check_configs(tmp_path, [stack]))
    assert message in found, found


FILES = {"megatron": "model_config.yaml", "megatron-bridge": "megatron_bridge.yaml", "hf": "config.json"}
FILES |= {"torchtitan": "training_plan/config_registry.py", "olmo-core": "olmo_core.yaml"}


def put(content: dict[str, Any], name: str, value: Any) -> None:
    """Set a flag, a key, or a nested key written with dots."""
    content = content.get("MODEL_ARGS", content)
    *places, last = [name] if name.startswith("--") else name.split(".")
    for place in places:
        place = int(place) if place.isdigit() else place
        content = content.setdefault(place, {})
    if value is ...:
        del content[last]
    else:
        content[last] = value


def test_a_stack_that_is_not_installed_is_named_with_its_extra(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    report = check_configs(exported)
    skipped = {item.name: item.detail for item in report.checks if item.status == "skipped"}
    assert report.ok and len(report.checks) > 15
    assert "[megatron]'" in skipped["parameters by megatron-core"]
    assert "[torchtitan]'" in skipped["learning rate by torchtitan"]
    assert "[hf]'" in skipped["parameters by transformers"]


def test_one_stack_alone(exported: Path) -> None:
    report = check_configs(exported, ["hf"])
    assert {Path(item.subject).name for item in report.checks} == {"plan.yaml", "config.json"}
    with pytest.raises(UserError, match=r"--stack is 'hff' \(did you mean 'hf'\?\)"):
        check_configs(exported, ["hff"])
