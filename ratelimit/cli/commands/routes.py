"""`ratelimit routes`: compare an application's routes with what plans and stages list."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ratelimit.catalog.files import read_plan_file
from ratelimit.cli import options, output
from ratelimit.cli.connection import Connection, connection_options
from ratelimit.errors import ConfigError
from ratelimit.integrations.gate import unconfigured_stage
from ratelimit.integrations.route_check import RouteReport, compare_routes
from ratelimit.integrations.served import ServedApp, served_app
from ratelimit.registry.snapshot import CatalogSnapshot
from ratelimit.validation import printable, shown, without_values


@click.group(short_help="Compare an application's routes with plans.")
def routes() -> None:
    """Compare the routes of an application with what plans and stages list."""


@routes.command(
    short_help="Find listed methods that no route serves.", epilog="Example: ratelimit routes check main:app"
)
@click.argument("app")
@click.option("--stage", help="The stage that the application is; by default, the one that its adapter names.")
@click.option("--plans", type=click.Path(), metavar="FILE", help="Compare with a plan file (TOML) instead of Redis.")
@options.json_option
@connection_options
@click.pass_context
def check(
    ctx: click.Context, connection: Connection, app: str, stage: str | None, plans: str | None, as_json: bool
) -> None:
    """Compare the routes of APP ("module:variable") with what plans and stages list for its stage.

    It names methods that are listed and that no route serves, so that their limits never apply; routes that nobody
    lists; and a stage or plan that the application's adapter names and nobody has configured. The module is imported,
    from the current directory as well. Frameworks: Starlette, FastAPI, Flask, Django. What is mounted and has an
    adapter of its own is an application of its own.

    Exit codes: 0 done, 1 something never applies or is not configured, 2 wrong usage or input, 3 Redis failed.
    """
    served = served_app(_imported(app))
    stages = [stage] if stage else list(dict.fromkeys(gate.stage for gate in served.gates))
    if not stages:
        raise ConfigError(f"is not given, and no adapter of {shown(app)} names one: give --stage", field="stage")
    snapshot = _of_file(plans) if plans else _of_redis(connection)
    reports = [compare_routes(snapshot, each, served.routes) for each in stages]
    problems = _unconfigured(snapshot, served, stage)
    if as_json:
        output.print_json({"app": app, "stages": [_data(report) for report in reports], "unconfigured": problems})
    else:
        for report in reports:
            _print(output.console(), report)
        for problem in problems:
            output.console().print(f"Not configured: {problem}.", style="bold red")
    ctx.exit(1 if problems or any(report.unserved for report in reports) else 0)


def _unconfigured(snapshot: CatalogSnapshot, served: ServedApp, stage: str | None) -> list[str]:
    named = [
        problem
        for gate in served.gates
        if stage in (None, gate.stage)
        for problem in gate.unconfigured(snapshot.methods_by_stage, snapshot.plans)
    ]
    if stage is not None and stage not in snapshot.methods_by_stage and not named:
        named.append(unconfigured_stage(stage))
    return list(dict.fromkeys(named))


def _of_file(path: str) -> CatalogSnapshot:
    document = read_plan_file(path)
    return CatalogSnapshot(plans=document.plans, stages=document.stages, account=document.account)


def _of_redis(connection: Connection) -> CatalogSnapshot:
    with connection.catalog() as catalog:
        plans, stages = catalog.plans(), catalog.stages()
    return CatalogSnapshot(plans={plan.id: plan for plan in plans}, stages={stage.id: stage for stage in stages})


def _imported(name: str) -> Any:
    """Return the variable that "module:variable" names; importing runs the module."""
    module, _, path = name.partition(":")
    if not module or not path:
        raise ConfigError(f"cannot be {shown(name)}: write 'module:variable', such as 'main:app'", field="app")
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)
    try:
        return reduce(getattr, path.split("."), importlib.import_module(module))
    except (Exception, SystemExit) as error:  # a module may raise anything
        reason = printable(without_values(f"{type(error).__name__}: {error}"))
        raise ConfigError(f"cannot import {shown(name)}: {reason}", field="app") from error


def _data(report: RouteReport) -> dict[str, Any]:
    return {
        "stage": report.stage,
        "routes": report.routes,
        "unserved": [each._asdict() for each in report.unserved],
        "unlisted": report.unlisted,
        "denies_unlisted": report.denies,
    }


def _print(console: Console, report: RouteReport) -> None:
    console.print(f"{report.stage}: {output.count(report.routes, 'route')} compared.")
    if report.unserved:
        console.print("Listed, and served by no route, so that these limits never apply:", style="bold red")
        table = output.table("method", "listed by", "perhaps meant")
        for method, listed_by, similar in report.unserved:
            table.add_row(method, ", ".join(listed_by), similar or "")
        console.print(table)
    if report.unlisted:
        _print_unlisted(console, report.unlisted, denies=report.denies)
    if not report.unserved:
        console.print("Each method that is listed is served.", style="bold green")


def _print_unlisted(console: Console, unlisted: Sequence[str], *, denies: bool) -> None:
    if denies:
        console.print("Routes that nobody lists, and the stage denies:", style="yellow")
    else:
        console.print("Routes that nobody lists, and that share the limits of all others:")
    for method in unlisted:
        console.print(f"  {method}")
