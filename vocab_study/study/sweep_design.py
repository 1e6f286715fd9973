"""Which runs tell the best vocabulary size: some models, each at every size for the same training FLOPs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from fits.errors import UserError
from trainer_small.architecture import Architecture
from trainer_small.designs.recipe import BASE_EXPERTS, Recipe, run_by, template
from trainer_small.ladder import Family, usual_depth
from trainer_small.sweeps.sweep import Sweep

FEWEST_STEPS = 50


def design_vocabulary_sweep(
    *,
    corpus: str | Path,
    tokenizers: Mapping[int, str | Path],
    budget_flops: float,
    hidden_sizes: Sequence[int] = (32, 64),
    seeds: int = 2,
    validation_bytes: int = 2**20,
    recipe: Recipe = None,
) -> Sweep:
    """IsoFLOP slices over the vocabulary.

    Each model is trained at every size with the same FLOPs, so a larger vocabulary, which costs more a token, sees
    fewer tokens (as in arXiv 2407.13623, approach 1). The models' budgets stand as their FLOPs a token at the middle
    size, so that all of them see about the same text.

    Args:
        corpus: corpus folder, as the sweep file will name it (relative to that file).
        tokenizers: tokenizer file of each vocabulary size, as the sweep file will name it.
        budget_flops: training FLOPs of all runs together; never exceeded.
        hidden_sizes: width of each model.
        seeds: runs of each model and size, with other seeds: their scatter is the noise.
        validation_bytes: text to score, the same for every run, unless the recipe says it.
        recipe: as in ``trainer_small.design_sweep``.

    Raises:
        UserError: fewer than three sizes, which cannot show an optimum, or a budget that is too small.
    """
    sizes = sorted(tokenizers)
    if len(sizes) < 3:
        raise UserError(
            f"{len(sizes)} vocabulary sizes cannot show an optimum; give at least 3, such as 1024,4096,16384."
        )
    if not hidden_sizes or seeds < 1:
        raise UserError(f"{len(hidden_sizes)} models and {seeds} seeds are no sweep; give at least one of each.")
    shared = template(recipe, evaluation={"validation_bytes": validation_bytes})
    training = shared.training

    def shape(hidden_size: int, vocab_size: int) -> Architecture:
        return Family().shape(hidden_size, round(usual_depth(hidden_size)), BASE_EXPERTS, vocab_size)

    def cost(hidden_size: int, vocab_size: int) -> int:
        return shape(hidden_size, vocab_size).flops_per_token(training.sequence_length)

    middle = sizes[len(sizes) // 2]
    shares = {width: cost(width, middle) for width in hidden_sizes}
    each = budget_flops / (sum(shares.values()) * len(sizes) * seeds)
    runs = []
    for seed in range(seeds):
        for width, share in shares.items():
            for size in sizes:
                reached = each * share / cost(width, size) / training.batch_tokens
                steps = int(reached)
                if steps < FEWEST_STEPS:
                    raise UserError(
                        f"a budget of {budget_flops:.3g} FLOPs leaves width {width} at size {size} {steps} steps; "
                        f"give at least {budget_flops * FEWEST_STEPS / reached:.3g} FLOPs or fewer runs."
                    )
                run = run_by(
                    shared,
                    f"d{width}-v{size}" + (f"-s{seed}" if seed else ""),
                    purpose="vocabulary",
                    architecture=shape(width, size),
                    seed=seed,
                    training={"tokens": steps * training.batch_tokens},
                )
                runs.append(run)
    return Sweep(
        name="vocabulary",
        purpose="loss against the vocabulary size at equal training FLOPs, with the noise of seeds",
        corpus=str(corpus),
        tokenizers={size: str(path) for size, path in tokenizers.items()},
        runs=tuple(runs),
    )
