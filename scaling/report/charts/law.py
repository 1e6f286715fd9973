"""Charts of what the law says: IsoFLOP slices and the effect of one choice."""

import altair as alt
import numpy as np
import pandas as pd

from scaling.report.charts import draw
from scaling.report.curves import Effect, Slice
from scaling.report.numbers import flops, quantity, short

_FACTORS = {
    "num_experts": ("experts a layer", "More experts at the same active size and the same tokens."),
    "granularity": ("granularity G", "Finer experts, more of them a token: the same active size and activation ratio."),
    "vocab_size": ("vocabulary", "A larger vocabulary at the same training FLOPs: fewer tokens, more text in each."),
}


def isoflop_chart(name: str, slices: list[Slice], unit: str) -> draw.Chart:
    """Loss against active parameters at each budget, with the best size and its interval."""
    budgets = [flops(each.train_flops) for each in slices]
    curves = pd.concat(pd.DataFrame(vars(each)).assign(series=f"{flops(each.train_flops)} FLOPs") for each in slices)
    best = curves.drop_duplicates("series").assign(
        tip=[
            f"{budget} FLOPs: best {short(each.best)} active ({short(each.best_low)} to {short(each.best_high)}), "
            f"{quantity(each.best_loss)} {unit}"
            for budget, each in zip(budgets, slices, strict=True)
        ]
    )
    title = "active parameters, embeddings in"
    x = draw.log(alt.X, "params_active", title, draw.COUNT)
    optimum = alt.Chart(best).encode(y=draw.linear(alt.Y, "best_loss", unit), tooltip=alt.Tooltip("tip:N"))
    among = f"{len(slices)} budgets ({', '.join(budgets)} FLOPs)"
    description = f"Predicted loss against active parameters at {among}, minima marked."
    caption = (
        "IsoFLOP slices of the law, at the routing and the vocabulary of most runs. Each curve spends one budget on "
        "larger models or on more tokens; the dot is the best size, the dark bar its interval over the law's draws. "
        "A flat curve under a wide bar means that the size is not known well, and does not matter much."
    )
    return draw.figure(
        name,
        description,
        caption,
        *draw.banded(curves.query("loss < 1.15 * best_loss"), x, "loss", unit, **draw.by_series(curves.series)),
        optimum.mark_rule(strokeWidth=2).encode(x=draw.log(alt.X, "best_low", title, draw.COUNT), x2="best_high"),
        optimum.mark_point(color=draw.INK, opacity=1).encode(x=draw.log(alt.X, "best", title, draw.COUNT)),
        width=1080,
        height=380,
    )


def effect_chart(name: str, members: list[Effect], measured: dict[str, float], unit: str) -> draw.Chart:
    """The law along one choice, one line a base run, with the runs that were made there (run -> loss)."""
    label, meaning = _FACTORS[members[0].factor]
    curves = pd.concat(
        pd.DataFrame({key: getattr(each, key) for key in ("at", "loss", "low", "high")}).assign(series=_width(each))
        for each in members
    )
    tried = [(_width(each), run, at) for each in members for run, at in each.tried.items() if run in measured]
    runs = pd.DataFrame(tried, columns=["series", "run", "at"]).assign(
        loss=[measured[run] for _, run, _ in tried],
        tip=[f"{run}: {quantity(measured[run])} {unit}" for _, run, _ in tried],
    )
    ticks = sorted({round(at, 2) for _, _, at in tried})
    x, y = draw.log(alt.X, "at", label, draw.SIZE, ticks), draw.linear(alt.Y, "loss", unit)
    widths = draw.by_series(curves.series)
    settled = np.mean([np.max(each.high - each.low) for each in members]) <= np.mean(
        [np.max(each.loss) - np.min(each.loss) for each in members]
    )
    verdict = (
        "The effect is wider than the band."
        if settled
        else "The band is wider than the effect: the runs do not settle it."
    )
    return draw.figure(
        name,
        f"Loss against {label}: law with band and measured runs, for {len(members)} base runs.",
        f"{meaning} {verdict}",
        *draw.banded(curves, x, "loss", unit, **widths),
        draw.points(runs).encode(x=x, y=y, **widths),
        width=350,
        height=230,
    )


def _width(effect: Effect) -> str:
    return f"{effect.base.architecture.hidden_size} wide"
