"""A compiled model computes what the plain one does, as one graph, and a compiled run ends with the same bits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer_small.architecture import Architecture
from trainer_small.model.model import Model
from trainer_small.runs.checkpoint import load_checkpoint
from trainer_small.runs.run import run_one
from trainer_small.steps.compiled import compile_model, eager
from trainer_small.steps.objective import training_loss

MakeArchitecture = Callable[..., Architecture]
pytestmark = pytest.mark.slow

_MLA = {"attention": "mla", "q_lora_rank": 12, "kv_lora_rank": 8}
_MLA |= {"qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 10, "moe_output_norm": True}
_MLA |= {"num_nextn_predict_layers": 2}


def _gradients(model: Model, windows: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss, objective = training_loss(model, windows, multi_token_weight=0.3)
    objective.backward()
    gradients = {name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None}
    return gradients | {"loss": loss.detach()}


@pytest.mark.parametrize(("changes", "options"), [({"qk_norm": "per_head"}, False), (_MLA, True)])
def test_a_compiled_model_is_one_graph_and_computes_the_same(
    tiny_architecture: MakeArchitecture, changes: dict[str, Any], options: bool
) -> None:
    torch.manual_seed(0)
    model = Model(tiny_architecture(**changes))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    if options:
        model.activation_checkpointing, model.document_separator = True, 7
    windows = torch.randint(0, 512, (4, 33))
    windows[:, [3, 20, 22]] = 7
    expected = _gradients(model, windows)
    load = [router.load.clone() for router in model.routers()]
    compile_model(model)
    for router in model.routers():
        router.load.zero_()
    ours = _gradients(model, windows)
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert all(torch.equal(router.load, before) for router, before in zip(model.routers(), load, strict=True))
    with eager(model), torch.no_grad():  # another shape, and nothing is compiled for it
        assert model(windows[:1, :7])[0].shape == (7, 32)


def test_a_compiled_run_stopped_and_resumed_ends_with_the_same_bits(run_folder: Callable[..., Path]) -> None:
    torch.set_num_threads(2)
    whole, parts = run_folder("whole", compile=True), run_folder("parts", compile=True)
    run_one(whole)
    asked = iter(range(100))
    assert run_one(parts, stop=lambda: next(asked) == 11).status == "interrupted"
    assert run_one(parts).status == "done"
    states = [load_checkpoint(folder, torch.device("cpu")) for folder in (whole, parts)]
    assert states[0] is not None and states[1] is not None
    assert states[0]["model"].keys() == states[1]["model"].keys()
    assert all(torch.equal(value, states[1]["model"][name]) for name, value in states[0]["model"].items())
    assert torch.equal(states[0]["losses"], states[1]["losses"])
