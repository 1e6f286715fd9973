"""(Mis)Fitting (arXiv 2502.18969): one table of 261 dense runs, and what each choice does to the exponent."""

from collections.abc import Iterator
from pathlib import Path

import fits
from fits.decisions.allocation import optimal_allocation, surface
from fits.tables.files import read_table


def choices(data: Path) -> Iterator[str]:
    """Rows of a Markdown table."""
    frame = read_table(data / "misfitting" / "scaling_results_last_ckpt_only.csv")
    best = frame.loc[frame.groupby(["N", "D"])["loss"].idxmin()].reset_index(drop=True)
    for rows, table in (("every run", frame), ("best rate of each N and D", best)):
        for counted, column in (("all parameters", "N"), ("without embeddings", "N_no_emb")):
            for objective in ("log-huber", "log-least-squares", "log-asymmetric"):
                fit = fits.fit(
                    "hoffmann",
                    table,
                    bind={"N": column, "D": "D", "loss": "loss"},
                    objective=objective,
                    bootstrap=500,
                    duplicates="keep",
                )
                at = optimal_allocation(surface(fit), 1e21)
                exponent = at.size_exponent
                yield (
                    f"| {rows} ({len(table)}) | {counted} | {objective} | {exponent.value:.3f} "
                    f"({exponent.low:.3f} to {exponent.high:.3f}) | {at.size.value:.3g} | {at.tokens.value:.3g} |"
                )
