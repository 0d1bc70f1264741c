"""`ratelimit replay --against`: two plan files on one log, and whom the change would refuse or admit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.text import Text

from ratelimit.cli import output
from ratelimit.cli.replay.access_log import Log
from ratelimit.cli.replay.report import log_data, show_log, tally_data
from ratelimit.cli.replay.run import Report
from ratelimit.errors import ConfigError
from ratelimit.registry.plan_documents import Document


@dataclass(slots=True)
class Comparison:
    """The plans that both files have, as either has them; the two lists go together.

    left_out  ids of plans that one file has not, or that do not open the stage in the file before
    """

    file_before: str
    file_after: str
    before: list[Report] = field(default_factory=list)
    after: list[Report] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def difference(self) -> str | None:
        """What limiter and model differ about; the replay ends there."""
        return next((report.difference for report in [*self.before, *self.after] if report.difference), None)


@dataclass(slots=True)
class Change:
    """Requests that one plan admits in one of two forms only, by client."""

    refused: Counter[str] = field(default_factory=Counter)
    admitted: Counter[str] = field(default_factory=Counter)

    @property
    def clients(self) -> list[str]:
        """The clients for whom anything changes: the most often refused first, then the most often admitted."""
        found = self.refused.keys() | self.admitted.keys()
        return sorted(found, key=lambda client: (-self.refused[client], -self.admitted[client], client))


def paired(after: Sequence[Report], before: Document, file_before: str, file_after: str) -> Comparison:
    """Return the comparison to fill: of the plans that `before` has, too. Raises ConfigError if there is none."""
    made = Comparison(file_before, file_after)
    for report in after:
        plan = before.plans.get(report.plan.id)
        if plan is None or plan.stage(report.stage) is None:
            made.left_out.append(report.plan.id)
        else:
            made.before.append(Report(plan, report.stage))
            made.after.append(report)
    made.left_out += [plan_id for plan_id in before.plans if plan_id not in {report.plan.id for report in after}]
    if not made.after:
        raise ConfigError(f"has no plan that {file_after} has, too, and opens the same stage", field=file_before)
    return made


def change(log: Log, before: Report, after: Report) -> Change:
    """Return what is decided differently."""
    found = Change()
    for request, was, now in zip(log.requests, before.admitted, after.admitted, strict=True):
        if was and not now:
            found.refused[request.client] += 1
        elif now and not was:
            found.admitted[request.client] += 1
    return found


def as_data(log: Log, comparison: Comparison, top: int) -> dict[str, Any]:
    """Return the result for machines; at most `top` clients of each plan."""
    exact = comparison.difference is None
    pairs = zip(comparison.before, comparison.after, strict=True) if exact else ()
    return {
        "log": log_data(log),
        "before": comparison.file_before,
        "after": comparison.file_after,
        "plans": [_plan_data(log, before, after, top) for before, after in pairs],
        "left_out": comparison.left_out,
        "exact": exact,
        "difference": comparison.difference,
    }


def _plan_data(log: Log, before: Report, after: Report, top: int) -> dict[str, Any]:
    found = change(log, before, after)
    return {
        "plan": after.plan.id,
        "stage": after.stage,
        "before": tally_data(before.total),
        "after": tally_data(after.total),
        "newly_refused": found.refused.total(),
        "newly_admitted": found.admitted.total(),
        "clients_newly_refused": len(found.refused),
        "clients_newly_admitted": len(found.admitted),
        "most_changed": [
            {
                "client": client,
                "before": tally_data(before.clients[client]),
                "after": tally_data(after.clients[client]),
                "newly_refused": found.refused[client],
                "newly_admitted": found.admitted[client],
            }
            for client in found.clients[:top]
        ],
    }


def show(console: Console, log: Log, comparison: Comparison, top: int) -> None:
    """Print the result for people."""
    show_log(console, log)
    if comparison.difference:
        told = f"NOT EXACT: limiter and model differ; the replay ended there.\n{comparison.difference}"
        console.print(told, style="bold red")
        return
    files = output.plain(f"Before: {comparison.file_before}. After: {comparison.file_after}.")
    console.print(files, soft_wrap=True)
    if comparison.left_out:
        console.print(f"Left out, because only one of them has it on this stage: {', '.join(comparison.left_out)}.")
    for before, after in zip(comparison.before, comparison.after, strict=True):
        _show_plan(console, change(log, before, after), before, after, top)
    decisions = output.count(2 * len(comparison.after) * len(log.requests), "decision")
    console.print(f"EXACT: {decisions}, each as the exact model decides it.", style="bold green")


def _show_plan(console: Console, found: Change, before: Report, after: Report, top: int) -> None:
    table = output.table(after.plan.id, "before", "after", "change", numbers=("before", "after", "change"))
    figures = {
        "admitted": (before.total.admitted, after.total.admitted),
        "throttled": (before.total.throttled, after.total.throttled),
        "over quota": (before.total.over_quota, after.total.over_quota),
        "clients hit": (len(before.affected), len(after.affected)),
    }
    for name, (was, now) in figures.items():
        table.add_row(name, f"{was:,}", f"{now:,}", f"{now - was:+,}" if now != was else "")
    console.print(table)
    refused, admitted = (
        f"{output.count(counts.total(), 'request')} of {output.count(len(counts), 'client')}"
        for counts in (found.refused, found.admitted)
    )
    told = f"newly refused {refused}, newly admitted {admitted}."
    if not found.clients:
        told = "each request is decided as before."
    console.print(Text.assemble((after.plan.id, "bold"), f" on {after.stage}: {told}"))
    if not found.clients or not top:
        return
    numbers = ("requests", "before", "after", "newly refused", "newly admitted")
    table = output.table("refusals of", *numbers, numbers=numbers)
    for client in found.clients[:top]:
        refusals = (before.clients[client].refused, after.clients[client].refused)
        cells = (after.clients[client].requests, *refusals, found.refused[client], found.admitted[client])
        style = "yellow" if found.refused[client] else "green"
        table.add_row(client, *(f"{number:,}" for number in cells), style=style)
    console.print(table)
    if len(found.clients) > top:
        console.print(f"{output.count(len(found.clients) - top, 'more client')} (see --top).\n", style="dim")
