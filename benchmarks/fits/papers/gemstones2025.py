"""Objectives of the released fits in size, and in width and depth."""

import json
from collections.abc import Iterator
from pathlib import Path

import fits
from benchmarks.fits.papers import Row
from fits.tables.files import read_table

SOURCE = "McLeish et al., Gemstones (arXiv 2502.06857)"


def rows(data: Path) -> Iterator[Row]:
    table = read_table(data / "gemstones" / "published_parameters.csv")
    for file, text in zip(table["file"], table["json"], strict=True):
        folder, _, name = file.partition("/")
        stem = name.removesuffix(".json")
        if not folder.startswith("parameters_delta") or "no_embeds" in name:
            continue
        four = stem.startswith("approach_3_width_depth_parameters_grid_search_0_")
        plain = stem.startswith("approach_3_parameters_grid_search_0_")
        path = data / "gemstones" / f"wandb_df_for_fitting_{stem.split('grid_search_0_')[-1]}.jsonl"
        if not path.exists():
            continue
        bind = {"D": "tokens", "loss": "final_loss"}
        if plain or four:
            bind["N"] = "params_active_precise"
        if not plain:
            bind |= {"W": "width", "H": "depth"}
        law = "hoffmann" if plain else "gemstones-shape" if four else "gemstones-width-depth"
        delta = 1e-3 if folder.endswith("-3") else 1e-4
        fit = fits.fit(law, read_table(path), bind=bind, delta=delta, bootstrap=0)
        what = f"objective, {law}, {path.stem.removeprefix('wandb_df_for_fitting_')}, delta {delta:g}"
        yield what, json.loads(text)["loss"]["0"], fit.objective.value
