"""`scaling laws`: what is published, what it says, and how far opinions differ."""

from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, help="Published scaling laws: list, show, evaluate, compare.")
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_command(as_json: JsonFlag = False) -> None:
    """List every law and its published coefficient sets.

    Example: scaling laws list
    """
    import fits
    from scaling.commands.console import print_json, print_table

    sets: dict[str, list[str]] = {law.name: [] for law in fits.list_laws()}
    for each in fits.list_published():
        sets[each.law.name].append(each.name)
    if as_json:
        print_json([{**_law(law), "published": sets[law.name]} for law in fits.list_laws()])
        return
    rows = [[law.name, law.source, ", ".join(sets[law.name])] for law in fits.list_laws()]
    print_table(["law", "source", "published sets"], rows)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A law or a published set.")],
    as_json: JsonFlag = False,
) -> None:
    """Show a law or a published set: formula, conventions, coefficients, source and range.

    Example: scaling laws show besiroglu
    """
    import fits
    from scaling.commands.console import print_json, print_table, say

    sets = [each for each in fits.list_published() if name in (each.name, each.law.name)]
    exact = [each for each in sets if each.name == name]
    sets = exact or sets
    law = sets[0].law if sets else fits.get_law(name)
    if as_json:
        print_json({**_law(law), "published": [_set(each) for each in sets]})
        return
    say(f"{law.name}: {law.formula}")
    for part, text in law.definitions.items():
        say(f"  where {part} = {text}")
    say(f"gives {law.response} in {law.unit}; {law.source}" + (f". {law.notes}" if law.notes else ""))
    print_table(["variable", "meaning", "our column"], [[v.name, v.meaning, v.column or "-"] for v in law.variables])
    print_table(
        ["parameter", "meaning", "domain", *(each.name for each in sets)],
        [
            [p.name, p.meaning, str(p.domain), *(f"{each.record.coefficients[p.name]:g}" for each in sets)]
            for p in law.parameters
        ],
    )
    for each in sets:
        record = each.record
        say(f"{each.name}: {record.title} ({record.models}); {each.source}; evidence: {record.evidence}")
        say("  conventions: " + "; ".join(f"{key}: {text}" for key, text in record.conventions.items()))
        ranges = "; ".join(f"{key} {low:.3g} to {high:.3g}" for key, (low, high) in record.range.items())
        say(f"  range: {ranges or 'not stated'}" + (f". {record.notes}" if record.notes else ""))


@app.command("eval")
def evaluate(
    name: Annotated[str, typer.Argument(help="A published set, or a law that has only one.")],
    values: Annotated[list[str], typer.Option("--set", help="VARIABLE=VALUE, as the law names it.")],
    as_json: JsonFlag = False,
) -> None:
    """Evaluate a published set, with a warning for every variable outside its range.

    Example: scaling laws eval besiroglu --set N=7e9 --set D=2e12
    """
    import fits
    from fits.numbers import quantity
    from scaling.commands.console import print_json, say
    from scaling.commands.options import numbers, pairs

    chosen = fits.published(name)
    answer = chosen.evaluate(**numbers(pairs(values, "--set"), "--set"))
    if as_json:
        print_json(
            {
                "law": chosen.name,
                "value": answer.value,
                "unit": answer.unit,
                "in_range": answer.in_range,
                "warnings": answer.warnings,
            }
        )
        return
    say(f"{chosen.name}: {quantity(answer.value)} {answer.unit}  ({chosen.source})")
    for warning in answer.warnings:
        say(f"warning: {warning}")


@app.command()
def compare(
    flops: Annotated[float, typer.Option(help="Training FLOPs.")],
    as_json: JsonFlag = False,
) -> None:
    """Ask every published allocation for its size and tokens at one budget, each in its own convention.

    Example: scaling laws compare --flops 2.548e24
    """
    from fits.decisions.published_allocations import allocations
    from fits.numbers import count
    from scaling.commands.console import print_json, print_table, say

    found, spread = allocations(flops)
    if as_json:
        from dataclasses import asdict

        print_json({"flops": flops, "opinions": [asdict(each) for each in found], "spread": spread})
        return
    print_table(
        ["law", "models", "N or N_active", "D", "D/N", "decades beyond", "evidence"],
        [
            [
                each.name,
                each.models,
                count(each.params),
                count(each.tokens) if each.tokens else "-",
                f"{each.tokens / each.params:.3g}" if each.tokens else "-",
                "?" if each.decades_beyond is None else f"{each.decades_beyond:.1f}",
                each.evidence,
            ]
            for each in found
        ],
    )
    for each in found:
        if each.note:
            say(f"{each.name}: {each.note}")
    say(f"They differ by a factor of {spread:.2g} in size: show the spread, never one number.")


def _law(law: Any) -> dict[str, Any]:
    return {
        "name": law.name,
        "formula": law.formula,
        "definitions": dict(law.definitions),
        "response": law.response,
        "unit": law.unit,
        "variables": {v.name: {"meaning": v.meaning, "column": v.column} for v in law.variables},
        "parameters": {p.name: {"meaning": p.meaning, "domain": p.domain} for p in law.parameters},
        "source": law.source,
        "notes": law.notes,
    }


def _set(each: Any) -> dict[str, Any]:
    return {**each.record.model_dump(mode="json"), "source": each.source, "paper": each.paper.paper}


def register(parent: typer.Typer) -> None:
    """Attach the group."""
    parent.add_typer(app, name="laws")
