"""`ratelimit keys move`: from one plan to another without a moment in neither."""

from __future__ import annotations

import click

from ratelimit.cli import options, output
from ratelimit.cli.commands.keys import as_data, keys, titled
from ratelimit.cli.connection import Connection, connection_options


@keys.command(short_help="Move a key from one plan to another.")
@click.argument("key_id")
@click.argument("from_plan")
@click.argument("to_plan")
@options.json_option
@connection_options
def move(connection: Connection, key_id: str, from_plan: str, to_plan: str, as_json: bool) -> None:
    """Move the key KEY_ID from the plan FROM_PLAN to TO_PLAN in one step: none of its requests finds it in neither.

    What it used of either plan stays with that plan.
    """
    with connection.catalog() as catalog:
        key, told = catalog.get_key(key_id), "was moved to plan {} already"
        if from_plan in key.plans or to_plan not in key.plans:
            key, told = catalog.move_key(key_id, from_plan, to_plan), "has moved to plan {}"
        else:
            catalog.get_plan(from_plan)
    if as_json:
        output.print_json(as_data(key))
    else:
        output.console().print(f"Key {titled(key)} {told.format(to_plan)}.")
