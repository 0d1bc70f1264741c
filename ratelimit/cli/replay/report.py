"""What `ratelimit replay` prints, for people and as JSON: results of plans, and comparisons of two plan files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import ceil
from operator import attrgetter
from typing import Any

from rich.console import Console
from rich.text import Text

from ratelimit.cli import output
from ratelimit.cli.replay.access_log import Log
from ratelimit.cli.replay.comparison import Change, Comparison, change
from ratelimit.cli.replay.run import PlanResult, Tally
from ratelimit.model import MICROSECONDS
from ratelimit.registry.plan_documents import Document
from ratelimit.validation import printable

_BAR_WIDTH = 24
_THROTTLED, _OVER_QUOTA = "yellow", "red"


# JSON


def results_data(log: Log, results: Sequence[PlanResult], top: int) -> dict[str, Any]:
    """Return the results of plans, with at most `top` clients of each."""
    difference = next((result.difference for result in results if result.difference), None)
    return {
        "log": _log_data(log),
        "plans": [_result_data(result, top) for result in results],
        "exact": difference is None,
        "difference": difference,
    }


def comparison_data(log: Log, comparison: Comparison, top: int) -> dict[str, Any]:
    """Return a comparison, with at most `top` clients of each plan."""
    exact = comparison.difference is None
    pairs = zip(comparison.before, comparison.after, strict=True) if exact else ()
    return {
        "log": _log_data(log),
        "before": comparison.file_before,
        "after": comparison.file_after,
        "plans": [_change_data(log, before, after, top) for before, after in pairs],
        "left_out": comparison.left_out,
        "exact": exact,
        "difference": comparison.difference,
    }


def _log_data(log: Log) -> dict[str, Any]:
    return {
        "lines": log.lines,
        "requests": len(log.requests),
        "malformed": log.malformed,
        "first_malformed": log.first_malformed,
        "disordered": log.disordered,
        "first_second": log.requests[0].second,
        "last_second": log.requests[-1].second,
    }


def _result_data(result: PlanResult, top: int) -> dict[str, Any]:
    return {
        "plan": result.plan.id,
        "stage": result.stage,
        **_tally_data(result.total),
        "clients": len(result.clients),
        "clients_affected": len(result.affected),
        "denied_by": dict(result.denied_by.most_common()),
        "most_affected": [{"client": client, **_tally_data(tally)} for client, tally in result.affected[:top]],
    }


def _change_data(log: Log, before: PlanResult, after: PlanResult, top: int) -> dict[str, Any]:
    changed = change(log, before, after)
    return {
        "plan": after.plan.id,
        "stage": after.stage,
        "before": _tally_data(before.total),
        "after": _tally_data(after.total),
        "newly_denied": changed.denied.total(),
        "newly_admitted": changed.admitted.total(),
        "clients_newly_denied": len(changed.denied),
        "clients_newly_admitted": len(changed.admitted),
        "most_changed": [
            {
                "client": client,
                "before": _tally_data(before.clients[client]),
                "after": _tally_data(after.clients[client]),
                "newly_denied": changed.denied[client],
                "newly_admitted": changed.admitted[client],
            }
            for client in changed.clients[:top]
        ],
    }


def _tally_data(tally: Tally) -> dict[str, int]:
    return {
        "requests": tally.requests,
        "admitted": tally.admitted,
        "throttled": tally.throttled,
        "over_quota": tally.over_quota,
        "not_listed": tally.not_listed,
    }


# For people


def print_results(console: Console, log: Log, document: Document, results: Sequence[PlanResult], top: int) -> None:
    """Print the results of plans, with at most `top` clients of each."""
    _print_log(console, log)
    difference = next((result.difference for result in results if result.difference), None)
    if difference:
        _print_difference(console, difference)
        return
    left_out = [plan_id for plan_id in document.plans if plan_id not in {result.plan.id for result in results}]
    if left_out:
        console.print(f"Left out, because they do not open {results[0].stage}: {', '.join(left_out)}.")
    _print_totals(console, results)
    for result in results:
        _print_clients(console, result, top)
    _print_exact(console, sum(result.total.requests for result in results))


def print_comparison(console: Console, log: Log, comparison: Comparison, top: int) -> None:
    """Print a comparison, with at most `top` clients of each plan."""
    _print_log(console, log)
    if comparison.difference:
        _print_difference(console, comparison.difference)
        return
    files = printable(f"Before: {comparison.file_before}. After: {comparison.file_after}.")
    console.print(files, soft_wrap=True)
    if comparison.left_out:
        console.print(f"Left out, because only one of them has it on this stage: {', '.join(comparison.left_out)}.")
    for before, after in zip(comparison.before, comparison.after, strict=True):
        changed = change(log, before, after)
        _print_change(console, changed, before, after)
        if changed.clients and top:
            _print_changed_clients(console, changed, before, after, top)
    _print_exact(console, 2 * len(comparison.after) * len(log.requests))


def _print_log(console: Console, log: Log) -> None:
    first, last = (output.timestamp(log.requests[at].second * MICROSECONDS, digits=0) for at in (0, -1))
    clients = len({request.client for request in log.requests})
    console.print(
        f"{output.count(len(log.requests), 'request')} of {output.count(clients, 'client')}, "
        f"from {first} to {last} UTC."
    )
    if log.disordered:
        console.print(
            f"Sorted by time: {output.count(log.disordered, 'request')} came after a later one. "
            "Within a second, the order of the log is kept."
        )
    if log.malformed:
        console.print(
            f"Left out: {output.count(log.malformed, 'malformed line')}, the first is line {log.first_malformed}.",
            style="yellow",
        )


def _print_difference(console: Console, difference: str) -> None:
    message = "NOT EXACT: limiter and reference model differ; the replay ended there."
    console.print(f"{message}\n{difference}", style="bold red")


def _print_exact(console: Console, decisions: int) -> None:
    console.print(
        f"EXACT: {output.count(decisions, 'decision')}, each equal to the reference model.", style="bold green"
    )


def _print_totals(console: Console, results: Sequence[PlanResult]) -> None:
    rows = [(result.plan.id, result.total, len(result.affected)) for result in results]
    denials = _denials(total for _, total, _ in rows)
    numbers = ("requests", "admitted", *denials, "clients hit")
    table = output.table("plan", *numbers, numbers=numbers)
    for plan_id, total, affected in rows:
        figures = (total.requests, total.admitted, *(count(total) for count in denials.values()), affected)
        table.add_row(plan_id, *(f"{figure:,}" for figure in figures))
    console.print(table)


def _denials(tallies: Iterable[Tally]) -> dict[str, Callable[[Tally], int]]:
    """Return the columns of denials, and what is counted in each: that of methods not listed if there is any."""
    columns = {"throttled": attrgetter("throttled"), "over quota": attrgetter("over_quota")}
    return columns | ({"not listed": attrgetter("not_listed")} if any(tally.not_listed for tally in tallies) else {})


def _print_clients(console: Console, result: PlanResult, top: int) -> None:
    affected = result.affected
    heading = Text.assemble((result.plan.id, "bold"), f" on {result.stage}: ")
    if not affected:
        console.print(heading.append("no request is denied.\n"))
        return
    limits = ", ".join(f"{number:,} by {name}" for name, number in result.denied_by.most_common())
    console.print(heading.append(f"denied {limits}."))
    if not top:
        return
    full, half = ("█", "▒") if console.encoding.startswith("utf") else ("#", "+")
    denials = _denials([result.total])
    numbers = ("requests", *denials)
    table = output.table("client", *numbers, numbers=numbers)
    table.add_column(f"{full} throttled {half} over quota", no_wrap=True)
    most_denied = affected[0][1].denied
    for client, tally in affected[:top]:
        bar = Text(full * ceil(_BAR_WIDTH * tally.throttled / most_denied), style=_THROTTLED)
        limited = tally.throttled + tally.over_quota
        bar.append(half * (ceil(_BAR_WIDTH * limited / most_denied) - len(bar)), style=_OVER_QUOTA)
        table.add_row(client, f"{tally.requests:,}", *(f"{count(tally):,}" for count in denials.values()), bar)
    console.print(table)
    _print_clients_left(console, len(affected) - top)


def _print_change(console: Console, changed: Change, before: PlanResult, after: PlanResult) -> None:
    table = output.table(after.plan.id, "before", "after", "change", numbers=("before", "after", "change"))
    denials = _denials([before.total, after.total])
    figures = {
        "admitted": (before.total.admitted, after.total.admitted),
        **{name: (count(before.total), count(after.total)) for name, count in denials.items()},
        "clients hit": (len(before.affected), len(after.affected)),
    }
    for name, (was, now) in figures.items():
        table.add_row(name, f"{was:,}", f"{now:,}", f"{now - was:+,}" if now != was else "")
    console.print(table)
    denied, admitted = (
        f"{output.count(counts.total(), 'request')} of {output.count(len(counts), 'client')}"
        for counts in (changed.denied, changed.admitted)
    )
    summary = f"newly denied {denied}, newly admitted {admitted}."
    if not changed.clients:
        summary = "each request is decided as before."
    console.print(Text.assemble((after.plan.id, "bold"), f" on {after.stage}: {summary}"))


def _print_changed_clients(console: Console, changed: Change, before: PlanResult, after: PlanResult, top: int) -> None:
    numbers = ("requests", "before", "after", "newly denied", "newly admitted")
    table = output.table("denials of", *numbers, numbers=numbers)
    for client in changed.clients[:top]:
        denials = (before.clients[client].denied, after.clients[client].denied)
        cells = (after.clients[client].requests, *denials, changed.denied[client], changed.admitted[client])
        style = "yellow" if changed.denied[client] else "green"
        table.add_row(client, *(f"{number:,}" for number in cells), style=style)
    console.print(table)
    _print_clients_left(console, len(changed.clients) - top)


def _print_clients_left(console: Console, count: int) -> None:
    if count > 0:
        console.print(f"{output.count(count, 'more client')} (see --top).\n", style="dim")
