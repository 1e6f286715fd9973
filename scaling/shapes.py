"""The shapes a plan may choose from: sizes that hardware likes, enumerated."""

from collections.abc import Iterator

from pydantic import PositiveFloat

from fits.errors import UserError
from fits.schema import Count, Schema
from trainer_small.architecture import Architecture
from trainer_small.ladder import Experts, Family, usual_depth


class SearchSpace(Schema):
    """What may vary and what is held; a user's constraints file has these keys."""

    experts: tuple[Experts, ...]
    vocab_size: tuple[Count, ...]
    hidden_size: tuple[Count, ...] = ()
    """Empty: every hardware-friendly width from 32 to 16384."""
    depth_factors: tuple[PositiveFloat, ...] = (0.8, 0.9, 1.0, 1.1, 1.25)
    """Layers tried around the usual depth of a width."""
    family: Family = Family()
    max_params_total: PositiveFloat | None = None
    max_params_active: PositiveFloat | None = None
    tokens_per_parameter: tuple[PositiveFloat, PositiveFloat] = (1.0, 2000.0)
    """Tokens over active parameters, lowest and highest: outside, a shape is not tried."""


def widths() -> list[int]:
    """Hidden sizes from 32 to 16384, in steps of about an eighth to a quarter, multiples of what fills a tile."""
    sizes: list[int] = []
    for low, high, step in ((32, 128, 16), (128, 512, 32), (512, 1024, 64), (1024, 2048, 128), (2048, 4096, 256)):
        sizes += range(low, high, step)
    return sizes + list(range(4096, 8192, 512)) + list(range(8192, 16385, 1024))


def candidates(space: SearchSpace, train_flops: float, sequence_length: int) -> Iterator[tuple[Architecture, Experts]]:
    """Every architecture of the space that the budget can train for a sensible number of tokens.

    Raises:
        UserError: the constraints leave nothing.
    """
    found = False
    low, high = space.tokens_per_parameter
    for hidden_size in space.hidden_size or widths():
        # 6 N^2 x (tokens per parameter) bounds the widths worth building; 12 d^2 a layer is a lower bound of N.
        if 6 * (8 * hidden_size**2 * usual_depth(hidden_size)) ** 2 * low > train_flops:
            continue
        depths = sorted({max(round(usual_depth(hidden_size) * factor), 2) for factor in space.depth_factors})
        for num_layers in depths:
            for experts in space.experts:
                for vocab_size in space.vocab_size:
                    shape = space.family.shape(hidden_size, num_layers, experts, vocab_size)
                    if space.max_params_total and shape.params_total > space.max_params_total:
                        continue
                    if space.max_params_active and shape.params_active > space.max_params_active:
                        continue
                    tokens = train_flops / shape.flops_per_token(sequence_length)
                    if low <= tokens / shape.params_active <= high:
                        found = True
                        yield shape, experts
    if not found:
        raise UserError(
            f"no shape fits a budget of {train_flops:.3g} FLOPs under the constraints; "
            "raise the budget or loosen max_params_total, max_params_active or tokens_per_parameter."
        )
