"""Which vocabulary size to take: every predictor side by side, the flat range, and what being off costs."""

from collections.abc import Mapping, Sequence

import pandas as pd

from fits.errors import UserError
from fits.fitting.result import Fit
from fits.html import card
from fits.schema import Schema
from vocab_study.choice.costs import Cost, cost_at
from vocab_study.choice.exact_curves import Optimum, best_size, text_curve
from vocab_study.choice.isoflop import (
    ModelOptimum,
    RunsAnswer,
    answer_from_runs,
    common_budget,
    isoflop_slices,
    model_optima,
)
from vocab_study.choice.law_optimum import LawOptimum, optimum_by_law
from vocab_study.choice.published_predictors import Predicted, compute_optimal_flops, predict
from vocab_study.study.study import ALL, Study
from vocab_study.tokenizers.tokenizer import check_size


class LawAnswer(Schema):
    """A published law's best size, asked for the parameters that pay or for those that learn."""

    law: str
    title: str
    source: str
    params: float
    params_are: str
    flops: float | None
    vocab_size: int
    low: int
    high: int
    level: float
    identified: bool
    """Whether the law's own runs determine it: an interval within a factor of 20, and a minimum in nearly all draws."""
    warnings: tuple[str, ...]


class Move(Schema):
    """The exact optimum when one input is another."""

    change: str
    vocab_size: int


class VocabularyChoice(Schema):
    """All answers to one question."""

    params_active_non_embedding: float
    hidden_size: int
    laws: list[LawAnswer]
    runs: RunsAnswer | None
    """By runs of one's own; empty without them, or where they identify no optimum."""
    run_models: list[ModelOptimum]
    """The best size of each model of those runs."""
    fitted: LawOptimum | None
    """By a law of one's own."""
    optimum: Optimum | None
    """Of exact compute per byte; empty without a study."""
    moves: list[Move]
    """What the optimum becomes when an input changes, the farthest first."""
    costs: list[Cost]

    def _repr_html_(self) -> str:
        rows = [
            [each.title, each.vocab_size, f"{each.low:,} to {each.high:,}", "" if each.identified else "not identified"]
            for each in self.laws
        ]
        for name, each in (("your runs", self.runs), ("your law", self.fitted)):
            if each is not None:
                rows.append([name, each.vocab_size, f"{each.low:,} to {each.high:,}", ""])
        if self.optimum is not None:
            best = self.optimum
            flat = f"{best.lowest_flat:,} to {best.highest_flat:,}"
            rows.append(["compute per byte of your text", best.vocab_size, flat, "within 0.1 % of the least"])
        return card(
            "Vocabulary size",
            about=f"of a model of {self.params_active_non_embedding:.3g} parameters outside the vocabulary that a "
            f"token passes, hidden size {self.hidden_size:,}",
            columns=["by", "best", "interval", ""],
            rows=rows,
        )


def choose_vocabulary(
    params_active_non_embedding: float,
    hidden_size: int,
    *,
    study: Study | None = None,
    mix: Mapping[str, float] | None = None,
    params_learning: float | None = None,
    flops: float | None = None,
    runs: pd.DataFrame | None = None,
    fit: Fit | None = None,
    setting: Mapping[str, float] | None = None,
    compare: Sequence[int] = (),
    tied_embeddings: bool = False,
    tensor_parallel: int = 8,
    kv_bytes_per_token: float | None = None,
) -> VocabularyChoice:
    """Ask the published laws and, with a study, the exact compute per byte; cost every size that comes up.

    The exact optimum weighs compute for the same text only. That the loss, too, depends on the vocabulary is in the
    published laws (for their corpus and tokenizer) and in runs of one's own.

    Args:
        params_active_non_embedding: N, parameters outside both vocabulary matrices that a token passes: they pay.
        hidden_size: d.
        study: the curves of a corpus.
        mix: group -> share of the text's bytes, summing to 1; ``None`` takes the text as it is.
        params_learning: parameters outside the vocabulary that learn, where not N: all of a mixture of experts, or
            some size between.
        flops: the training budget, for the law that takes one; ``None`` takes the compute-optimal one.
        runs: a table for ``answer_from_runs``.
        fit: a law for ``optimum_by_law``.
        setting: what that law takes beside sizes and text, such as ``granularity``.
        compare: sizes to show the cost of.
        tied_embeddings: one matrix for input and output.
        tensor_parallel: ways in which the vocabulary matrices are split.
        kv_bytes_per_token: of the key-value cache, all layers.

    Raises:
        UserError: a number out of range, or a mix that does not fit the study.
    """
    for size in compare:
        check_size(size)
    if tensor_parallel < 1:
        raise UserError(f"tensor_parallel is {tensor_parallel}; it must be 1 or more.")
    if mix is not None and study is None:
        raise UserError("a mix needs the curves of a study; give --study.")
    params = params_active_non_embedding
    laws = [_answer(answer, "active") for answer in predict(params, hidden_size, flops)]
    if params_learning is not None:
        # Approach 3 meets N only in the compute, so those that learn do not enter it.
        learning = [answer for answer in predict(params_learning, hidden_size) if not answer.law.startswith("tao-loss")]
        laws += [_answer(answer, "learning") for answer in learning]
    text = None if study is None else text_curve(study, mix)
    optimum = None if text is None else best_size(text, params, hidden_size, tensor_parallel=tensor_parallel)
    by_runs = None if runs is None else answer_from_runs(runs, params, hidden_size)
    budget = flops or compute_optimal_flops(params)
    fitted = None if fit is None else optimum_by_law(fit, params, hidden_size, budget, text=text, setting=setting)
    sizes = {*compare, *(answer.vocab_size for answer in (*laws, by_runs, fitted, optimum) if answer is not None)}
    return VocabularyChoice(
        params_active_non_embedding=params,
        hidden_size=hidden_size,
        laws=laws,
        runs=by_runs,
        run_models=[] if runs is None else model_optima(isoflop_slices(runs, common_budget(runs))),
        fitted=fitted,
        optimum=optimum,
        moves=[] if study is None else _moves(study, mix, params, hidden_size),
        costs=[
            cost_at(
                size,
                params,
                hidden_size,
                text=text,
                tied_embeddings=tied_embeddings,
                tensor_parallel=tensor_parallel,
                kv_bytes_per_token=kv_bytes_per_token,
            )
            for size in sorted(sizes)
        ],
    )


def _answer(answer: Predicted, params_are: str) -> LawAnswer:
    return LawAnswer(
        law=answer.law,
        title=answer.title,
        source=answer.source,
        params=answer.params,
        params_are=params_are,
        flops=answer.flops,
        vocab_size=answer.vocab_size,
        low=answer.interval.low,
        high=answer.interval.high,
        level=answer.interval.level,
        identified=answer.interval.identified,
        warnings=answer.warnings,
    )


def _moves(study: Study, mix: Mapping[str, float] | None, params: float, hidden_size: int) -> list[Move]:
    text = text_curve(study, mix)
    here = best_size(text, params, hidden_size).vocab_size
    tried = {
        "twice the parameters": best_size(text, 2 * params, hidden_size),
        "half the parameters": best_size(text, params / 2, hidden_size),
        "twice the hidden size": best_size(text, params, 2 * hidden_size),
        "half the hidden size": best_size(text, params, max(1, hidden_size // 2)),
    }
    for group in study.groups:
        if group != ALL:
            tried[f"text of {group} only"] = best_size(text_curve(study, {group: 1.0}), params, hidden_size)
    moves = [Move(change=change, vocab_size=optimum.vocab_size) for change, optimum in tried.items()]
    return sorted(moves, key=lambda move: -max(move.vocab_size / here, here / move.vocab_size))
