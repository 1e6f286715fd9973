"""What a reader of a run's numbers should know about its text: repeated tokens, windows longer than documents."""

import math

from trainer_small.config import RunConfig
from trainer_small.token_reader import TokenReader


def cautions(config: RunConfig, reader: TokenReader) -> tuple[str, ...]:
    """One sentence for each."""
    found = []
    tokens = config.training.tokens_trained
    epochs = reader.epochs(tokens)
    if epochs > 1:
        unique = reader.windows * reader.sequence_length
        worth = fresh_tokens(tokens, unique)
        found.append(
            f"{tokens} tokens are {epochs:.2f} epochs of the corpus's {unique}; by arXiv 2305.16264 they are worth "
            f"{worth:.4g} fresh ones ({worth / tokens:.1%}), so a law of the loss in tokens should not take them as new"
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
    from fits.coefficients import published  # SciPy loads only when a corpus repeats

    scale = published("muennighoff").record.coefficients["R_D"]
    if tokens <= unique:
        return tokens
    return unique + unique * scale * (1 - math.exp(-(tokens / unique - 1) / scale))
