"""Charts of what the law says: IsoFLOP slices and the effect of one choice."""

import numpy as np

from scaling.report.charts.svg import INK, SERIES, Chart, canvas, log_axis, mark, tip
from scaling.report.curves import Effect, Slice
from scaling.report.numbers import flops, quantity, short, vocabulary

_FACTORS = {
    "num_experts": ("experts a layer", "More experts at the same active size and the same tokens."),
    "granularity": ("granularity G", "Finer experts, more of them a token: the same active size and activation ratio."),
    "vocab_size": ("vocabulary", "A larger vocabulary at the same training FLOPs: fewer tokens, more text in each."),
}


def isoflop_chart(name: str, slices: list[Slice], unit: str) -> Chart:
    """Loss against active parameters at each budget, with the best size and its interval."""
    budgets = ", ".join(flops(each.train_flops) for each in slices)
    alt = f"Predicted loss against active parameters at {len(slices)} budgets ({budgets} FLOPs), minima marked."
    with canvas(name, alt, width=1080, height=440) as drawn:
        axes = drawn.axes
        for index, each in enumerate(slices):
            colour = SERIES[index % len(SERIES)]
            near = each.loss < each.best_loss * 1.15
            axes.fill_between(
                each.params_active[near], each.low[near], each.high[near], color=colour, alpha=0.14, linewidth=0
            )
            axes.plot(each.params_active[near], each.loss[near], color=colour)
            text = (
                f"{flops(each.train_flops)} FLOPs: best {short(each.best)} active "
                f"({short(each.best_low)} to {short(each.best_high)}), {quantity(each.best_loss)} {unit}"
            )
            axes.plot([each.best_low, each.best_high], [each.best_loss] * 2, color=INK, linewidth=2, gid=tip(text))
            axes.plot([each.best], [each.best_loss], "o", color=INK, markersize=7, gid=tip(text))
            axes.annotate(
                f"{flops(each.train_flops)} FLOPs",
                (each.params_active[near][-1], each.loss[near][-1]),
                (6, 0),
                textcoords="offset points",
                va="center",
                color=colour,
            )
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        axes.set_xlim(low, high * 1.8)
        log_axis(axes, "x", short)
        axes.set_xlabel("active parameters, embeddings in")
        axes.set_ylabel(unit)
    caption = (
        "IsoFLOP slices of the law, at the routing and the vocabulary of most runs. Each curve spends one budget on "
        "larger models or on more tokens; the dot is the best size, the dark bar its interval over the law's draws. "
        "A flat curve under a wide bar means that the size is not known well, and does not matter much."
    )
    return Chart(drawn.svg, caption)


def effect_chart(name: str, members: list[Effect], measured: dict[str, float], unit: str) -> Chart:
    """The law along one choice, one line a base run, with the runs that were made there (run -> loss)."""
    factor = members[0].factor
    label, meaning = _FACTORS[factor]
    alt = f"Loss against {label}: law with band and measured runs, for {len(members)} base runs."
    with canvas(name, alt, width=350, height=290) as drawn:
        axes = drawn.axes
        ticks: set[float] = set()
        for index, each in enumerate(members):
            colour = SERIES[index % len(SERIES)]
            axes.fill_between(each.at, each.low, each.high, color=colour, alpha=0.18, linewidth=0)
            axes.plot(each.at, each.loss, color=colour, label=f"{each.base.architecture.hidden_size} wide")
            for run_id, x in each.tried.items():
                if run_id in measured:
                    mark(axes, x, measured[run_id], f"{run_id}: {quantity(measured[run_id])} {unit}", colour=colour)
                    ticks.add(round(x, 2))
        axes.set_xscale("log")
        log_axis(axes, "x", vocabulary if factor == "vocab_size" else quantity, ticks=sorted(ticks))
        axes.set_xlabel(label)
        axes.set_ylabel(unit)
        axes.legend(loc="best")
    widths = [np.max(each.high - each.low) for each in members]
    gains = [np.max(each.loss) - np.min(each.loss) for each in members]
    verdict = (
        "The band is wider than the effect: the runs do not settle it."
        if np.mean(widths) > np.mean(gains)
        else "The effect is wider than the band."
    )
    return Chart(drawn.svg, f"{meaning} {verdict}")
