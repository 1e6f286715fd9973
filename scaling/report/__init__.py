"""``report.html``: what was asked, the answer, the evidence, and what is uncertain, in one self-contained file."""

from pathlib import Path


def write_report(directory: str | Path, out: str | Path) -> Path:
    """Write one HTML file about everything found in a folder of the road from text to plan.

    Reads ``plan.yaml, plan_axk1.yaml, law.json, law_tokens.json, runs.csv, sweep.yaml, study/, corpus/, configs/``;
    what is missing is left out, and the page says so. The file needs no network.

    Returns:
        The path of the file.

    Raises:
        UserError: the folder holds nothing to report, or a file in it is damaged.
    """
    from fits.files import write_text
    from scaling.report.collect import collect
    from scaling.report.page import render

    write_text(out, render(collect(directory)))
    return Path(out)
