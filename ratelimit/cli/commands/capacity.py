"""`ratelimit capacity`: what a backend must bear."""

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


@click.command(short_help="Show what a backend must bear.")
@click.option("--new-customer", "new_plan", metavar="PLAN", help="Also what one more key of this plan would add.")
@options.json_option
@connection_options
def capacity(connection: Connection, new_plan: str | None, as_json: bool) -> None:
    """Show the most that all active keys together may send, for each stage and in total, and which limits bind.

    \b
    rate/s    requests per second that can go on for ever, while quotas last
    burst     requests at one moment: buckets are full, quotas start anew
    in 1 s    requests within one second, from any moment on
    in 1 day  requests within one day (UTC)

    Below each stage stand the limits that bind: each figure is the sum of them. The total may be less than the sum of
    the stages, as they may have limits in common.
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    with connection.catalog() as catalog:
        found = catalog.capacity(new_plan)
    if as_json:
        data: dict[str, Any] = {
            "active_keys": dict(sorted(found.active_keys.items())),
            "total": _data(found.total),
            "stages": {stage: _data(figures) for stage, figures in found.stages.items()},
        }
        if found.addition is not None:
            more = {stage: _data(figures) for stage, figures in found.addition.stages.items()}
            data["addition"] = {"plan": found.addition.plan, "total": _data(found.addition.total), "stages": more}
        output.print_json(data)
        return
    active = ", ".join(f"{count:,} of {plan}" for plan, count in sorted(found.active_keys.items()))
    console = output.console()
    console.print(f"Active keys: {active or 'none, as there is no plan'}.")
    console.print(_table({**found.stages, "total": found.total}))
    if found.addition is not None:
        console.print(f"One more key of plan {found.addition.plan} adds:")
        console.print(_table({**found.addition.stages, "total": found.addition.total}, added=True))


def _each(figures: CapacityFigures) -> Iterator[tuple[str, CapacityFigure]]:
    for each in fields(figures):
        yield each.name, getattr(figures, each.name)


def _data(figures: CapacityFigures) -> dict[str, Any]:
    return {
        name: {"value": figure.value, "bounds": [str(bound) for bound in figure.bounds]}
        for name, figure in _each(figures)
    }


def _table(places: Mapping[str, CapacityFigures], *, added: bool = False) -> Table:
    """Return a table of the figures of each place, and below each the limits that they are the sum of."""
    titles = (*(() if added else ("keys",)), *_TITLES.values())
    table = output.table("stage", *titles, numbers=titles)
    for place, figures in places.items():
        numbers = [_number(figure.exact) for _, figure in _each(figures)]
        if added:
            table.add_row(place, *(f"+{number}" if number != "0" else "" for number in numbers))
            continue
        table.add_section()
        table.add_row(place, "", *numbers, style="bold")
        for (title, keys), amounts in _bounds(place, figures).items():
            table.add_row(f"  {title}", keys, *(amounts.get(name, "") for name in _TITLES), style="dim")
    return table


def _bounds(place: str, figures: CapacityFigures) -> dict[tuple[str, str], dict[str, str]]:
    """Return what binds: title and keys of each limit -> what it adds to which figures."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for name, figure in _each(figures):
        for bound in figure.bounds:
            title = f"{bound.name} at {bound.stage}" if bound.stage not in {"", place} else bound.name
            title += f", {bound.methods} methods" if bound.methods > 1 else ""
            keys = "" if bound.keys is None else f"{bound.keys:,}"
            found.setdefault((title, keys), {})[name] = _number(bound.amount)
    return found


def _number(exact: Fraction | None) -> str:
    return "unlimited" if exact is None else f"{float(exact):,.3f}".rstrip("0").rstrip(".")
