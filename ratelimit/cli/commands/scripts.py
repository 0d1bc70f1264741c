"""`ratelimit scripts`: load the Lua scripts into Redis."""

from __future__ import annotations

import click

from ratelimit.cli import options, output
from ratelimit.cli.connection import Connection, connection_options


@click.group(short_help="Load the scripts that gateways call.")
def scripts() -> None:
    """Load the scripts that gateways call. Needed only where the gateways' user may not send scripts (EVAL)."""


@scripts.command(short_help="Load the scripts that gateways call.", epilog="Example: ratelimit scripts load")
@options.json_option
@connection_options
def load(connection: Connection, as_json: bool) -> None:
    """Load the scripts that gateways of this version call, as an administrator.

    Servers lose scripts when they restart, and do not replicate them: repeat this after a restart, after a failover,
    and before another version of this package is rolled out. Loading a script twice does no harm.
    """
    with connection.catalog() as catalog:
        loaded = catalog.load_scripts()
    if as_json:
        output.print_json(loaded)
        return
    for name, sha in loaded.items():
        output.console().print(f"{sha}  {name}")
