"""Where the numbers come from: files with their hashes, versions, machines."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fits.version import DISTRIBUTION, program_version
from scaling.report.collect import Material
from scaling.report.numbers import short
from scaling.report.points import numbers_of


def provenance(material: Material) -> Iterator[tuple[str, str, str]]:
    """(what, what it is, sha256 or empty) for the reader who wants to check."""
    yield "tool", f"{DISTRIBUTION} {program_version()}", ""
    yield from _corpus(material)
    for file in ("sweep.yaml", "runs.csv", "law.json", "law_tokens.json", "plan.yaml", "plan_axk1.yaml"):
        path = material.directory / file
        if path.is_file():
            yield file, _described(material, file), _sha256(path)
    plan = material.plan
    if plan and plan.provenance.law_sha256:
        match = _sha256_or_empty(material.directory / "law.json") == plan.provenance.law_sha256
        told = "the law.json above" if match else "a law other than the law.json above: plan again, or keep both"
        yield "the plan was made by", told, plan.provenance.law_sha256
    runs = material.runs
    if runs is not None and "device" in runs.columns:
        devices = ", ".join(sorted({str(device) for device in runs["device"].dropna()}))
        seconds = float(np.nansum(numbers_of(runs, "wall_seconds")))
        yield "runs were trained on", devices + (f"; {seconds / 60:.1f} min of training" if seconds else ""), ""


def _corpus(material: Material) -> Iterator[tuple[str, str, str]]:
    manifest, study = material.manifest, material.study
    if manifest is not None:
        sources = ", ".join(f"{source.name} {source.version or ''}".strip() for source in manifest.sources)
        text = (
            f"{short(manifest.train.bytes)} bytes for training, {short(manifest.validation.bytes)} held out; {sources}"
        )
        yield "corpus", text, manifest.fingerprint
    if study is not None:
        text = f"{study.summary.pretokenizer} byte-level BPE to {study.summary.largest_size}, "
        yield "vocabulary study", text + study.summary.trainer, study.summary.fingerprint


def _described(material: Material, file: str) -> str:
    if file == "runs.csv" and material.runs is not None:
        return f"{len(material.runs)} runs"
    if file == "law.json" and material.law is not None:
        return f"{material.law.law}, {material.law.n_runs} runs"
    if file == "law_tokens.json" and material.law_tokens is not None:
        return f"{material.law_tokens.law}, {material.law_tokens.n_runs} runs"
    if file == "plan.yaml" and material.plan is not None:
        return f"tool {material.plan.provenance.tool_version}"
    return ""


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _sha256_or_empty(path: Path) -> str:
    return _sha256(path) if path.is_file() else ""
