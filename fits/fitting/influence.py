"""Which runs a fit leans on, and which do not belong: leverage and outlying residuals, run by run."""

import numpy as np
import pandas as pd

from fits.fitting.result import Fit
from fits.laws.derivatives import differentiate
from fits.tables.binding import bind_table

_OUTLIER = 4.0  # robust standard deviations
_HEAVY = 3.0  # times the average leverage


def influence(fit: Fit, data: pd.DataFrame) -> pd.DataFrame:
    """A table with a row a run, most conspicuous first.

    Columns: ``row`` (of the file, from 1), ``run`` (its run_id or name), ``leverage`` (0 to 1; how strongly the run
    sets its own prediction), ``residual`` (log or raw, as the objective has it), ``deviations`` (of a robust standard
    deviation), ``outlier``, ``heavy``.

    Raises:
        UserError: the table lacks a bound column.
    """
    bound = bind_table(fit.as_law, data, loss=fit.data.loss, bind=fit.bind, duplicates="keep")
    fitted = [name for name, each in fit.parameters.items() if each.how == "fitted"]
    jet = differentiate(fit.as_law.expression, {**bound.variables, **fit.values}, fitted)
    prediction = np.broadcast_to(jet.value, bound.loss.shape)
    columns = [np.broadcast_to(jet.first.get(index, 0.0), bound.loss.shape) for index in range(len(fitted))]
    jacobian = np.stack(columns, axis=1)
    if fit.objective.name.startswith("log-"):
        jacobian, residual = jacobian / prediction[:, None], np.log(bound.loss) - np.log(prediction)
    else:
        residual = bound.loss - prediction
    length = np.linalg.norm(jacobian, axis=0)
    left, values, _ = np.linalg.svd(jacobian / np.where(length > 0, length, 1.0), full_matrices=False)
    leverage = (left[:, values > 1e-10 * values[0]] ** 2).sum(axis=1)
    spread = 1.4826 * float(np.median(np.abs(residual - np.median(residual))))
    deviations = residual / spread if spread > 0 else np.zeros_like(residual)
    table = pd.DataFrame(
        {
            "row": bound.rows,
            "run": bound.runs,
            "leverage": leverage,
            "residual": residual,
            "deviations": deviations,
            "outlier": np.abs(deviations) > _OUTLIER,
            "heavy": leverage > _HEAVY * leverage.mean(),
        }
    )
    conspicuous = np.maximum(np.abs(deviations) / _OUTLIER, leverage / (_HEAVY * leverage.mean()))
    order = np.argsort(-conspicuous, kind="stable")
    return table.iloc[order].reset_index(drop=True)
