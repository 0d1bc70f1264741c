"""`ratelimit scripts`: what runs inside Redis."""

from __future__ import annotations

import click

from ratelimit.cli import options, output
from ratelimit.cli.connection import Connection, connection_options


@click.group(short_help="Give the server the scripts that gateways call.")
def scripts() -> None:
    """Give the server the scripts that gateways call: for gateways whose user may not send scripts (EVAL)."""


@scripts.command(short_help="Load the scripts that gateways call.")
@options.json_option
@connection_options
def load(connection: Connection, as_json: bool) -> None:
    """Load the scripts that gateways of this version call, as an administrator.

    Servers forget scripts when they restart and do not hand them to replicas: repeat this after a restart, after a
    failover, and before another version of this package is rolled out. Those that are there already do no harm.
    """
    with connection.catalog() as catalog:
        loaded = catalog.load_scripts()
    if as_json:
        output.print_json(loaded)
        return
    for name, sha in loaded.items():
        output.console().print(f"{sha}  {name}")
