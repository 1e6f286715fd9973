"""The grouped product in bfloat16 against the plain loop in float64, at every edge of routing."""

import pytest
import torch

from trainer_small.model.dispatch import Dispatch, apply_experts

pytestmark = pytest.mark.gpu

_CASES = {
    # tokens, choices, experts, hidden, expert width
    "plain": (512, 2, 8, 128, 64),
    "fine": (512, 8, 64, 256, 64),
    "odd widths": (200, 2, 6, 100, 36),
    "odd tokens": (77, 3, 5, 64, 32),
    "more experts than tokens": (20, 2, 128, 64, 32),
    "more groups than one kernel takes": (600, 2, 1100, 32, 16),
}


def _outputs(dispatch: Dispatch, dtype: torch.dtype, case: list[torch.Tensor]) -> list[torch.Tensor]:
    """What comes out and the gradients, in float64."""
    x, indices, weights, gate_up, down, probe = case
    leaves = [part.to(dtype).requires_grad_() for part in (x, weights, gate_up, down)]
    out = apply_experts(leaves[0], indices, leaves[1], leaves[2], leaves[3], dispatch)
    gradients = torch.autograd.grad((out * probe.to(dtype)).sum(), leaves)
    return [part.double() for part in (out.detach(), *gradients)]


@pytest.mark.parametrize("routing", ["any", "all to one expert", "an expert with no token"])
@pytest.mark.parametrize("case", _CASES.values(), ids=_CASES)
def test_the_grouped_product_equals_the_loop(case: tuple[int, ...], routing: str, device: torch.device) -> None:
    tokens, k, experts, hidden, size = case
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device, torch.bfloat16).double()

    indices = torch.rand(tokens, experts, generator=generator).topk(k).indices.to(device)
    if routing == "all to one expert":
        indices = torch.full_like(indices, experts // 2)
    elif routing == "an expert with no token":
        indices = indices.clamp_min(1)
    weights = torch.rand(tokens, k, generator=generator).to(device, torch.bfloat16).double()
    inputs = [random(tokens, hidden), indices, weights]
    inputs += [random(experts, 2 * size, hidden) * hidden**-0.5, random(experts, hidden, size) * size**-0.5]
    inputs.append(random(tokens, hidden))
    for ours, truth in zip(
        _outputs("grouped", torch.bfloat16, inputs), _outputs("loop", torch.float64, inputs), strict=True
    ):
        assert (ours - truth).norm() < 0.02 * truth.norm()
