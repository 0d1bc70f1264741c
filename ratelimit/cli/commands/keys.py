"""`ratelimit keys`: look at API keys."""

from __future__ import annotations

from typing import Any

import click

from ratelimit.catalog import Catalog
from ratelimit.cli import options, output
from ratelimit.cli.connection import Connection, connection_options, server_time
from ratelimit.errors import ConfigError
from ratelimit.model import ApiKey


@click.group(short_help="Make, change and list API keys.")
def keys() -> None:
    """Make, change and list API keys.

    Keys go by their ids. The value of a key is shown once, by create and rotate, and by nothing else. A change is
    obeyed by the very next check of every replica.
    """


def as_data(key: ApiKey) -> dict[str, Any]:
    """Return a key as JSON shows it: the names of the attributes, times in seconds since 1970. Without the value."""
    return {
        "id": key.id,
        "name": key.name,
        "enabled": key.enabled,
        "plans": list(key.plans),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "description": key.description,
        "owner": key.owner,
        "tags": dict(key.tags),
    }


def titled(key: ApiKey) -> str:
    """Return what messages call a key: its id, and its name if it has one."""
    return output.plain(f"{key.id} ({key.name})" if key.name else key.id)


def name_of(catalog: Catalog, key_id: str) -> str:
    """Return the name of a key as it may be shown, "" if the key is gone, or its id is garbage."""
    try:
        return output.plain(catalog.get_key(key_id).name)
    except ConfigError:
        return ""


def _state(key: ApiKey, now: float) -> str:
    """Return whether a key's requests are looked at, `now` in seconds since 1970."""
    if not key.enabled:
        return "disabled"
    return "enabled" if key.expires_at is None or key.expires_at > now else "expired"


def show_key(key: ApiKey, now: float) -> None:
    """Print all that is known of a key, for people; `now` is in seconds since 1970."""
    fields = {
        "id": key.id,
        "name": key.name,
        "state": _state(key, now),
        "plans": ", ".join(key.plans) or "none",
        "created": output.day(key.created_at),
        "expires": output.day(key.expires_at),
        "owner": key.owner,
        "description": key.description,
        "tags": ", ".join(f"{name}={text}" for name, text in key.tags.items()),
    }
    output.show_fields({name: output.plain(text) for name, text in fields.items()})


@keys.command("list", short_help="List keys, the newest first.")
@click.option("--prefix", default="", metavar="TEXT", help="Only keys whose name starts so.")
@click.option("--limit", type=click.IntRange(1, 500), default=25, show_default=True, help="How many to a page.")
@click.option("--cursor", help="Where to go on: what the page before said.")
@click.option("--all", "everything", is_flag=True, help="All pages.")
@options.json_option
@connection_options
def list_keys(
    connection: Connection, prefix: str, limit: int, cursor: str | None, everything: bool, as_json: bool
) -> None:
    """List API keys, the newest first, in pages."""
    with connection.catalog() as catalog:
        if everything:
            if cursor is not None:
                raise click.UsageError("give one of --all and --cursor")
            found = catalog.keys(prefix)
        else:
            page = catalog.list_keys(prefix, limit, cursor)
            found, cursor = page.items, page.cursor
        now = server_time(catalog)
    if as_json:
        output.print_json({"keys": [as_data(key) for key in found], "cursor": cursor})
        return
    console = output.console()
    if not found:
        console.print("No key." if not prefix else "No key with such a name.")
        return
    table = output.table("id", "name", "state", "plans", "created", "expires")
    for key in found:
        state = _state(key, now)
        created, expires = (output.day(moment).partition(" ")[0] for moment in (key.created_at, key.expires_at))
        cells = (*map(output.plain, (key.id, key.name)), state, output.plain(", ".join(key.plans)), created, expires)
        table.add_row(*cells, style="" if state == "enabled" else "dim")
    output.keep_whole(table, "id", "created", "expires")
    console.print(table)
    if cursor is not None:
        console.print(f"There are more: --cursor {cursor}")


@keys.command(short_help="Show one key.")
@click.argument("key_id")
@options.json_option
@connection_options
def show(connection: Connection, key_id: str, as_json: bool) -> None:
    """Show all that is known of the key KEY_ID, but its value, which nobody knows."""
    with connection.catalog() as catalog:
        key, now = catalog.get_key(key_id), server_time(catalog)
    if as_json:
        output.print_json(as_data(key))
    else:
        show_key(key, now)


@keys.command(short_help="Show which stages and methods a key opens.")
@click.argument("key_id")
@options.json_option
@connection_options
@click.pass_context
def opens(ctx: click.Context, connection: Connection, key_id: str, as_json: bool) -> None:
    """Show which stages and methods the key KEY_ID opens, and the limits that its requests meet there.

    "*" stands for all methods of a stage that nobody lists. Exit code 1 if it opens nothing.
    """
    with connection.catalog() as catalog:
        stages, key, now = catalog.key_access(key_id), catalog.get_key(key_id), server_time(catalog)
    if as_json:
        output.print_json(
            [
                {
                    "stage": stage.stage,
                    "plan": stage.plan,
                    "methods": {
                        name: {"key_required": method.key_required, "limits": list(method.limits)}
                        for name, method in stage.methods.items()
                    },
                }
                for stage in stages
            ]
        )
    elif stages:
        table = output.table("stage", "plan", "method", "key", "limits")
        for stage in stages:
            table.add_section()
            for number, (name, method) in enumerate(stage.methods.items()):
                first = (stage.stage, stage.plan) if not number else ("", "")
                needed = "needed" if method.key_required else "open to all"
                table.add_row(*first, name, needed, "\n".join(method.limits) or "none")
        output.console().print(table)
    else:
        state = _state(key, now)
        reason = f"is {state}" if state != "enabled" else "is in no plan that opens a stage (see `ratelimit keys add`)"
        output.console().print(f"Key {titled(key)} opens nothing: it {reason}.")
    ctx.exit(0 if stages else 1)
