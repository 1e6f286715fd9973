"""What a reader of a run's numbers should know about its text: repeated tokens, windows longer than documents."""

import math

from trainer_small.config import RunConfig
from trainer_small.data.token_reader import TokenReader


def cautions(config: RunConfig, reader: TokenReader) -> tuple[str, ...]:
    """One sentence for each."""
    found = []
    for use in reader.use(config.training.tokens_trained):
        if use.epochs > 1:
            worth = fresh_tokens(use.tokens, use.unique_tokens)
            found.append(
                f"{use.tokens} tokens of '{use.name}' are {use.epochs:.2f} epochs of its {use.unique_tokens}; by arXiv "
                f"2305.16264 they are worth {worth:.4g} fresh ones ({worth / use.tokens:.1%}): a law of the loss in "
                "tokens should not take them as new"
            )
    longest = reader.longest_document
    if config.training.sequence_length > longest:
        found.append(
            f"sequence_length {config.training.sequence_length} is longer than any document (the longest has {longest} "
            "tokens with its end), so every window joins several"
        )
    return tuple(found)


def fresh_tokens(tokens: float, unique: float) -> float:
    """Tokens of fresh text worth as much as ``tokens`` that repeat ``unique`` ones: U + U R (1 - exp(-(D/U - 1) / R)),
    R = 15.39 (arXiv 2305.16264, eq. 5)."""
    from fits.laws.coefficients import published  # SciPy loads only when a corpus repeats

    scale = published("muennighoff").record.coefficients["R_D"]
    if tokens <= unique:
        return tokens
    return unique + unique * scale * (1 - math.exp(-(tokens / unique - 1) / scale))
