"""One Markdown page of what the parts have written, for somebody who was not there."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.gpu.record import read
from benchmarks.markdown import table

Content = dict[str, Any]
_OUTCOMES = ("passed", "failed", "skipped")
_TIMES_TRANSFORMERS, _TIMES_RUNS = 1.5, 5.0
"""Goals: tokens a second over transformers compiled, and runs an hour of the best way over one compiled model."""


def page(folder: Path) -> str:
    """The page of all parts whose files are in ``folder``."""
    parts = {path.stem: read(path) for path in sorted(folder.glob("[0-9]_*.json"))}
    facts = parts.get("1_machine", {}).get("facts", {})
    where = facts.get("card") or facts.get("processor") or "this machine"
    tiny = any(content["part"]["tiny"] for content in parts.values())
    lines = [f"# First minutes on {where}", "", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC."]
    if tiny:
        lines += ["", "**Sizes of a test (`--tiny`): the numbers say that the parts run, and nothing of speed.**"]
    lines += ["", *_shown("in short", lambda _: _in_short(parts), {}), "", *_outcomes(parts)]
    for title, section in (
        ("1_machine", _machine),
        ("2_shapes", _shapes),
        ("3_small", _small),
        ("4_sweep", _sweep),
        ("5_profile", _profile),
    ):
        if title in parts:
            lines += ["", *_shown(title, section, parts[title])]
    return "\n".join([*lines, "", *_failures(parts)]) + "\n"


def _shown(title: str, section: Callable[[Content], list[str]], content: Content) -> list[str]:
    """The section; where a part broke off between two of its facts, why there is none, and the other parts stay."""
    try:
        return section(content)
    except (LookupError, TypeError, ValueError, ZeroDivisionError) as error:
        return [f"## Part {title}", "", f"Its file has not all that a table needs ({type(error).__name__}: {error})."]


def _in_short(parts: dict[str, Content]) -> list[str]:
    """What a reader wants first, against its goal."""
    tests, shapes, small, sweep = (parts.get(title, {}) for title in ("1_machine", "2_shapes", "3_small", "4_sweep"))
    rows = []
    if outcomes := [test["outcome"] for test in tests.get("facts", {}).get("tests", [])]:
        said = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in _OUTCOMES)
        rows.append(["tests marked `gpu`", said, "none failed"])
    speeds = {(row["shape"], row["trainer"]): row for row in shapes.get("rows", [])}
    own = {shape: row for (shape, trainer), row in speeds.items() if trainer == "ours compiled"}
    if known := [row for row in own.values() if row["mfu"]]:
        met = sum(row["mfu"] >= row["goal"] for row in known)
        best = max(known, key=lambda row: row["mfu"])
        rows.append(
            ["shapes at their MFU goal", f"{met} of {len(known)}; best {best['mfu']:.0%} ({best['shape']})", "all"]
        )
    theirs = {shape: row for (shape, trainer), row in speeds.items() if trainer == "transformers compiled"}
    if ratios := [
        own[shape]["tokens_per_second"] / theirs[shape]["tokens_per_second"] for shape in own if shape in theirs
    ]:
        said = f"{min(ratios):.2f} to {max(ratios):.2f} x" if len(ratios) > 1 else f"{ratios[0]:.2f} x"
        rows.append(["against transformers compiled", said, f"{_TIMES_TRANSFORMERS} x"])
    if gains := _gains(small):
        rows.append(["small models, best way over one compiled", f"{max(gains):.2f} x", f"{_TIMES_RUNS:.0f} x"])
    if runs := sweep.get("rows"):
        done, all_runs = (sum(row[key] for row in runs) for key in ("done", "runs"))
        rows.append(["runs of the sweep that ended", f"{done} of {all_runs}", "all"])
    return _table(["in short", "", "goal"], rows) if rows else []


def _gains(content: Content) -> list[float]:
    """Runs an hour of the best way over one compiled model, for each shape that has both."""
    rows, base = content.get("rows", []), {}
    for row in rows:
        if row["way"] == content["facts"]["base"]:
            base[row["shape"]] = row["runs_per_hour"]
    return [max(row["runs_per_hour"] for row in rows if row["shape"] == shape) / one for shape, one in base.items()]


def _outcomes(parts: dict[str, Content]) -> list[str]:
    rows = []
    for title, content in parts.items():
        part, left_out = content["part"], content.get("left_out", [])
        rows.append([title, part["status"], f"{part['seconds']:.0f} of {part['limit']:.0f}", len(left_out) or "-"])
    return _table(["part", "outcome", "seconds", "rows that are missing"], rows)


def _machine(content: Content) -> list[str]:
    facts = content.get("facts", {})
    names = {
        "card": "card",
        "card_memory_gib": "its memory, GiB",
        "card_free_gib": "free at the start, GiB",
        "driver": "driver",
        "cuda": "CUDA of torch",
        "processor": "processor",
        "cores": "cores",
        "memory_gib": "memory, GiB",
        "python": "Python",
        "torch": "torch",
        "transformers": "transformers",
    }
    rows = [[name, _short(facts[key])] for key, name in names.items() if facts.get(key) is not None]
    for key, name, unit in (
        ("gemm_flops", "best bf16 product, measured", "TFLOP/s"),
        ("copy_bytes", "copy on the device, bytes read and written", "TB/s"),
        ("to_card_bytes", "copy from pinned memory to the card", "TB/s"),
    ):
        if key in facts:
            rows.append([name, f"{facts[key] / 1e12:.3g} {unit}"])
    if "import_seconds" in facts:
        rows.append(["imports", ", ".join(f"{name} {took:.1f} s" for name, took in facts["import_seconds"].items())])
    lines = ["## The machine", "", *_table(["", ""], rows)]
    if tests := facts.get("tests"):
        lines += ["", "## The tests marked `gpu`", "", *_tests(tests)]
    if rows := content.get("rows"):
        lines += ["", "## Kernels of attention", "", *_attention(rows)]
    return lines


def _tests(tests: list[Content]) -> list[str]:
    """By test function, for a function has many cases; what failed, case by case."""
    groups: dict[str, list[Content]] = {}
    for test in tests:
        groups.setdefault(_test_name(test).split("[")[0], []).append(test)
    rows = []
    for name, own in groups.items():
        counts = [sum(test["outcome"] == outcome for test in own) or "-" for outcome in _OUTCOMES]
        reasons = dict.fromkeys(_cell(test["why"]) for test in own if test["outcome"] == "skipped")
        rows.append([_code(name), *counts, f"{max(test['seconds'] for test in own):.1f}", "; ".join(reasons) or "-"])
    lines = _table(["test", *_OUTCOMES, "longest, s", "why skipped"], rows)
    if failed := [[_code(_test_name(test)), _cell(test["why"])] for test in tests if test["outcome"] == "failed"]:
        lines += ["", *_table(["failed", "why (more in 1_machine.json)"], failed)]
    return lines


def _test_name(test: Content) -> str:
    return test["test"].removeprefix("tests/gpu/").replace(".py::", ": ")


def _attention(rows: list[Content]) -> list[str]:
    kernels = list(dict.fromkeys(row["kernel"] for row in rows))
    found = {(row["heads"], row["kernel"]): row for row in rows}
    body = []
    for heads in dict.fromkeys(row["heads"] for row in rows):
        own = {kernel: found[heads, kernel] for kernel in kernels if (heads, kernel) in found}
        best = min(own, key=lambda kernel: own[kernel]["seconds"])
        cells = [
            f"{1e3 * own[kernel]['seconds']:.2f} ms, {own[kernel]['flops_per_second'] / 1e12:.3g}"
            if kernel in own
            else "-"
            for kernel in kernels
        ]
        body.append([heads, *cells, best])
    heading = "Forward and backward of one layer in bf16: milliseconds, TFLOP/s (the causal half counted)."
    return [heading, "", *_table(["heads", *kernels, "fastest"], body)]


def _shapes(content: Content) -> list[str]:
    rows = content.get("rows", [])
    lines = ["## Six shapes, beside their goals", ""]
    if not rows:
        return [*lines, "Nothing was measured."]
    found = {(row["shape"], row["trainer"]): row for row in rows}
    body = []
    for shape in dict.fromkeys(row["shape"] for row in rows):
        own, theirs, eager = (
            found.get((shape, trainer)) for trainer in ("ours compiled", "transformers compiled", "ours eager")
        )
        goal = next(row["goal"] for row in rows if row["shape"] == shape)
        times = own and theirs and own["tokens_per_second"] / theirs["tokens_per_second"]
        body.append(
            [
                shape,
                _percent(own and own["mfu"]),
                f"{goal:.0%}",
                _percent(own and own["of_gemm"]),
                _speed(own),
                _speed(eager),
                _speed(theirs),
                _times(times, _TIMES_TRANSFORMERS),
                f"{own['micro_batch_tokens']:,}" if own else "-",
                _gib(own, "peak_gib"),
                _gib(own, "predicted_gib"),
            ]
        )
    heads = ["shape", "MFU", "goal", "of product", "tokens/s", "eager", "transformers", "/ transformers (goal 1.5)"]
    heads += ["tokens at a time", "GiB taken", "said"]
    facts = content.get("facts", {})
    sheet = facts.get("data_sheet_flops")
    against = f"its data sheet's {sheet / 1e12:.0f} TFLOP/s" if sheet else "nothing: the device has no data sheet here"
    lines += [
        f"MFU is against {against}; 'of product' against the {facts['gemm_flops'] / 1e12:.3g} TFLOP/s measured in this "
        "part. The goals are of one H200. Ours and transformers' are compiled layer by layer, except 'eager'. A step "
        f"of {rows[0]['batch_tokens']:,} tokens is put together of measured parts and its measured end. Medians of "
        f"{facts['steps']} after {facts['warm_up']}.",
        "",
        *_table(heads, body),
        "",
        "## Where the time goes",
        "",
        "Shares of the wall time of one forward and backward; idle: the device waited for the host, which the profiler "
        "itself slows.",
        "",
    ]
    split = [row for row in rows if row["split"]]
    kinds = list(dict.fromkeys(kind for row in split for kind in row["split"]))
    kinds.sort(key=lambda kind: -sum(row["split"].get(kind, 0.0) for row in split))
    body = [
        [row["shape"], row["trainer"], *(_percent(row["split"].get(kind)) for kind in kinds), _end_share(row)]
        for row in split
    ]
    return [*lines, *_table(["shape", "trainer", *kinds, "end of a step"], body)]


def _end_share(row: Content) -> str:
    """Share of a step that is its end: the optimizer's."""
    parts = row["batch_tokens"] / row["micro_batch_tokens"]
    return _percent(row["end_seconds"] / (parts * row["part_seconds"] + row["end_seconds"]))


def _small(content: Content) -> list[str]:
    rows, facts = content.get("rows", []), content.get("facts", {})
    lines = ["## Many small models on one card", ""]
    if not rows:
        return [*lines, "Nothing was measured."]
    base = {row["shape"]: row["runs_per_hour"] for row in rows if row["way"] == facts["base"]}
    ways = list(dict.fromkeys(row["way"] for row in rows))
    found = {(row["shape"], row["way"]): row for row in rows}
    body = []
    for shape in dict.fromkeys(row["shape"] for row in rows):
        own = {way: found[shape, way]["runs_per_hour"] for way in ways if (shape, way) in found}
        best = max(own, key=lambda way: own[way])
        times = own[best] / base[shape] if shape in base else None
        cells = [_short(own[way]) if way in own else "-" for way in ways]
        body.append([shape, *cells, best, _times(times, _TIMES_RUNS)])
    return [
        *lines,
        f"Runs an hour; a run is {facts['tokens_per_parameter']} tokens per active parameter.",
        "",
        *_table(["shape", *ways, "best", f"/ {facts['base']} (goal 5)"], body),
    ]


def _sweep(content: Content) -> list[str]:
    rows, facts = content.get("rows", []), content.get("facts", {})
    lines = ["## A real sweep", ""]
    if "training_seconds" in facts:
        seconds = facts["training_seconds"]
        flops, tokens = (sum(row[key] for row in rows) for key in ("flops", "tokens"))
        how = "stopped when its time was over" if facts["stopped"] else "to its end"
        lines += [
            f"Widths {facts['hidden_sizes']}, batches of {facts['batch_tokens']:,} tokens in windows of "
            f"{facts['sequence_length']}; trained in {seconds:.0f} s, {how}: {flops / seconds / 1e12:.3g} TFLOP/s and "
            f"{tokens / seconds:,.0f} tokens/s of finished runs.",
            "",
        ]
    if not rows:
        return [*lines, "No run table was made."]
    body = [
        [
            row["optimizer"],
            f"{row['done']} of {row['runs']}",
            f"{row['tokens']:,}",
            row["best_run"],
            _short(row["best_loss"]),
        ]
        for row in rows
    ]
    lines += _table(["optimizer", "runs done", "tokens", "best run", "its loss, nats"], body)
    for law in dict.fromkeys(fit["law"] for fit in facts.get("fits", [])):
        lines += ["", *_fits([fit for fit in facts["fits"] if fit["law"] == law])]
    return lines


def _fits(fits: list[Content]) -> list[str]:
    """One law, beside each other as fitted to the runs of each optimizer."""
    heads = [f"{fit['optimizer']}, {fit['n_runs']} runs, scatter {fit['residual_scale']:.2g}" for fit in fits]

    def cell(fit: Content, name: str) -> str:
        value = fit["parameters"][name]
        return f"{_short(value['value'])} ({_short(value['low'])} to {_short(value['high'])})"

    body = [[name, *(cell(fit, name) for fit in fits)] for name in fits[0]["parameters"]]
    warnings = [f"- {fit['optimizer']}: {warning}" for fit in fits for warning in fit["warnings"]]
    lines = [f"Law `{fits[0]['law']}`, `{fits[0]['formula']}`:", "", *_table(["parameter", *heads], body)]
    return [*lines, "", *warnings] if warnings else lines


def _profile(content: Content) -> list[str]:
    facts = content.get("facts", {})
    lines = ["## Profile", "", f"{facts.get('shape', '?')}, {facts.get('trainer', '?')}: {facts.get('why', '?')}."]
    for row in content.get("rows", []):
        head = (
            f"{row['piece'].capitalize()}, {row['micro_batch_tokens']:,} tokens: {1e3 * row['wall_seconds']:.1f} ms, "
            f"{row['launches']:,} launches, device idle {row['idle']:.0%}."
        )
        body = [
            [_code(kernel["name"][:90]), f"{1e3 * kernel['seconds']:.2f}", kernel["calls"],
             f"{kernel['seconds'] / row['wall_seconds']:.1%}"]
            for kernel in row["kernels"]
        ]  # fmt: skip
        lines += ["", head, "", *_table(["kernel", "ms", "calls", "of the time"], body)]
    return lines


def _failures(parts: dict[str, Content]) -> list[str]:
    lines = ["## What failed"]
    if failed := [
        test for test in parts.get("1_machine", {}).get("facts", {}).get("tests", []) if test["outcome"] == "failed"
    ]:
        lines += ["", f"{len(failed)} of the tests: see above."]
    for title, content in parts.items():
        part, left_out = content["part"], content.get("left_out", [])
        if left_out:
            lines += [
                "",
                *_table([title, "why it is missing"], [[each["what"], _cell(each["why"])] for each in left_out]),
            ]
        if part["last_lines"]:
            lines += ["", f"{title} {part['status']}; its last lines:", "", "```", *part["last_lines"], "```"]
    return lines if len(lines) > 1 else [*lines, "", "Nothing."]


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    return table(heads, rows).splitlines()


def _code(text: str) -> str:
    return f"`{_cell(text).replace('`', '')}`"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


def _short(value: Any) -> str:
    if not isinstance(value, float):
        return "-" if value is None else _cell(str(value))
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _speed(row: Content | None) -> str:
    return f"{row['tokens_per_second']:,.0f}" if row else "-"


def _gib(row: Content | None, key: str) -> str:
    return f"{row[key]:.1f}" if row and row[key] is not None else "-"


def _times(times: float | None, goal: float) -> str:
    if times is None:
        return "-"
    return f"**{times:.2f}**" if times >= goal else f"{times:.2f}"
