"""A folder such as the demo leaves, made in a second: a real design, real fits, losses drawn from a known law."""

from pathlib import Path

import numpy as np
import pandas as pd

import fits
from fits.tables.runs import filter_rows, write_runs
from scaling.plan import (
    Advice,
    BindingConstraint,
    Budget,
    Cluster,
    Extrapolation,
    Layout,
    LayoutEstimate,
    LossPoint,
    Neighbour,
    Optimizer,
    ParetoPoint,
    Prediction,
    Provenance,
    Range,
    Schedule,
    TokenizerChoice,
    TrainingPlan,
)
from trainer_small.architecture import Architecture
from trainer_small.designs.design import design_sweep
from trainer_small.designs.recipe import BASE_EXPERTS
from trainer_small.ladder import Family
from trainer_small.sweeps.sweep import Sweep
from vocab_study.corpus.corpus import build_corpus
from vocab_study.study.make_study import study_vocabulary
from vocab_study.study.study import Study

VOCABULARIES = (300, 400, 520)
BASE = "num_experts == 8 and granularity == 2 and vocab_size == 400"
HOSTILE = "<script>alert('x')</script> & \"quotes\""
"""A name that breaks a page which does not escape."""


def make_folder(directory: Path, *, bootstrap: int = 100) -> Path:
    """Corpus, study, sweep, runs, two laws and two plans in ``directory``."""
    study = _corpus_and_study(directory)
    sweep = design_sweep(
        corpus="corpus",
        tokenizers={size: f"study/tokenizers/{size}/tokenizer.json" for size in VOCABULARIES},
        budget_flops=3e13,
    )
    sweep.save(directory / "sweep.yaml")
    runs = synthetic_runs(sweep, study)
    write_runs(runs, directory / "runs.csv")
    law = fits.fit("moe-bits", runs, bootstrap=bootstrap, level=0.9)
    law.save(directory / "law.json")
    fits.fit("hoffmann", filter_rows(runs, BASE), bootstrap=bootstrap, level=0.9).save(directory / "law_tokens.json")
    small_plan().save(directory / "plan.yaml")
    large_plan().save(directory / "plan_axk1.yaml")
    return directory


def made_once(base: Path) -> Path:
    """The folder, made by the first test module of a session that asks."""
    directory = base / "road"
    return directory if (directory / "plan_axk1.yaml").exists() else make_folder(directory)


def _corpus_and_study(directory: Path) -> Study:
    texts = directory / "texts"
    texts.mkdir(parents=True)
    random = np.random.default_rng(0)
    syllables = [a + b for a in "bcdfglmnprstv" for b in "aeiou"]
    for number in range(40):
        (texts / f"{number}.txt").write_text(" ".join("".join(word) for word in random.choice(syllables, (300, 3))))
    build_corpus([texts], directory / "corpus", validation_fraction=0.2)
    return study_vocabulary(directory / "corpus", directory / "study", max_size=VOCABULARIES[-1], sizes=VOCABULARIES)


def synthetic_runs(sweep: Sweep, study: Study, seed: int = 0) -> pd.DataFrame:
    """The sweep's run table with losses of a known law and 0.3 % of noise."""
    random = np.random.default_rng(seed)
    rows = []
    for run in sweep.runs:
        shape, training = run.architecture, run.training
        tokens, per_token = training.tokens_trained, shape.flops_per_token(training.sequence_length)
        bytes_per_token = study.bytes_per_token(shape.vocab_size, split="train")
        sparsity, size = 1 / shape.activation_ratio, shape.params_active_non_embedding
        bits = (
            0.9
            + 12 * size**-0.3 * sparsity**-0.12 * shape.granularity**-0.05
            + 300 * (tokens * bytes_per_token) ** -0.4
            + 0.02 * (np.log(shape.vocab_size) - 6.2) ** 2
        ) * np.exp(random.normal(0, 0.003))
        rows.append(
            {
                "run_id": run.run_id,
                "status": "done",
                "purpose": run.purpose,
                "seed": run.seed,
                **{name: getattr(shape, name) for name in _SHAPE_COLUMNS},
                "flops_per_token": per_token,
                "tokens": tokens,
                "train_flops": per_token * tokens,
                "train_bytes": tokens * bytes_per_token,
                "sequence_length": training.sequence_length,
                "batch_tokens": training.batch_tokens,
                "learning_rate": training.learning_rate,
                "loss": bits * np.log(2) * bytes_per_token,
                "bits_per_byte": bits,
                "wall_seconds": 10.0,
                "device": "cpu",
            }
        )
    return pd.DataFrame(rows)


_SHAPE_COLUMNS = (
    "vocab_size",
    "hidden_size",
    "num_layers",
    "num_experts",
    "experts_per_token",
    "num_shared_experts",
    "expert_ffn_size",
    "params_total",
    "params_active",
    "params_active_non_embedding",
    "activation_ratio",
    "granularity",
)


def small_plan() -> TrainingPlan:
    """A plan two decades beyond the runs, with a wide interval, a neighbour without an end and a hostile name."""
    shape = Family().shape(160, 7, BASE_EXPERTS, 400)
    tokens, length = 97_280_000, 128
    points = [LossPoint(tokens=int(tokens * f), value=v, low=v - 0.05, high=v + 0.07) for f, v in _CURVE]
    return _plan(
        "plan",
        f"Which model, and how many tokens, for 1e15 training FLOPs? {HOSTILE}",
        shape,
        tokens,
        length,
        Prediction(
            quantity="bits_per_byte",
            unit="bits/byte",
            value=points[-1].value,
            low=points[-1].low,
            high=points[-1].high,
            interval="90% bootstrap interval of the law's mean at the plan; it holds only if the law's form does",
            law="moe-bits",
            source="fitted to 21 runs",
            curve=tuple(points),
        ),
        Extrapolation(decades_in_train_flops=2.04, decades={"N": 1.1, "H": 1.3}),
        decision={
            "params_active": Range(low=8e5, high=2.9e6),
            "tokens": Range(low=5e7, high=1.9e8),
            "hidden_size": Range(low=128, high=224),
            "num_experts": Range(low=32, high=32),
        },
        flat_region={"params_active": Range(low=1.1e6, high=1.7e6), "hidden_size": Range(low=144, high=176)},
        neighbours=(
            Neighbour(change="hidden_size 160 -> 128", regret=0.021, low=-0.01, high=0.09),
            Neighbour(change="hidden_size 160 -> 192", regret=0.034, low=0.002, high=0.15),
            Neighbour(change="hidden_size 160 -> 224", regret=0.12, low=0.03, high=0.41),
            Neighbour(change="num_experts 8 -> 4", regret=0.62, low=0.2, high=None),
            Neighbour(change="num_experts 8 -> 16", regret=-0.004, low=-0.2, high=0.1),
            Neighbour(change="vocab_size 400 -> 300", regret=None, low=None, high=None),
        ),
        warnings=("the plan spends 110 x the compute of the largest run behind the law (2.0 decades)",),
    )


_CURVE = ((0.01, 2.05), (0.03, 1.85), (0.1, 1.71), (0.3, 1.62), (1.0, 1.555))


def large_plan() -> TrainingPlan:
    """A plan of A.X K1's kind by published laws."""
    family = Family(attention="mla", moe_output_norm=True)
    experts = BASE_EXPERTS.model_copy(update={"num_experts": 192, "experts_per_token": 8, "granularity": 7.0})
    shape = family.shape(7168, 61, experts, 163840)
    advice = (
        Advice(law="tian", source="arXiv 2507.17702", params_active=24e9, tokens=17e12, note="moe"),
        Advice(law="hoffmann", source="arXiv 2203.15556", params_active=122e9, tokens=3.4e12, note="dense"),
        Advice(law="deepseek", source="arXiv 2401.02954", params_active=111e9, tokens=3.8e12, learning_rate=2.2e-4),
        Advice(law="joint-moe", source="arXiv 2502.05172", params_active=26e9, tokens=16e12, loss=1.42, note="moe"),
        Advice(law="A.X K1 as built", source="arXiv 2601.09200", params_active=32.8e9, tokens=10e12),
    )
    return _plan(
        "axk1",
        "Which model for 1024 H200 during 75 days?",
        shape,
        9_999_220_736 * 1000,
        4096,
        Prediction(
            quantity="loss",
            unit="nats/token",
            value=1.45,
            low=1.31,
            high=1.62,
            interval="the spread of published laws",
            law="tian",
            source="published coefficients",
        ),
        Extrapolation(decades_in_train_flops=2.1),
        advice=advice,
        layout=Layout(gpus=1024, pipeline=8, expert=16),
        layout_estimate=LayoutEstimate(memory_gib=97.0, step_seconds=21.5, days=71.0, tflops_per_gpu=391.0),
        binding=(
            BindingConstraint(
                constraint="max_params_total", limit=520e9, relaxed_to=1040e9, gain=0.12, shape=f"1.0T {HOSTILE}"
            ),
        ),
        pareto=(
            ParetoPoint(
                shape=f"6144 x 56 {HOSTILE}",
                loss=1.47,
                train_flops=2e24,
                params_total=400_000_000_000,
                params_active=28_000_000_000,
                tokens=11_000_000_000_000,
                decode_seconds=900.0,
            ),
        ),
        warnings=("published laws differ five-fold at this budget",),
        cluster=Cluster(gpus=1024, gpu="h200", days=75, peak_flops_per_gpu=9.89e14, utilisation=0.388),
    )


def _plan(
    name: str,
    question: str,
    shape: Architecture,
    tokens: int,
    length: int,
    prediction: Prediction,
    extrapolation: Extrapolation,
    *,
    cluster: Cluster | None = None,
    **more,
) -> TrainingPlan:
    batch = 256 * length
    tokens = tokens // batch * batch
    per_token = float(shape.flops_per_token(length))
    return TrainingPlan(
        name=name,
        question=question,
        model=shape,
        tokens=tokens,
        sequence_length=length,
        batch_tokens=batch,
        optimizer=Optimizer(learning_rate=2e-3, source="carried over from a proxy"),
        schedule=Schedule(warmup_tokens=tokens // 20, decay_tokens=tokens // 5),
        tokenizer=TokenizerChoice(vocab_size=shape.vocab_size, source="chosen by the law"),
        budget=Budget(
            train_flops=per_token * tokens,
            six_n_d=6.0 * shape.params_active * tokens,
            hardware_flops=cluster.hardware_flops if cluster else None,
            flops_per_token=per_token,
            cluster=cluster,
        ),
        prediction=prediction,
        extrapolation=extrapolation,
        provenance=Provenance(tool_version="0.1.0"),
        **more,
    )
