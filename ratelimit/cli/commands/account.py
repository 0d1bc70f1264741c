"""`ratelimit account`: the one throttle that all requests of all callers share."""

from __future__ import annotations

import json

import click

from ratelimit.cli import options, output
from ratelimit.cli.connection import Connection, connection_options
from ratelimit.model import Throttle
from ratelimit.registry import plan_documents

_UNCHANGED = "Nothing changed, account: {}."
_CHANGED = "Account, from now on: {}."


@click.group(short_help="Show or set the throttle that all requests share.")
def account() -> None:
    """Show or set the one throttle that all requests of all callers share."""


def _print_throttle(throttle: Throttle | None, message: str, *, as_json: bool) -> None:
    """Print the throttle as JSON, or a message with the throttle in its braces."""
    if as_json:
        data = None if throttle is None else json.loads(plan_documents.throttle_json(throttle))
        output.print_json({"throttle": data})
    else:
        output.console().print(message.format(output.throttle(throttle) or "unlimited"))


@account.command(short_help="Show the account's throttle.", epilog="Example: ratelimit account show")
@options.json_option
@connection_options
def show(connection: Connection, as_json: bool) -> None:
    """Show the account's throttle."""
    with connection.catalog() as catalog:
        _print_throttle(catalog.get_account_throttle(), "Account: {}.", as_json=as_json)


@account.command(
    "set", short_help="Set the account's throttle.", epilog="Example: ratelimit account set --rate 1000 --burst 500"
)
@options.throttle_options
@options.json_option
@connection_options
def set_throttle(connection: Connection, rate: str | None, burst: int | None, as_json: bool) -> None:
    """Set the account's throttle."""
    throttle = options.throttle(rate, burst)
    if throttle is None:
        raise click.UsageError("give --rate and --burst; to remove the throttle, use `account unset`")
    with connection.catalog() as catalog:
        before = catalog.get_account_throttle()
        catalog.set_account_throttle(throttle)
    _print_throttle(throttle, _UNCHANGED if before == throttle else _CHANGED, as_json=as_json)


@account.command(short_help="Remove the account's throttle.", epilog="Example: ratelimit account unset")
@options.yes_option
@options.json_option
@connection_options
def unset(connection: Connection, yes: bool, as_json: bool) -> None:
    """Remove the account's throttle."""
    with connection.catalog() as catalog:
        before = catalog.get_account_throttle()
        if before is not None:
            options.confirm(f"Remove the account's throttle ({output.throttle(before)})?", yes=yes)
        catalog.set_account_throttle(None, expected=before)
    _print_throttle(None, _UNCHANGED if before is None else _CHANGED, as_json=as_json)
