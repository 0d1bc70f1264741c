"""`ratelimit capacity`: what a backend must bear."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import click

from ratelimit.admin.capacity import Figure, Figures
from ratelimit.cli import inputs, output
from ratelimit.cli.connection import Connection, connection_options

_TOTAL = "total"
_TITLES = {"rate": "rate/s", "burst": "burst", "second": "in 1 s", "day": "in 1 day"}


@click.command(short_help="Show what a backend must bear.")
@click.option("--new-customer", "new_plan", metavar="PLAN", help="Also what one more key of this plan would add.")
@inputs.json_option
@connection_options
def capacity(connection: Connection, new_plan: str | None, as_json: bool) -> None:
    """Show the most that all active keys together may send, for each stage and in total, and which limits bind.

    \b
    rate      requests per second that can go on for ever; quotas bound for how long
    burst     requests at one moment, when all buckets are full and quotas start anew
    in 1 s    requests within one second, from any moment on
    in 1 day  requests within one day (UTC)

    The total may be less than the sum of the stages. Limits in a row bound each other, so each figure is the sum of
    those that everything has to pass.
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    with connection.catalog() as catalog:
        found = catalog.capacity(new_plan)
    if as_json:
        data: dict[str, Any] = {
            "active_keys": dict(found.active_keys),
            "total": _data(found.total),
            "stages": {stage: _data(figures) for stage, figures in found.stages.items()},
        }
        if found.addition is not None:
            more = {stage: _data(figures) for stage, figures in found.addition.stages.items()}
            data["addition"] = {"plan": found.addition.plan, "total": _data(found.addition.total), "stages": more}
        output.print_json(data)
        return
    active = ", ".join(f"{count:,} of {plan}" for plan, count in found.active_keys.items())
    output.console().print(f"Active keys: {active or 'none, as there is no plan'}.")
    _show({**found.stages, _TOTAL: found.total}, "")
    if found.addition is not None:
        output.console().print(f"One more key of {found.addition.plan} adds:")
        _show({**found.addition.stages, _TOTAL: found.addition.total}, "+")


def _each(figures: Figures) -> Iterator[tuple[str, Figure]]:
    for each in fields(figures):
        yield each.name, getattr(figures, each.name)


def _data(figures: Figures) -> dict[str, Any]:
    return {
        name: {"value": figure.value, "bounds": [str(bound) for bound in figure.bounds]}
        for name, figure in _each(figures)
    }


def _show(places: Mapping[str, Figures], sign: str) -> None:
    """Print the figures of each place, and below what binds them."""
    console = output.console()
    table = output.table("stage", *_TITLES.values(), numbers=tuple(_TITLES.values()))
    binding = output.table("stage", "figure", "binding limits (sum)")
    for place, figures in places.items():
        if place == _TOTAL:
            table.add_section()
        table.add_row(place, *(_number(figure, sign) for _, figure in _each(figures)))
        by_bounds: dict[tuple[str, ...], list[str]] = {}
        for name, figure in _each(figures):
            by_bounds.setdefault(tuple(map(str, figure.bounds)) or ("nothing passes",), []).append(_TITLES[name])
        binding.add_section()
        title = place
        for bounds, names in by_bounds.items():
            binding.add_row(title, "\n".join(names), "\n".join(bounds))
            title = ""
    console.print(table)
    console.print(binding)


def _number(figure: Figure, sign: str) -> str:
    if figure.exact is None:
        return "unlimited"
    shown = f"{float(figure.exact):,.3f}".rstrip("0").rstrip(".")
    return sign + shown if figure.exact else shown
