"""Published fits redone from the public run tables beside the repository; writes docs/reproductions.md.

Run: python benchmarks/fits/reproductions.py [PAPER ...] [--data FOLDER]
Some papers are printed alone, and the page stays as it is; their names are those of the files in ``papers``.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from benchmarks.fits.papers import (
    besiroglu2024,
    clark2022,
    flame2025,
    gadre2024,
    gemstones2025,
    marin2026,
    misfitting2025,
    muennighoff2023,
    olmo2024,
    openathena2026,
    porian2024,
    steplaw2025,
    tao2024,
    tao2024_refitted,
)
from benchmarks.shared import DATA
from fits.files import write_text

FIGURES = {
    "besiroglu2024": besiroglu2024,
    "porian2024": porian2024,
    "gadre2024": gadre2024,
    "gemstones2025": gemstones2025,
    "steplaw2025": steplaw2025,
    "muennighoff2023": muennighoff2023,
    "clark2022": clark2022,
    "tao2024": tao2024,
    "tao2024_refitted": tao2024_refitted,
    "openathena2026": openathena2026,
    "olmo2024": olmo2024,
    "marin2026": marin2026,
    "flame2025": flame2025,
}
"""Papers with figures to set ours beside, in the page's order."""
MISFITTING = "misfitting2025"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "reproductions.md"

HEADING = """# Reproductions

Made by `benchmarks/fits/reproductions.py` from public run tables. An objective below the published one means that the
published fit had not reached its minimum. Differences are relative.

| source | figure | published | ours | difference |
| --- | --- | ---: | ---: | ---: |
"""

CHOICES = """
## What the choices do

One public table, (Mis)Fitting (arXiv 2502.18969), fitted under each choice that papers make without saying so. The
exponent of N*(C) with its 95 % interval, and the advice at 1e21 FLOPs.

| runs | N counts | objective | exponent of N*(C) | N* | D* |
| --- | --- | --- | --- | ---: | ---: |
"""


def figures(name: str, data: Path) -> Iterator[str]:
    """Lines of the first table."""
    paper = FIGURES[name]
    for what, published, ours in paper.rows(data):
        difference = (ours - published) / abs(published)
        yield f"| {paper.SOURCE} | {what} | {published:.8g} | {ours:.8g} | {difference:+.2%} |"


def printed(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        print(line, flush=True)
        yield line + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("papers", nargs="*", metavar="PAPER", choices=[*FIGURES, MISFITTING, []], help="all if none")
    parser.add_argument("--data", type=Path, default=DATA)
    given = parser.parse_args()
    if not given.data.is_dir():
        print(f"skipped: the public run tables are not at {given.data}")
        return
    text = HEADING
    for name in FIGURES:
        if name in given.papers or not given.papers:
            text += "".join(printed(figures(name, given.data)))
    text += CHOICES
    if MISFITTING in given.papers or not given.papers:
        text += "".join(printed(misfitting2025.choices(given.data)))
    if not given.papers:
        write_text(PAGE, text)


if __name__ == "__main__":
    main()
