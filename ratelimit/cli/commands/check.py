"""`ratelimit check`: one decision, as a gateway would get it."""

from __future__ import annotations

import os

import click
from rich.text import Text

from ratelimit import validation
from ratelimit.cli import options, output
from ratelimit.cli.connection import Connection, connection_options
from ratelimit.decision import Decision, Reason

KEY = "RATELIMIT_KEY"
_REMEDIES = {
    "missing": f"No key was given: as KEY, on standard input (-) or in {KEY}.",
    "unknown": "No key has this value: it is the value that is asked for here, not the id.",
    "disabled": "Its key is disabled or has expired: see `ratelimit keys enable`, `ratelimit keys update --expires`.",
    "no_plan_for_stage": "No plan of its key opens this stage: see `ratelimit keys opens`.",
}
_STYLE = {Reason.ALLOWED: "bold green", Reason.UNAVAILABLE: "bold red"}


@click.command(short_help="Decide one request.")
@click.argument("arguments", nargs=-1, metavar="[KEY] STAGE METHOD")
@click.option("--cost", type=click.IntRange(min=0), default=1, help="Units to consume from each limit; 1 unless given.")
@click.option("--peek", is_flag=True, help="Show what the answer would be, and consume nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the decision as JSON.")
@connection_options
@click.pass_context
def check(
    ctx: click.Context,
    connection: Connection,
    arguments: tuple[str, ...],
    cost: int,
    peek: bool,
    as_json: bool,
) -> None:
    """Decide one request of an API key for a METHOD ("GET /pets") of a STAGE ("petstore/prod"), and count it.

    KEY is the key's value. "-" reads it from standard input; without KEY it is taken from RATELIMIT_KEY. Other users
    of the machine cannot see it then. With neither, the request is one that came without a key.

    Exit codes: 0 allowed, 1 refused, 2 wrong usage, 3 Redis failed.
    """
    key, stage, method = _request(arguments)
    with connection.limiter() as limiter:
        decision = (limiter.peek if peek else limiter.check)(key, stage, method, cost)
    if as_json:
        output.print_json(decision.as_dict() | {"headers": decision.headers()})
    elif decision.reason is not Reason.UNAVAILABLE:
        _show(decision)
    if decision.reason is Reason.UNAVAILABLE:
        raise connection.fault(decision.cause or "Redis did not answer")
    ctx.exit(0 if decision.allowed else 1)


def _request(arguments: tuple[str, ...]) -> tuple[str | None, str, str]:
    if len(arguments) not in {2, 3}:
        raise click.UsageError('give [KEY] STAGE METHOD, such as: - petstore/prod "GET /pets"')
    *first, stage, method = arguments
    validation.stage_id(stage, "STAGE")
    validation.method_name(method, "METHOD")
    key = first[0] if first else os.environ.get(KEY)
    if key == "-":
        key = options.line_of_stdin()
    return key, stage, method


def _show(decision: Decision) -> None:
    console = output.console()
    line = Text(decision.reason.value, style=_STYLE.get(decision.reason, "bold yellow"))
    line.append(f"  HTTP {decision.status}", style="default")
    told = decision.limited_by or decision.detail
    if told:
        line.append(f"  by {told}" if decision.limited_by else f"  {told}", style="default")
    if decision.retry_after is not None:
        line.append(f"  retry after {output.seconds(decision.retry_after)}", style="default")
    elif decision.limited_by:
        line.append("  waiting cannot help", style="default")
    console.print(line)
    if decision.detail in _REMEDIES:
        console.print(_REMEDIES[decision.detail], style="dim")
    if decision.limits:
        table = output.table(
            "limit", "of", "left", "reset in", "admits in", numbers=("of", "left", "reset in", "admits in")
        )
        for limit in decision.limits:
            style = "" if limit.retry_after == 0 else "yellow"
            admits = "now" if limit.retry_after == 0 else output.seconds(limit.retry_after)
            reset = output.seconds(limit.reset_after)
            table.add_row(limit.name, f"{limit.limit:,}", f"{limit.remaining:,}", reset, admits, style=style)
        console.print(table)
    if decision.time_us is not None:
        console.print(f"Decided by {decision.source} at {output.moment(decision.time_us)} UTC.", style="dim")
