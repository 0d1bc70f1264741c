"""`ratelimit capacity`: the most that all active keys together may send to a backend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from fractions import Fraction
from typing import Any

import click
from rich.table import Table

from ratelimit.admin.capacity.report import CapacityFigure, CapacityFigures
from ratelimit.cli import options, output
from ratelimit.cli.connection import Connection, connection_options

_TITLES = {"rate": "rate/s", "burst": "burst", "second": "in 1 s", "day": "in 1 day"}


@click.command(
    short_help="Show the most that all keys together may send.",
    epilog="Example: ratelimit capacity --new-customer gold",
)
@click.option("--new-customer", "new_plan", metavar="PLAN", help="Also show what one more key of this plan would add.")
@options.json_option
@connection_options
def capacity(connection: Connection, new_plan: str | None, as_json: bool) -> None:
    """Show the most that all active keys together may send, for each stage and in total, and which limits bind.

    \b
    rate/s    requests per second, sustained, while quotas last
    burst     requests at once: buckets are full and quotas have just started
    in 1 s    requests within any one second
    in 1 day  requests within one day (UTC)

    The limits that bind are listed below each stage: a figure is the sum of theirs. The total may be less than the sum
    of the stages, as these may share limits.
    """  # noqa: D301 - \b tells click not to wrap these lines
    with connection.catalog() as catalog:
        report = catalog.capacity(new_plan)
    if as_json:
        data: dict[str, Any] = {
            "active_keys": dict(sorted(report.active_keys.items())),
            "total": _data(report.total),
            "stages": {stage: _data(figures) for stage, figures in report.stages.items()},
        }
        if report.addition is not None:
            stages = {stage: _data(figures) for stage, figures in report.addition.stages.items()}
            data["addition"] = {"plan": report.addition.plan, "total": _data(report.addition.total), "stages": stages}
        output.print_json(data)
        return
    active = ", ".join(f"{count:,} of {plan}" for plan, count in sorted(report.active_keys.items()))
    console = output.console()
    console.print(f"Active keys: {active or 'none, as there is no plan'}.")
    console.print(_table({**report.stages, "total": report.total}))
    if report.addition is not None:
        console.print(f"One more key of plan {report.addition.plan} adds:")
        console.print(_table({**report.addition.stages, "total": report.addition.total}, added=True))


def _by_name(figures: CapacityFigures) -> Iterator[tuple[str, CapacityFigure]]:
    for field in fields(figures):
        yield field.name, getattr(figures, field.name)


def _data(figures: CapacityFigures) -> dict[str, Any]:
    return {
        name: {"value": figure.value, "bounds": [str(bound) for bound in figure.bounds]}
        for name, figure in _by_name(figures)
    }


def _table(figures_by_stage: Mapping[str, CapacityFigures], *, added: bool = False) -> Table:
    """Return a table of the figures of each stage, and below each the limits that they are the sum of."""
    titles = (*(() if added else ("keys",)), *_TITLES.values())
    table = output.table("stage", *titles, numbers=titles)
    for stage, figures in figures_by_stage.items():
        numbers = [_number(figure.exact) for _, figure in _by_name(figures)]
        if added:
            table.add_row(stage, *(f"+{number}" if number != "0" else "" for number in numbers))
            continue
        table.add_section()
        table.add_row(stage, "", *numbers, style="bold")
        for (title, keys), amounts in _bounds(stage, figures).items():
            table.add_row(f"  {title}", keys, *(amounts.get(name, "") for name in _TITLES), style="dim")
    return table


def _bounds(stage: str, figures: CapacityFigures) -> dict[tuple[str, str], dict[str, str]]:
    """Return the limits that bind: (title, number of keys) -> name of a figure -> what the limit adds to it."""
    amounts: dict[tuple[str, str], dict[str, str]] = {}
    for name, figure in _by_name(figures):
        for bound in figure.bounds:
            title = f"{bound.name} at {bound.stage}" if bound.stage not in {"", stage} else bound.name
            title += f", {bound.methods} methods" if bound.methods > 1 else ""
            keys = "" if bound.keys is None else f"{bound.keys:,}"
            amounts.setdefault((title, keys), {})[name] = _number(bound.amount)
    return amounts


def _number(exact: Fraction | None) -> str:
    return "unlimited" if exact is None else f"{float(exact):,.3f}".rstrip("0").rstrip(".")
