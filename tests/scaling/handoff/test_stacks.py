"""Exports: every stack's file reads back as the plan, says its target, and names what it cannot hold."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fits.errors import UserError
from scaling.cluster.run import Run, run_of
from scaling.handoff import huggingface
from scaling.handoff.bridge import write as bridge
from scaling.handoff.bridge.read import read_bridge
from scaling.handoff.comparison import differences_of_runs
from scaling.handoff.export import STACKS, export_plan
from scaling.handoff.megatron import write as megatron
from scaling.handoff.megatron.patterns import parse_layer_pattern
from scaling.handoff.megatron.read import read_megatron
from scaling.handoff.olmo_core import write as olmo_core
from scaling.handoff.olmo_core.read import read_olmo_core
from scaling.handoff.torchtitan import write as torchtitan
from scaling.handoff.torchtitan.read import read_torchtitan
from scaling.hf.read import parse_hf_config
from scaling.hf.write import differences
from scaling.plan import TrainingPlan
from tests.scaling.hf.hf_strategies import architectures
from tests.scaling.plans import DEEPSEEK_LIKE, PROXY, training_plan

LAYOUT = {"gpus": 8, "tensor": 2, "expert": 4, "micro_batch_size": 2}
BIG_LAYOUT = {"gpus": 1024, "pipeline": 16, "expert": 8, "micro_batch_size": 1}


@st.composite
def plans(draw: st.DrawFn) -> TrainingPlan:
    """Plans of small models, laid out over GPUs or not, with every schedule."""
    model = draw(architectures())
    steps, batch = draw(st.integers(3, 10_000)), draw(st.sampled_from([64, 96]))
    length = draw(st.sampled_from([64, 4096]))
    tokens = steps * batch * length - draw(st.integers(0, batch * length - 1))
    changes: dict[str, Any] = {
        "tokens": tokens,
        "sequence_length": length,
        "batch_tokens": batch * length,
        "schedule": {
            "kind": draw(st.sampled_from(["wsd", "cosine"])),
            "warmup_tokens": draw(st.integers(0, tokens // 4)),
            "decay_tokens": draw(st.integers(1, tokens // 2)),
            "decay_shape": draw(st.sampled_from(["sqrt", "linear"])),
            "final_learning_rate_fraction": draw(st.sampled_from([0.0, 0.1])),
        },
        "optimizer": {
            "learning_rate": draw(st.floats(1e-5, 1e-2)),
            "embedding_learning_rate": draw(st.none() | st.floats(1e-5, 1e-2)),
            "beta2": draw(st.sampled_from([0.95, 0.99])),
            "grad_clip": draw(st.sampled_from([0.5, 1.0])),
            "source": "test",
            "weight_decay": 0.05,
        },
        "precision": draw(st.sampled_from(["bf16", "fp32", "fp8"])),
    }
    if draw(st.booleans()):
        changes["batch_ramp"] = {"start_batch_tokens": 32 * length, "increment_tokens": 16 * length,
                                 "ramp_tokens": draw(st.integers(length, tokens))}  # fmt: skip
    if draw(st.booleans()):
        pipeline = draw(st.integers(1, model.num_layers))
        virtual = draw(st.integers(1, model.num_layers // pipeline)) if pipeline > 1 else 1
        expert = draw(st.sampled_from([1, 2, 4])) if model.is_moe else 1
        layout = {"gpus": 4 * pipeline, "pipeline": pipeline, "virtual_pipeline": virtual, "expert": expert}
        layout |= {"micro_batch_size": 2, "recompute": draw(st.sampled_from(["none", "selective", "full"]))}
        changes["layout"] = layout
    return training_plan(model, **changes)


def assert_same(read: Run, planned: Run) -> None:
    assert not differences(planned.model, read.model)
    assert not differences_of_runs(read, planned)


READERS = {
    "megatron": lambda folder, gpus: read_megatron(folder / megatron.FILE),
    "megatron-bridge": lambda folder, gpus: read_bridge(folder / bridge.FILE, gpus=gpus),
    "torchtitan": lambda folder, gpus: read_torchtitan(folder / "training_plan" / "config_registry.py", gpus=gpus),
    "olmo-core": lambda folder, gpus: read_olmo_core(folder / olmo_core.FILE, gpus=gpus),
}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=plans())
def test_what_a_stack_is_given_reads_back_as_the_plan(
    plan: TrainingPlan, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, planned = tmp_path_factory.mktemp("export"), run_of(plan)
    assert 0 <= planned.warmup_steps < planned.steps and planned.decay_steps >= 1
    gpus = plan.layout.gpus if plan.layout else None
    for name, stack in STACKS.items():
        try:
            export_plan(plan, [name], folder)
        except UserError as error:
            refusals = ("cannot be given to", "no Hugging Face class", "micro-batches of a step")
            assert any(text in str(error) for text in refusals)
            continue
        if stack is huggingface:
            config = json.loads((folder / "config.json").read_text())
            assert not differences(plan.model, parse_hf_config(config, "config.json").architecture)
            continue
        read = READERS[name](folder, gpus)
        assert_same(read, stack.expressed(planned))
        lost = differences_of_runs(stack.expressed(planned), planned)
        assert set(lost) <= {"precision", "embedding_learning_rate", "decay_shape"}
        notes = " ".join(stack.omissions(plan))
        assert all(word in notes for word in ({"decay_shape": "straight line"}.get(key, key) for key in lost))
    assert TrainingPlan.load(folder / "plan.yaml") == plan if (folder / "plan.yaml").exists() else True


def test_all_stacks_get_a_folder_each_and_one_gets_the_folder(tmp_path: Path) -> None:
    plan = training_plan(PROXY, layout=LAYOUT)
    export_plan(plan, ["all"], tmp_path / "all")
    written = {str(path.relative_to(tmp_path / "all")) for path in (tmp_path / "all").rglob("*") if path.is_file()}
    assert written == {
        "plan.yaml", "hf/config.json", "megatron/model_config.yaml", "torchtitan/training_plan/__init__.py",
        "torchtitan/training_plan/config_registry.py", "megatron-bridge/megatron_bridge.yaml",
    }  # fmt: skip
    export_plan(plan, ["hf"], tmp_path / "one")
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"plan.yaml", "config.json"}


def test_all_leaves_out_the_stack_that_cannot_and_says_why(tmp_path: Path) -> None:
    plan = training_plan({**DEEPSEEK_LIKE, "moe_output_norm": True})
    done = {one.stack: one for one in export_plan(plan, ["all"], tmp_path)}
    assert done["hf"].files and done["megatron"].files and not done["torchtitan"].files
    assert "model.moe_output_norm True cannot be given" in done["torchtitan"].omissions[0]
    assert not (tmp_path / "torchtitan").exists()


def test_every_file_names_its_target() -> None:
    plan = training_plan(PROXY, layout=LAYOUT)
    assert "Megatron-LM d98e8a64dd" in megatron.files(plan)[megatron.FILE].splitlines()[0]
    for text in torchtitan.files(plan).values():
        assert "torchtitan 0.3.0" in text.splitlines()[0]
    config = json.loads(huggingface.files(plan)["config.json"])
    assert config["transformers_version"] == "5.23.0"
    assert config["eos_token_id"] == 0 and config["max_position_embeddings"] == 128


def test_megatron_flags_of_a_latent_attention_model() -> None:
    plan = training_plan(DEEPSEEK_LIKE, layout=BIG_LAYOUT)
    flags = yaml.safe_load(megatron.files(plan)[megatron.FILE])["MODEL_ARGS"]
    assert flags["--moe-layer-freq"] == "([0]*1+[1]*60)"
    assert flags["--rope-type"] == "rope" and flags["--qk-layernorm"] is True
    assert flags["--make-vocab-size-divisible-by"] == 163840
    assert flags["--lr-decay-style"] == "WSD" and flags["--lr-wsd-decay-style"] == "minus_sqrt"
    stages = flags["--pipeline-model-parallel-layout"].split("|")
    assert len(stages) == 16 and stages[0] == "Et*3" and stages[-1] == "t*2L"  # the head counts as a layer
    known = (Path(megatron.__file__).parent / "flags.txt").read_text().split()
    assert set(flags) <= set(known)


def test_megatron_lengths_in_iterations_mean_the_same(tmp_path: Path) -> None:
    plan = training_plan(PROXY)
    content = yaml.safe_load(megatron.files(plan)[megatron.FILE])
    flags = content["MODEL_ARGS"]
    for name in ("--train", "--lr-decay", "--lr-warmup", "--lr-wsd-decay"):
        flags[f"{name}-iters"] = flags.pop(f"{name}-samples") // plan.batch_size
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(content))
    assert read_megatron(tmp_path / "x.yaml") == run_of(plan)


def test_the_norm_of_axk1_is_a_named_omission_or_a_refusal() -> None:
    plan = training_plan({**DEEPSEEK_LIKE, "moe_output_norm": True})
    assert "430,080 parameters fewer" in megatron.files(plan)[megatron.FILE]
    assert json.loads(huggingface.files(plan)["config.json"])["model_type"] == "axk1"
    with pytest.raises(UserError, match=r"model\.moe_output_norm True cannot be given to torchtitan"):
        torchtitan.files(plan)


@pytest.mark.parametrize(
    ("stack", "change", "message"),
    [
        ("megatron", {"qk_norm": "full_width"}, "model.qk_norm 'full_width' cannot be given to Megatron-LM"),
        ("megatron", {"expert_bias": True}, "model.expert_bias True cannot"),
        ("megatron", {"router_normalize": False}, "model.router_normalize False cannot"),
        ("megatron", {"router_score_function": "softmax"}, "model.router_selection_bias True cannot"),
        ("torchtitan", {"shared_expert_gate": True}, "model.shared_expert_gate True cannot be given to torchtitan"),
        ("torchtitan", {"attention_bias": True}, "model.attention_bias True cannot"),
        ("hf", {"qk_norm": "full_width"}, "no Hugging Face class of transformers has qk_norm 'full_width'"),
        ("meagtron", {}, "--stack is 'meagtron' (did you mean 'megatron'?)"),
    ],
)
def test_what_a_stack_cannot_say_is_refused_and_nothing_is_written(
    stack: str, change: dict, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        export_plan(training_plan({**PROXY, **change}), [stack], tmp_path / "out")
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_name_cannot_break_out_of_the_files(tmp_path: Path) -> None:
    plan = training_plan(PROXY, name='x"""\nimport os\n\\')
    for text in torchtitan.files(plan).values():
        assert not any(isinstance(node, ast.Import) for node in ast.parse(text).body)
    path = tmp_path / megatron.FILE
    path.write_text(megatron.files(plan)[megatron.FILE])
    assert read_megatron(path) == run_of(plan)


def test_the_tokenizer_goes_with_every_export(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.BPE(vocab={"<|endoftext|>": 0, "a": 1, "b": 2, "ab": 3}, merges=[("a", "b")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_special_tokens(["<|endoftext|>"])
    made.save(str(tmp_path / "tokenizer.json"))
    choice = {"vocab_size": 4, "file": str(tmp_path / "tokenizer.json"), "source": "test"}
    plan = training_plan(PROXY, tokenizer=choice)
    export_plan(plan, ["all"], tmp_path / "out")
    for place in ("hf", "megatron/tokenizer", "torchtitan/tokenizer"):
        assert (tmp_path / "out" / place / "tokenizer.json").is_file()
    transformers = pytest.importorskip("transformers")
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "out" / "hf")
    assert loaded("abba<|endoftext|>")["input_ids"] == [3, 2, 1, 0] and loaded.eos_token_id == 0
    with pytest.raises(UserError, match=r"has 4 tokens but tokenizer\.vocab_size is 5"):
        export_plan(training_plan(PROXY, tokenizer=choice | {"vocab_size": 5}), ["hf"], tmp_path / "wrong")
    absent = training_plan(PROXY, tokenizer=choice | {"file": "gone/tokenizer.json"})
    assert any("gone/tokenizer.json is not on this machine" in note for note in huggingface.omissions(absent))


@pytest.mark.parametrize(
    ("text", "pattern"),
    [("([0]*3+[1]*2)", [0, 0, 0, 1, 1]), ("[0,1]*2+[1]", [0, 1, 0, 1, 1]), (2, [1, 0, 1, 0, 1]), (1, [1] * 5)],
)
def test_layer_patterns(text: Any, pattern: list[int]) -> None:
    assert parse_layer_pattern(text, 5, "x") == pattern


OLMOE = {**PROXY, "router_scaling_factor": 1.0}
SCHEDULE = {"warmup_tokens": 50_000, "decay_tokens": 200_000}


def test_olmo_core_says_that_it_decays_in_a_straight_line() -> None:
    plan = training_plan(OLMOE)
    assert any("half-way down its rate is 0.00022 instead of 0.000145" in note for note in olmo_core.omissions(plan))
    straight = training_plan(OLMOE, schedule={**SCHEDULE, "decay_shape": "linear"})
    assert not any("straight line" in note for note in olmo_core.omissions(straight))
