"""`ratelimit doctor`: what of a deployment would break a promise, and the command that mends it."""

from __future__ import annotations

import click
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from ratelimit.admin.doctor.checks import NAMES
from ratelimit.admin.doctor.report import SEVERITIES, DoctorReport, Finding, Severity
from ratelimit.catalog.base import DEADLINE_S
from ratelimit.cli import options, output
from ratelimit.cli.connection import Connection, connection_options

_STYLES: dict[Severity, str] = {"error": "bold red", "warning": "yellow", "unknown": "magenta", "ok": "green"}


@click.command(
    short_help="Say what would break the promises, and how to mend it.",
    epilog="Example: ratelimit doctor --gateway-user gateway",
)
@click.option("--gateway-user", metavar="USER", help="The Redis user of the gateways; by default, the one of --url.")
@click.option(
    "--gateway-deadline",
    metavar="SECONDS",
    type=float,
    default=DEADLINE_S,
    show_default=True,
    help="How long checks of the gateways wait for Redis.",
)
@click.option("--ignore", multiple=True, metavar="CHECK", help="Leave a check out. Can be repeated.")
@click.option("--all", "with_ok", is_flag=True, help="Also show what was seen where all is well.")
@click.option(
    "--repair",
    is_flag=True,
    help="First finish or undo changes of keys that crashed halfway. Does nothing on one server.",
)
@options.json_option
@connection_options
@click.pass_context
def doctor(
    ctx: click.Context,
    connection: Connection,
    gateway_user: str | None,
    gateway_deadline: float,
    ignore: tuple[str, ...],
    with_ok: bool,
    repair: bool,
    as_json: bool,
) -> None:
    """Read a deployment; report what would break the promises, and the command that mends it.

    Nothing is changed without --repair, which needs an administrator's user. It may be run at any time, repeatedly.

    It reads the server, or all nodes of a cluster, its replicas and its Sentinels: eviction, memory, persistence,
    min-replicas, lag, clocks, permissions, scripts, versions, latency, connections, slots; and what they hold: schema,
    catalogue, keys, pepper, identities, unfinished changes. What the user may not read is "unknown"; lua/ACL.md has a
    user that may read everything.

    Exit codes: 0 all is well, 1 something is wrong or unknown, 2 wrong usage or input, 3 Redis failed.
    """
    strange = [name for name in ignore if name not in NAMES]
    if strange:
        raise click.BadParameter(
            f"there is no check {strange[0]!r}: the checks are {', '.join(NAMES)}", param_hint="--ignore"
        )
    with connection.catalog() as catalog:
        report = catalog.doctor(gateway_user=gateway_user, deadline=gateway_deadline, repair=repair).without(ignore)
    if as_json:
        output.print_json(report.as_dict())
    else:
        _print(output.console(), report, with_ok=with_ok)
    ctx.exit(0 if report.worst == "ok" else 1)


def _print(console: Console, report: DoctorReport, *, with_ok: bool) -> None:
    same = dict[tuple[Severity, str], list[Finding]]()
    for finding in report.findings:
        same.setdefault((finding.severity, finding.message), []).append(finding)
    for (severity, _), findings in same.items():
        if severity != "ok" or with_ok:
            _print_alike(console, findings)
    counts = {severity: sum(each.severity == severity for each in report.findings) for severity in reversed(SEVERITIES)}
    if report.repair is not None:
        console.print(f"Repair: {report.repair}.")
    console.print("Findings: " + ", ".join(f"{count} {severity}" for severity, count in counts.items() if count) + ".")
    if any(" CONFIG SET " in finding.mend for finding in report.findings):
        console.print(
            "CONFIG SET holds until the server restarts: CONFIG REWRITE writes it to its configuration file.",
            style="dim",
        )


def _print_alike(console: Console, findings: list[Finding]) -> None:
    """Print findings with one message, then the command for each server, unbroken so that it can be copied."""
    first = findings[0]
    places = dict[str, list[str]]()
    for finding in findings:
        places.setdefault(finding.check, []).append(finding.where)
    shown = ", ".join(f"{check} ({', '.join(dict.fromkeys(where))})" for check, where in places.items())
    promise = f" Breaks promise {first.promise}." if first.promise else ""
    console.print(f"{first.severity:<8} {shown}", style=_STYLES[first.severity])
    text = f"{first.message.removesuffix('.')}.{promise}"
    console.print(Padding(Text(output.printable_lines(text)), (0, 0, 0, 9)))
    for mend in dict.fromkeys(finding.mend for finding in findings if finding.mend):
        console.print(f"{' ' * 9}{mend}", soft_wrap=True, style="bold")
    console.print()
