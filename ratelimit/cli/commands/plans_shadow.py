"""`ratelimit plans shadow`: who would be denied by a plan that is tried out."""

from __future__ import annotations

import click

from ratelimit.cli import options, output
from ratelimit.cli.commands.keys import name_of
from ratelimit.cli.commands.plans import plans
from ratelimit.cli.connection import Connection, connection_options


@plans.command(short_help="Show who would be denied by a plan's shadow.")
@click.argument("plan_id")
@click.option("--top", type=click.IntRange(1), default=20, show_default=True, help="How many keys to list.")
@options.json_option
@connection_options
def shadow(connection: Connection, plan_id: str, top: int, as_json: bool) -> None:
    """Show what the shadow of the plan PLAN_ID saw, and whom it would have denied: all since it began, or was reset.

    The shadow sees what the plan admits. --json lists all keys.
    """
    with connection.catalog() as catalog:
        plan, found = catalog.get_plan(plan_id), catalog.shadow_counts(plan_id)
        names = {} if as_json else {counts.key_id: name_of(catalog, counts.key_id) for counts in found[:top]}
    if as_json:
        keys = [
            {
                "key": counts.key_id,
                "seen": counts.seen,
                "denied": counts.denied,
                "throttled": counts.throttled,
                "over_quota": counts.exceeded,
            }
            for counts in found
        ]
        output.print_json({"plan": plan_id, "shadow": plan.shadow, "keys": keys})
        return
    console = output.console()
    if not found:
        console.print(f"The shadow {plan.shadow} of plan {plan_id} has seen no request.")
        return
    seen, denied = sum(counts.seen for counts in found), sum(counts.denied for counts in found)
    hit = sum(counts.denied > 0 for counts in found)
    saw = f"{output.count(seen, 'request')} of {output.count(len(found), 'key')}"
    console.print(
        f"The shadow {plan.shadow} of plan {plan_id} saw {saw} and would have denied {denied:,}, "
        f"of {output.count(hit, 'key')}."
    )
    numbers = ("seen", "denied", "throttled", "over quota")
    table = output.table("key", "name", *numbers, "", numbers=(*numbers, ""))
    for counts in found[:top]:
        figures = (counts.seen, counts.denied, counts.throttled, counts.exceeded)
        share = f"{100 * counts.denied / counts.seen:.1f}%"
        cells = (counts.key_id, names[counts.key_id], *(f"{figure:,}" for figure in figures), share)
        table.add_row(*cells, style="yellow" if counts.denied else "")
    output.keep_whole(table, "key")
    console.print(table)
    if len(found) > top:
        console.print(f"{output.count(len(found) - top, 'more key')} (see --top).", style="dim")


@plans.command("shadow-reset", short_help="Start a plan's trial anew.")
@click.argument("plan_id")
@options.yes_option
@options.json_option
@connection_options
def shadow_reset(connection: Connection, plan_id: str, yes: bool, as_json: bool) -> None:
    """Forget what the shadow of the plan PLAN_ID counted, and its buckets. The plan itself and its keys stay."""
    with connection.catalog() as catalog:
        plan = catalog.get_plan(plan_id)
        if plan.shadow is not None:
            options.confirm(f"Forget what the shadow {plan.shadow} of plan {plan_id} counted?", yes=yes)
        catalog.reset_shadow(plan_id, expected=plan)
    if as_json:
        output.print_json({"plan": plan_id, "shadow": plan.shadow})
    else:
        output.console().print(f"The trial of {plan.shadow} on plan {plan_id} starts anew.")
