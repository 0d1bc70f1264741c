"""What `ratelimit replay` prints: for people, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

from rich.console import Console
from rich.text import Text

from ratelimit.cli import output
from ratelimit.cli.replay.access_log import Log
from ratelimit.cli.replay.run import Report, Tally
from ratelimit.model import MICROSECONDS
from ratelimit.registry.plan_documents import Document

_BAR = 24
_THROTTLED, _OVER_QUOTA = "yellow", "red"


def as_data(log: Log, reports: Sequence[Report], top: int) -> dict[str, Any]:
    """Return the result for machines; at most `top` clients of each plan."""
    return {
        "log": log_data(log),
        "plans": [_plan_data(report, top) for report in reports],
        "exact": not any(report.difference for report in reports),
        "difference": next((report.difference for report in reports if report.difference), None),
    }


def log_data(log: Log) -> dict[str, Any]:
    """Return what is known of a log, for machines."""
    return {
        "lines": log.lines,
        "requests": len(log.requests),
        "malformed": log.malformed,
        "first_malformed": log.first_malformed,
        "disordered": log.disordered,
        "first_second": log.requests[0].second,
        "last_second": log.requests[-1].second,
    }


def _plan_data(report: Report, top: int) -> dict[str, Any]:
    return {
        "plan": report.plan.id,
        "stage": report.stage,
        **tally_data(report.total),
        "clients": len(report.clients),
        "clients_affected": len(report.affected),
        "refused_by": dict(report.refused_by.most_common()),
        "most_affected": [{"client": client, **tally_data(tally)} for client, tally in report.affected[:top]],
    }


def tally_data(tally: Tally) -> dict[str, int]:
    """Return figures by their names."""
    return {
        "requests": tally.requests,
        "admitted": tally.admitted,
        "throttled": tally.throttled,
        "over_quota": tally.over_quota,
    }


def show(console: Console, log: Log, document: Document, reports: Sequence[Report], top: int) -> None:
    """Print the result for people."""
    show_log(console, log)
    difference = next((report.difference for report in reports if report.difference), None)
    if difference:
        console.print(f"NOT EXACT: limiter and model differ; the replay ended there.\n{difference}", style="bold red")
        return
    left_out = [plan_id for plan_id in document.plans if plan_id not in {report.plan.id for report in reports}]
    if left_out:
        console.print(f"Left out, because they do not open {reports[0].stage}: {', '.join(left_out)}.")
    _show_totals(console, reports)
    for report in reports:
        _show_clients(console, report, top)
    decisions = output.count(sum(report.total.requests for report in reports), "decision")
    console.print(f"EXACT: {decisions}, each as the exact model decides it.", style="bold green")


def show_log(console: Console, log: Log) -> None:
    """Print what is known of a log."""
    first, last = (output.moment(log.requests[at].second * MICROSECONDS, digits=0) for at in (0, -1))
    clients = len({request.client for request in log.requests})
    console.print(
        f"{output.count(len(log.requests), 'request')} of {output.count(clients, 'client')}, "
        f"from {first} to {last} UTC."
    )
    if log.disordered:
        console.print(
            f"Sorted by time: {output.count(log.disordered, 'request')} stood after a later one. "
            "Within a second, the order of the log holds."
        )
    if log.malformed:
        console.print(
            f"Left out: {output.count(log.malformed, 'malformed line')}, the first is line {log.first_malformed}.",
            style="yellow",
        )


def _show_totals(console: Console, reports: Sequence[Report]) -> None:
    numbers = ("requests", "admitted", "throttled", "over quota", "clients hit")
    table = output.table("plan", *numbers, numbers=numbers)
    for report in reports:
        total = report.total
        figures = (total.requests, total.admitted, total.throttled, total.over_quota, len(report.affected))
        table.add_row(report.plan.id, *(f"{figure:,}" for figure in figures))
    console.print(table)


def _show_clients(console: Console, report: Report, top: int) -> None:
    affected = report.affected
    heading = Text.assemble((report.plan.id, "bold"), f" on {report.stage}: ")
    if not affected:
        console.print(heading.append("nobody is refused.\n"))
        return
    limits = ", ".join(f"{number:,} by {name}" for name, number in report.refused_by.most_common())
    console.print(heading.append(f"refused {limits}."))
    if not top:
        return
    full, half = ("█", "▒") if console.encoding.startswith("utf") else ("#", "+")
    numbers = ("requests", "throttled", "over quota")
    table = output.table("client", *numbers, numbers=numbers)
    table.add_column(f"{full} throttled {half} over quota", no_wrap=True)
    most = affected[0][1].refused
    for client, tally in affected[:top]:
        bar = Text(full * ceil(_BAR * tally.throttled / most), style=_THROTTLED)
        bar.append(half * (ceil(_BAR * tally.refused / most) - len(bar)), style=_OVER_QUOTA)
        table.add_row(client, f"{tally.requests:,}", f"{tally.throttled:,}", f"{tally.over_quota:,}", bar)
    console.print(table)
    if len(affected) > top:
        console.print(f"{output.count(len(affected) - top, 'more client')} (see --top).\n", style="dim")
