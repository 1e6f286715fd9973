"""`scaling fit`: a table of runs in, a law with intervals out."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fits.errors import UserError
from scaling.commands.options import numbers, pairs


def fit(
    table: Annotated[Path, typer.Argument(help="Run table: .csv, .jsonl (either .gz) or .parquet.")],
    law: Annotated[str, typer.Option(help="A law of `scaling laws list`, or a formula such as 'E + A/N**a'.")],
    bind: Annotated[
        list[str] | None, typer.Option(help="VARIABLE=COLUMN_OR_EXPRESSION; also loss=... Our own columns need none.")
    ] = None,
    means: Annotated[
        list[str] | None,
        typer.Option(help="VARIABLE=WHAT a plan shall take it for, such as N=params_active; also loss=bits_per_byte."),
    ] = None,
    where: Annotated[str | None, typer.Option(help="Keep rows that meet this, such as 'loss < 5'.")] = None,
    cluster: Annotated[str | None, typer.Option(help="Column whose groups are resampled whole.")] = None,
    objective: Annotated[
        str,
        typer.Option(help="log-huber, huber, least-squares, lad, asymmetric; log- before each takes log residuals."),
    ] = "log-huber",
    delta: Annotated[float, typer.Option(help="Where the Huber penalty turns linear.")] = 1e-3,
    fix: Annotated[list[str] | None, typer.Option(help="PARAMETER=VALUE.")] = None,
    tie: Annotated[list[str] | None, typer.Option(help="PARAMETER=PARAMETER.")] = None,
    start: Annotated[list[str] | None, typer.Option(help="PARAMETER=VALUE to begin from as well.")] = None,
    real: Annotated[list[str] | None, typer.Option(help="Parameter of a formula that may be negative.")] = None,
    weights: Annotated[str | None, typer.Option(help="Column or expression of row weights.")] = None,
    bootstrap: Annotated[int, typer.Option(help="Resamples behind the intervals; 0 for none.")] = 1000,
    bootstrap_kind: Annotated[
        str | None, typer.Option(help="pairs, cluster, wild, residual or normal; chosen by the runs unless given.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the search and the resamples.")] = 0,
    level: Annotated[float, typer.Option(help="Level of the intervals.")] = 0.95,
    at: Annotated[
        list[str] | None, typer.Option(help="Ask for advice at C=1e24, or a prediction at N=7e9,D=2e12.")
    ] = None,
    against: Annotated[
        list[str] | None, typer.Option(help="Compare with this law by backtest, AIC and BIC; again for more.")
    ] = None,
    profile: Annotated[
        list[str] | None, typer.Option(help="Profile-likelihood interval of this parameter; again for more.")
    ] = None,
    approaches: Annotated[
        float | None, typer.Option(help="Envelope, IsoFLOP minima and this law side by side at this many FLOPs.")
    ] = None,
    backtest: Annotated[bool, typer.Option("--backtest", help="Fit small runs, predict large ones.")] = False,
    compute: Annotated[str | None, typer.Option(help="Column or expression of FLOPs, for the backtest.")] = None,
    keep_duplicates: Annotated[bool, typer.Option("--keep-duplicates", help="Allow rows that repeat.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the law here, as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write pictures into this folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fit a scaling law to a table of runs, with intervals and the proof of convergence.

    \b
    Example: scaling fit runs.csv --law hoffmann --bind N=params_active \\
        --at C=1e22 --out law.json
    """
    import fits
    from scaling.commands import fit_tables
    from scaling.commands.console import print_json, working

    bound = pairs(bind, "--bind")
    known = {each.name for each in fits.list_laws()}
    starts = numbers(pairs(start, "--start"), "--start")
    if law in known or law.replace("-", "").replace("_", "").isalnum():
        if real:
            raise UserError("--real is for a formula; a named law declares its own domains.")
        chosen = fits.get_law(law)
    else:
        variables = [name for name in bound if name != "loss"]
        chosen = fits.custom_law(law, variables, domains={name: "real" for name in real or []}, starts=starts)
    frame = fits.read_table(table)
    if where is not None:
        frame = fits.filter_rows(frame, where, source=table)
    # Names that only a compared law has are its own; a name that none has is refused by the fit.
    theirs = {name for each in against or [] for name in fits.get_law(each).variable_names} - {*chosen.variable_names}
    settings: dict[str, Any] = {
        "bind": {name: text for name, text in bound.items() if name not in theirs},
        "objective": objective,
        "delta": delta,
        "fix": numbers(pairs(fix, "--fix"), "--fix"),
        "tie": pairs(tie, "--tie"),
        "weights": weights,
        "seed": seed,
        "starts": starts or None,
        "source": table,
        "duplicates": "keep" if keep_duplicates else "refuse",
    }
    asked = {text: numbers(pairs(text.split(","), "--at"), "--at") for text in at or []}
    with working("fitting"):
        result = fits.fit(
            chosen,
            frame,
            cluster=cluster,
            bootstrap=bootstrap,
            bootstrap_kind=bootstrap_kind,  # type: ignore[arg-type]
            level=level,
            means=pairs(means, "--means"),
            **settings,
        )
    result = result.model_copy(
        update={
            "decisions": {text: fits.decide(result, point) for text, point in asked.items()},
            "data": result.data.model_copy(update={"where": where}),
        }
    )
    runs = fits.influence(result, frame)
    conspicuous = runs.loc[runs["outlier"] | runs["heavy"]]
    scores, notes = [], []
    with working("backtests") as watch:
        score = fits.backtest(chosen, frame, compute=compute, progress=watch, **settings) if backtest else None
        if against:
            every = {**settings, "bind": bound}
            scores, notes = fits.compare_laws([chosen, *against], frame, compute=compute, progress=watch, **every)
    # A likelihood ratio needs the likelihood of least squares, whatever the point was fitted with.
    squares = {**settings, "objective": "least-squares" if objective == "least-squares" else "log-least-squares"}
    profiles = []
    with working("profiles") as watch:
        for each in profile or []:
            watch(len(profiles), len(profile or []))
            profiles.append(fits.profile(chosen, frame, each, level=level, **squares))
    advice = fits.approaches_of(result, frame, approaches, compute=compute) if approaches is not None else []
    if out is not None:
        result.save(out)
    if plot is not None:
        from fits.plots import save_plots

        save_plots(result, frame, plot, score)
    if as_json:
        from dataclasses import asdict

        more = {
            "backtest": asdict(score) if score else None,
            "against": {"scores": [asdict(each) for each in scores], "warnings": notes} if scores else None,
            "profiles": [each.as_dict() for each in profiles],
            "approaches": [asdict(each) for each in advice],
            "conspicuous_runs": conspicuous.to_dict(orient="records"),
        }
        print_json({**result.report(), **{key: each for key, each in more.items() if each}})
        return
    fit_tables.print_fit(result)
    fit_tables.print_conspicuous(conspicuous, result.n_runs)
    if score is not None:
        fit_tables.print_backtest(score)
    if scores:
        fit_tables.print_comparison(scores, notes)
    if profiles:
        fit_tables.print_profiles(profiles, level)
    if approaches is not None:
        fit_tables.print_approaches(advice, approaches)


def register(app: typer.Typer) -> None:
    """Attach the command."""
    app.command()(fit)
