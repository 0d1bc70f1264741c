"""`ratelimit check`: decide one request, as a gateway would."""

from __future__ import annotations

import os

import click
from rich.text import Text

from ratelimit import validation
from ratelimit.cli import options, output
from ratelimit.cli.connection import Connection, connection_options
from ratelimit.decision import Decision, Reason

KEY = "RATELIMIT_KEY"
_REMEDIES = {  # by Decision.detail
    "missing": f"The request has no key: give KEY, standard input (-) or {KEY}.",
    "unknown": "No key has this value. Give the key's value, not its id.",
    "disabled": "The key is disabled or has expired: see `ratelimit keys enable`, `ratelimit keys update --expires`.",
    "no_plan_for_stage": "No plan of the key opens this stage: see `ratelimit keys opens`.",
    "method_not_listed": "The stage denies methods that neither it nor the plan lists: see `ratelimit stages show`.",
}
_STYLE = {Reason.ALLOWED: "bold green", Reason.UNAVAILABLE: "bold red"}


@click.command(
    short_help="Decide one request.", epilog='Example: ratelimit check --peek - petstore/prod "GET /pets" < value.txt'
)
@click.argument("arguments", nargs=-1, metavar="[KEY] STAGE METHOD")
@click.option("--cost", type=click.IntRange(min=0), default=1, help="Units to take from each limit; 1 by default.")
@click.option("--peek", is_flag=True, help="Show the decision without consuming anything.")
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

    KEY is the key's value. With "-" it is read from standard input, without KEY from RATELIMIT_KEY: other users of the
    machine see neither. Without both, the request has no key.

    Exit codes: 0 allowed, 1 denied, 2 wrong usage, 3 Redis failed.
    """
    key, stage, method = _parse(arguments)
    with connection.limiter() as limiter:
        decision = (limiter.peek if peek else limiter.check)(key, stage, method, cost)
    if as_json:
        output.print_json(decision.as_dict() | {"headers": decision.headers()})
    elif decision.reason is not Reason.UNAVAILABLE:
        _print(decision)
    if decision.reason is Reason.UNAVAILABLE:
        raise connection.failure(decision.error or "Redis did not answer", decision.cause)
    ctx.exit(0 if decision.allowed else 1)


def _parse(arguments: tuple[str, ...]) -> tuple[str | None, str, str]:
    if len(arguments) not in {2, 3}:
        raise click.UsageError('give [KEY] STAGE METHOD, for example: - petstore/prod "GET /pets"')
    *first, stage, method = arguments
    validation.stage_id(stage, "STAGE")
    validation.method_name(method, "METHOD")
    key = first[0] if first else os.environ.get(KEY)
    if key == "-":
        key = options.read_stdin_line()
    return key, stage, method


def _print(decision: Decision) -> None:
    console = output.console()
    line = Text(decision.reason.value, style=_STYLE.get(decision.reason, "bold yellow"))
    line.append(f"  HTTP {decision.status}", style="default")
    if decision.limited_by:
        line.append(f"  by {decision.limited_by}", style="default")
    elif decision.detail:
        line.append(f"  {decision.detail}", style="default")
    if decision.retry_after is not None:
        line.append(f"  retry after {output.seconds(decision.retry_after)}", style="default")
    elif decision.limited_by:
        line.append("  waiting does not help", style="default")
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
        console.print(f"Decided by {decision.source} at {output.timestamp(decision.time_us)} UTC.", style="dim")
