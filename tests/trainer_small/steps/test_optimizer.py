"""Muon beside AdamW: orthogonal steps, the same decay for all, memory and batch that follow the recipe."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from fits.errors import UserError
from trainer_small.architecture import Architecture
from trainer_small.config import RunSpec
from trainer_small.model.model import Model
from trainer_small.runs.run import run_one
from trainer_small.steps import muon
from trainer_small.steps.muon import Muon, orthogonalize
from trainer_small.steps.optimizer import make_optimizer, muon_rows, set_learning_rate
from trainer_small.steps.parametrization import initialize
from trainer_small.training_config import TrainingConfig

MakeArchitecture = Callable[..., Architecture]
RunFolder = Callable[..., Path]
SameRun = Callable[[Path, Path], None]


def _recipe(**changes: Any) -> TrainingConfig:
    return TrainingConfig.parse({"tokens": 2e5, "learning_rate": 0.01} | changes, "training")


@pytest.mark.parametrize("shape", [(24, 48), (5, 16, 40), (3, 40, 16), (2, 3, 8, 20)])
def test_every_matrix_of_a_stack_becomes_orthogonal(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if len(shape) == 3:
        matrices *= torch.tensor([1e-6, 1, 1e3, 1, 1])[: shape[0], None, None]  # gradients of any size
    out = orthogonalize(matrices, torch.float32)
    values = torch.linalg.svdvals(out)
    assert values.min() > 0.3 and values.max() < 1.3
    if len(shape) == 3:  # a stack is what its matrices are alone
        alone = torch.stack([orthogonalize(matrix, torch.float32) for matrix in matrices])
        assert torch.allclose(out, alone, atol=1e-5)
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    overlap = (out * (u @ v)).sum((-2, -1)) / (out.norm(dim=(-2, -1)) * (u @ v).norm(dim=(-2, -1)))
    assert overlap.min() > 0.95


def test_bfloat16_products_give_nearly_the_same_direction() -> None:
    matrices = torch.randn(4, 32, 48, generator=torch.Generator().manual_seed(0))
    exact, rough = (orthogonalize(matrices, dtype) for dtype in (torch.float32, torch.bfloat16))
    assert rough.dtype == torch.float32
    assert torch.cosine_similarity(exact.flatten(1), rough.flatten(1)).min() > 0.99


@pytest.mark.parametrize("width", [16, 64])
def test_a_step_has_the_spectral_norm_that_was_asked(width: int) -> None:
    weight = torch.nn.Parameter(torch.zeros(3, 2 * width, 4 * width))
    optimizer = Muon(
        [{"params": [weight], "lr": 0.1, "rows": (width, width)}],
        momentum=0.9,
        betas=(0.9, 0.95),
        eps=1e-12,
        dtype=torch.float32,
    )
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    optimizer.step()
    for part in weight.detach().split((width, width), -2):
        assert torch.linalg.matrix_norm(part, 2).max() == pytest.approx(0.1 * (width / (4 * width)) ** 0.5, rel=0.3)


def test_what_muon_leaves_is_moved_as_by_adamw(tiny_architecture: MakeArchitecture) -> None:
    moved: list[dict[str, torch.Tensor]] = []
    for kind in ("adamw", "muon"):
        model, recipe = Model(tiny_architecture()), _recipe(optimizer=kind)
        initialize(model, recipe, 0)
        optimizer = make_optimizer(model, recipe)
        for step in range(3):
            set_learning_rate(optimizer, recipe, step)
            generator = torch.Generator().manual_seed(step)
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
        moved.append({name: value.detach() for name, value in model.named_parameters()})
    shapes = {name: value.shape for name, value in moved[0].items()}
    by_muon = {name for name, shape in shapes.items() if muon_rows(name, shape, tiny_architecture())}
    assert any("gate_up_proj" in name for name in by_muon) and any("qkv_proj" in name for name in by_muon)
    assert not any(word in name for name in by_muon for word in ("embedding", "lm_head", "router", "norm"))
    for name in shapes:
        assert torch.equal(moved[0][name], moved[1][name]) == (name not in by_muon), name


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("parametrization", ["mup", "standard"])
def test_all_that_decays_forgets_at_the_same_pace(
    tiny_architecture: MakeArchitecture, kind: str, parametrization: str
) -> None:
    recipe = _recipe(optimizer=kind, parametrization=parametrization, weight_decay_timescale=0.2, weight_decay=7)
    groups = make_optimizer(Model(tiny_architecture()), recipe).param_groups
    decays = {round(group["peak"] * group["weight_decay"], 12) for group in groups}
    assert decays == {0.0, round(1 / (0.2 * recipe.steps), 12)}
    assert _recipe(weight_decay=0.1).decay_per_step == pytest.approx(0.001)


def test_muon_learns_and_resumes_to_the_same_bits(run_folder: RunFolder, same_run: SameRun) -> None:
    training = {"optimizer": "muon", "tokens": 128 * 60, "beta2_half_life_tokens": 2000}
    whole, parts = run_folder("whole", training=training), run_folder("parts", training=training)
    result = run_one(whole)
    assert result.losses and result.losses.loss < result.losses.unigram_loss
    count = iter(range(100))
    assert run_one(parts, stop=lambda: next(count) == 20).status == "interrupted"
    run_one(parts)
    same_run(whole, parts)
    assert run_one(run_folder("rough", training=training, dtype="bfloat16")).status == "done"


RAMP = {"sequence_length": 32, "batch_tokens": 256, "tokens": 256 * 40}
STAGES = [{"until_tokens": 640, "batch_tokens": 64}, {"until_tokens": 1900, "batch_tokens": 128}]


@given(step=st.integers(0, 200))
@settings(deadline=None)
def test_steps_and_tokens_convert_both_ways_on_a_ramp(step: int) -> None:
    recipe = _recipe(**RAMP, batch_ramp=STAGES)
    assert recipe.step_at(recipe.tokens_at(step)) == step
    assert recipe.batch_at(step) == (64 if step < 10 else 128 if step < 20 else 256)
    assert recipe.tokens_at(step) == sum(recipe.batch_at(earlier) for earlier in range(step))
    assert abs(recipe.tokens_trained - recipe.tokens) <= 128


def test_a_ramp_trains_resumes_and_branches(run_folder: RunFolder, same_run: SameRun) -> None:
    ramp = RAMP | {"batch_ramp": STAGES, "warmup_tokens": 256}
    trunk = run_folder("trunk", training=ramp, saved_at=[256 * 16])
    result = run_one(trunk)
    assert result.counts and result.counts.tokens == _recipe(**ramp).tokens_trained
    short = ramp | {"tokens": 256 * 24}
    branch, alone = (
        run_folder("branch", training=short, trunk={"run_id": "trunk", "tokens": 256 * 16}),
        run_folder("alone", training=short),
    )
    run_one(branch)
    run_one(alone)
    same_run(branch, alone)


def test_memory_in_tokens_follows_the_batch() -> None:
    recipe = _recipe(**RAMP, batch_ramp=STAGES, beta2_half_life_tokens=1280)
    assert recipe.beta2_at(0) ** 20 == pytest.approx(0.5)
    assert recipe.beta2_at(30) ** 5 == pytest.approx(0.5)


def test_a_law_gives_the_batch() -> None:
    with pytest.warns(UserWarning, match="outside|below|recalled"):
        recipe = _recipe(tokens=1e8, batch_law="steplaw-batch", sequence_length=256)
    assert recipe.batch_tokens == round(0.58 * 1e8**0.571 / 256) * 256
    again = TrainingConfig.parse(recipe.model_dump(mode="json"), "training")
    assert again == recipe
    assert _recipe(batch_law="steplaw-batch", batch_tokens=512).batch_tokens == 512


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_law": "steplaw-learning-rate"}, "is not a law of the batch in tokens"),
        ({"batch_law": "steplaw-bach"}, "steplaw-bach"),
        ({"batch_ramp": [{"until_tokens": 640, "batch_tokens": 50}]}, "batch_ramp's batch_tokens 50 is not a multiple"),
        ({"batch_ramp": STAGES[::-1]}, "must rise and end below tokens"),
        ({"batch_ramp": [{"until_tokens": 1e9, "batch_tokens": 64}]}, "must rise and end below tokens"),
        ({"weight_decay_timescale": 0}, "weight_decay_timescale is 0"),
        ({"muon_momentum": 1}, "muon_momentum is 1"),
    ],
)
def test_mistakes_are_one_sentence(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as fault:
        _recipe(**({"sequence_length": 32, "tokens": 10240} | changes))
    assert words in str(fault.value) and "\n" not in str(fault.value)


def test_a_trunk_s_decay_must_not_follow_its_horizon(run_spec: Callable[..., RunSpec], run_folder: RunFolder) -> None:
    recipe = {"warmup_tokens": 256, "weight_decay_timescale": 0.5}
    run_one(run_folder("trunk", training=recipe, saved_at=[128 * 10]))
    branch = run_folder("branch", training=recipe | {"tokens": 128 * 20}, trunk={"run_id": "trunk", "tokens": 128 * 10})
    with pytest.raises(UserError, match=r"training\.weight_decay"):
        run_one(branch)


_HELD = {"experts": ((3, 16, 12), (8, 8)), "tall": ((24, 10), (24,)), "queries": ((16, 12), (8, 4, 4))}
_HELD |= {"wide": ((6, 20), (6,)), "down": ((3, 12, 8), (12,)), "twin": ((3, 16, 12), (8, 8))}


@pytest.mark.parametrize("together", [1, 200, 10**6])
def test_matrices_that_go_together_move_as_they_would_alone(monkeypatch: pytest.MonkeyPatch, together: int) -> None:
    monkeypatch.setattr(muon, "_TOGETHER", {"cpu": together})
    torch.manual_seed(0)
    start = {name: torch.randn(shape) for name, (shape, _) in _HELD.items()}
    parameters = {name: torch.nn.Parameter(value.clone()) for name, value in start.items()}
    rates = {name: 0.01 * (at + 1) for at, name in enumerate(_HELD)}
    groups = [
        {"params": [parameters[name]], "lr": rates[name], "weight_decay": 0.1, "rows": rows}
        for name, (_, rows) in _HELD.items()
    ]
    optimizer = Muon(groups, momentum=0.9, betas=(0.9, 0.95), eps=1e-12, dtype=torch.float32)
    momenta = {name: torch.zeros_like(value) for name, value in start.items()}
    for _ in range(3):
        for name, (shape, rows) in _HELD.items():
            gradient = torch.randn(shape)
            parameters[name].grad = gradient
            momenta[name] = 0.9 * momenta[name] + 0.1 * gradient
            ahead = 0.1 * gradient + 0.9 * momenta[name]
            parts = [orthogonalize(part, torch.float32) * (part.shape[-2] / part.shape[-1]) ** 0.5
                     for part in ahead.split(rows, -2)]  # fmt: skip
            start[name] = start[name] * (1 - 0.1 * rates[name]) - rates[name] * torch.cat(parts, -2)
        optimizer.step()
        for name, value in start.items():
            torch.testing.assert_close(parameters[name].detach(), value, rtol=1e-4, atol=1e-5)


class _Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "view" not in str(func) and "split" not in str(func) and "slice" not in str(func)
        return func(*args, **(kwargs or {}))


def test_a_step_is_as_many_operators_for_more_layers_and_experts(tiny_architecture: MakeArchitecture) -> None:
    """On a GPU each is a launch, which takes longer than a small matrix."""
    counts = []
    for changes in ({"num_layers": 3}, {"num_layers": 7}, {"num_layers": 7, "num_experts": 16}):
        model = Model(tiny_architecture(**changes))
        model.device_type = "cuda"
        optimizer = make_optimizer(model, _recipe(optimizer="muon"))
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        with _Operators() as operators:
            optimizer.step()
        counts.append(operators.count)
    assert counts[0] == counts[1] == counts[2] < 250


def test_ranks_may_share_the_work(tiny_architecture: MakeArchitecture) -> None:
    """Of matrices that are the same on all of them."""
    moved, sizes = [], []

    def share(matrices: torch.Tensor) -> torch.Tensor:
        sizes.append(len(matrices))
        parts = matrices.split((1, len(matrices) - 1)) if len(matrices) > 1 else [matrices]
        return torch.cat([orthogonalize(part, torch.float32) for part in parts])

    for shared in (False, True):
        model, recipe = Model(tiny_architecture()), _recipe(optimizer="muon")
        initialize(model, recipe, 0)
        optimizer = make_optimizer(model, recipe)
        assert isinstance(optimizer, Muon)
        if shared:
            optimizer.param_groups[0]["own"] = optimizer.param_groups[0]["rows"] is not None
            optimizer.share = share
        set_learning_rate(optimizer, recipe, 5)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        optimizer.step()
        moved.append([parameter.detach() for parameter in model.parameters()])
    assert sizes
    for one, other in zip(*moved, strict=True):
        torch.testing.assert_close(one, other)
