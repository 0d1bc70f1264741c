"""`ratelimit keys`: create, change, list, import and export API keys."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any

import click

from ratelimit.admin.csv.transfer import ImportReport
from ratelimit.admin.keys import KeyDetails
from ratelimit.catalog import Catalog
from ratelimit.cli import durability as durability_report
from ratelimit.cli import options, output
from ratelimit.cli.connection import Connection, connection_options, server_time
from ratelimit.cli.durability import Durability, durable_options
from ratelimit.cli.output import InputFailure, StoreFailure
from ratelimit.errors import ConfigError, Conflict
from ratelimit.model import ApiKey
from ratelimit.validation import printable

_EXPIRED_ALREADY = "This key has already expired, so its requests are denied: see `ratelimit keys update --expires`."
_SHOWN_ONCE = "The value is shown only this once and stored nowhere: save it now."
_EXPORT_BYTES_IN_MEMORY = 2**23
_MAX_WARNINGS_SHOWN = 50


@click.group(short_help="Create, change and list API keys.")
def keys() -> None:
    """Create, change and list API keys.

    Commands name a key by its id. Its value is shown once, by `create` and `rotate`, and by no other command. A change
    applies from the very next check on, on every replica.
    """


# What commands print about a key


def as_data(key: ApiKey) -> dict[str, Any]:
    """Return a key for JSON: its attributes by name, times in seconds since 1970. The value is not among them."""
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
        **durability_report.as_data(key.replication),
    }


def display_name(key: ApiKey) -> str:
    """Return what messages call a key: its id, with its name if it has one."""
    return printable(f"{key.id} ({key.name})" if key.name else key.id)


def name_of(catalog: Catalog, key_id: str) -> str:
    """Return the printable name of a key; "" if the key is gone or its id is not valid."""
    try:
        return printable(catalog.get_key(key_id).name)
    except ConfigError:
        return ""


def _state(key: ApiKey, now: float) -> str:
    """Return "enabled", "disabled" or "expired"; `now` is in seconds since 1970."""
    if not key.enabled:
        return "disabled"
    return "enabled" if key.expires_at is None or key.expires_at > now else "expired"


def _print_key(key: ApiKey, now: float) -> None:
    fields = {
        "id": key.id,
        "name": key.name,
        "state": _state(key, now),
        "plans": ", ".join(key.plans) or "none",
        "created": output.date_time(key.created_at),
        "expires": output.date_time(key.expires_at),
        "owner": key.owner,
        "description": key.description,
        "tags": ", ".join(f"{name}={text}" for name, text in key.tags.items()),
    }
    output.print_fields({name: printable(text) for name, text in fields.items()})


def _print_changed(key: ApiKey, message: str, *, as_json: bool) -> None:
    if as_json:
        output.print_json(as_data(key))
    else:
        output.console().print(message)
    durability_report.report(key, as_json=as_json)


def _print_new_value(key: ApiKey, message: str, *, generated: bool, as_json: bool) -> None:
    """Print a key with its new value. A value that the user chose is not printed again."""
    try:
        if as_json:
            output.print_json({**as_data(key), "value": key.value if generated else None})
        else:
            output.console().print(message)
            if generated:
                click.echo(f"value  {key.value}")
    except OSError as error:
        if not generated:
            raise
        lost = f"{message}\nIts value could not be written: {error.strerror or error}."
        raise StoreFailure(f"{lost} Give it another one: `ratelimit keys rotate {key.id}`.") from None
    if generated:
        output.console(stderr=True).print(_SHOWN_ONCE, style="yellow")
    durability_report.report(key, as_json=as_json)


# Look at keys


@keys.command("list", short_help="List keys, newest first.", epilog="Example: ratelimit keys list --prefix acme")
@click.option("--prefix", default="", metavar="TEXT", help="Only keys whose name starts with this.")
@click.option("--limit", type=click.IntRange(1, 500), default=25, show_default=True, help="Keys per page.")
@click.option("--cursor", help="Where to continue: printed at the end of the page before.")
@click.option("--all", "all_pages", is_flag=True, help="All pages.")
@options.json_option
@connection_options
def list_keys(
    connection: Connection, prefix: str, limit: int, cursor: str | None, all_pages: bool, as_json: bool
) -> None:
    """List API keys page by page, newest first."""
    with connection.catalog() as catalog:
        if all_pages:
            if cursor is not None:
                raise click.UsageError("--all and --cursor exclude each other: give one of them")
            listed = catalog.keys(prefix)
        else:
            page = catalog.list_keys(prefix, limit, cursor)
            listed, cursor = page.items, page.cursor
        now = server_time(catalog)
    if as_json:
        output.print_json({"keys": [as_data(key) for key in listed], "cursor": cursor})
        return
    console = output.console()
    if not listed:
        console.print("No keys." if not prefix else "No key has such a name.")
        return
    table = output.table("id", "name", "state", "plans", "created", "expires")
    for key in listed:
        state = _state(key, now)
        created, expires = (output.date_time(time).partition(" ")[0] for time in (key.created_at, key.expires_at))
        cells = (*map(printable, (key.id, key.name)), state, printable(", ".join(key.plans)), created, expires)
        table.add_row(*cells, style="" if state == "enabled" else "dim")
    output.avoid_wrapping(table, "id", "created", "expires")
    console.print(table)
    if cursor is not None:
        console.print(f"There are more: --cursor {cursor}")


@keys.command(short_help="Show one key.", epilog="Example: ratelimit keys show tpcx6e0oyw")
@click.argument("key_id")
@options.json_option
@connection_options
def show(connection: Connection, key_id: str, as_json: bool) -> None:
    """Show everything stored about the key KEY_ID. Its value is not stored, so it cannot be shown."""
    with connection.catalog() as catalog:
        key, now = catalog.get_key(key_id), server_time(catalog)
    if as_json:
        output.print_json(as_data(key))
    else:
        _print_key(key, now)


@keys.command(
    short_help="Show which stages and methods a key opens.", epilog="Example: ratelimit keys opens tpcx6e0oyw"
)
@click.argument("key_id")
@options.json_option
@connection_options
@click.pass_context
def opens(ctx: click.Context, connection: Connection, key_id: str, as_json: bool) -> None:
    """Show which stages and methods the key KEY_ID opens, and which limits apply to its requests there.

    "*" stands for all methods that the stage does not list. Exit code 1 if the key opens nothing.
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
                stage_and_plan = (stage.stage, stage.plan) if number == 0 else ("", "")
                needs_key = "needed" if method.key_required else "open to all"
                table.add_row(*stage_and_plan, name, needs_key, "\n".join(method.limits) or "none")
        output.console().print(table)
    else:
        state = _state(key, now)
        reason = f"is {state}" if state != "enabled" else "is in no plan that opens a stage (see `ratelimit keys add`)"
        output.console().print(f"Key {display_name(key)} opens nothing: it {reason}.")
    ctx.exit(0 if stages else 1)


# Create and change keys


def _details_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that describe a key; `_details` collects them."""
    for option in (
        click.option("--tag", "tags", type=options.tag, multiple=True, metavar="NAME=TEXT", help="A tag; repeatable."),
        click.option("--owner", help="Whose key it is, for people and for billing."),
        click.option("--description", help="A note for people."),
        click.option(
            "--expires",
            type=options.timestamp,
            metavar="TIME",
            help="When its requests start to be denied: 2027-01-31, 2027-01-31T12:00 (UTC), or never.",
        ),
    ):
        command = option(command)
    return command


def _details(
    expires: float | None, description: str | None, owner: str | None, tags: tuple[tuple[str, str], ...]
) -> KeyDetails:
    details = KeyDetails()
    if expires is not None:
        details["expires_at"] = None if expires == options.NEVER else expires
    if description is not None:
        details["description"] = description
    if owner is not None:
        details["owner"] = owner
    if tags:
        details["tags"] = options.tags(tags)
    return details


@keys.command(
    short_help="Create a key, and show its value once.",
    epilog='Example: ratelimit keys create "Acme Ltd" --plan gold --expires 2027-06-30',
)
@click.argument("name", default="")
@click.option("--plan", "plans", multiple=True, metavar="PLAN", help="A plan to add it to; repeatable.")
@click.option("--disabled", is_flag=True, help="Create it disabled.")
@_details_options
@options.value_option
@options.json_option
@connection_options
def create(
    connection: Connection,
    name: str,
    plans: tuple[str, ...],
    disabled: bool,
    expires: float | None,
    description: str | None,
    owner: str | None,
    tags: tuple[tuple[str, str], ...],
    value_from: str | None,
    as_json: bool,
) -> None:
    """Create an API key called NAME and print its value. It is shown only this once, as it is stored nowhere."""
    details = _details(expires, description, owner, tags)
    value = options.chosen_value(value_from)
    with connection.catalog() as catalog:
        key = catalog.create_key(name, value, plans, not disabled, **details)
        has_expired = key.expires_at is not None and key.expires_at <= server_time(catalog)
    message = (
        f"Created key {display_name(key)}, plans: {', '.join(key.plans) or 'none yet (see `ratelimit keys add`)'}."
    )
    _print_new_value(key, message, generated=value is None, as_json=as_json)
    if has_expired:
        output.console(stderr=True).print(_EXPIRED_ALREADY, style="yellow")


@keys.command(
    short_help="Give a key a new value, and show it once.",
    epilog="Example: ratelimit keys rotate tpcx6e0oyw --grace 7d",
)
@click.argument("key_id")
@click.option(
    "--grace",
    type=options.duration,
    default="0",
    metavar="DURATION",
    help="How long the old value goes on working, on the same limits: 90s, 15m, 24h, 7d. Without it, the old value "
    "stops working at once.",
)
@options.value_option
@durable_options
@options.yes_option
@options.json_option
@connection_options
def rotate(
    connection: Connection,
    key_id: str,
    grace: float,
    value_from: str | None,
    durability: Durability,
    yes: bool,
    as_json: bool,
) -> None:
    """Give the key KEY_ID a new value and print it. It is shown only this once. Limits and usage stay as they are."""
    with connection.catalog() as catalog:
        key = catalog.get_key(key_id)
        if not grace:
            question = f"Without --grace, the present value of key {display_name(key)} stops working at once. Rotate?"
            options.confirm(question, yes=yes)
        value = options.chosen_value(value_from)
        key = catalog.rotate_key(key_id, grace, value, expected=key, **durability)
    old_value = f"works for {output.seconds(grace)} more" if grace else "no longer works"
    message = f"Rotated key {display_name(key)}: the old value {old_value}."
    _print_new_value(key, message, generated=value is None, as_json=as_json)


@keys.command(
    short_help="Change a key's name, expiry, owner or tags.",
    epilog="Example: ratelimit keys update tpcx6e0oyw --owner ops@acme.example",
)
@click.argument("key_id")
@click.option("--name", help="Its name.")
@_details_options
@click.option("--no-tags", is_flag=True, help="Remove all tags.")
@durable_options
@options.json_option
@connection_options
def update(
    connection: Connection,
    key_id: str,
    name: str | None,
    expires: float | None,
    description: str | None,
    owner: str | None,
    tags: tuple[tuple[str, str], ...],
    no_tags: bool,
    durability: Durability,
    as_json: bool,
) -> None:
    """Change what the options name of the key KEY_ID. Given tags replace all tags that it had."""
    if tags and no_tags:
        raise click.UsageError("--tag and --no-tags exclude each other: give one of them")
    details = _details(expires, description, owner, tags)
    if no_tags:
        details["tags"] = {}
    if not details and name is None:
        raise click.UsageError("nothing to change: give an option such as --name")
    with connection.catalog() as catalog:
        key = catalog.update_key(key_id, name=name, **durability, **details)
        now = server_time(catalog)
    if as_json:
        output.print_json(as_data(key))
    else:
        _print_key(key, now)
    durability_report.report(key, as_json=as_json)


@keys.command(short_help="Admit a disabled key's requests again.", epilog="Example: ratelimit keys enable tpcx6e0oyw")
@click.argument("key_id")
@options.json_option
@connection_options
def enable(connection: Connection, key_id: str, as_json: bool) -> None:
    """Enable the key KEY_ID."""
    with connection.catalog() as catalog:
        was_enabled = catalog.get_key(key_id).enabled
        key = catalog.update_key(key_id, enabled=True)
    verb = "was enabled already" if was_enabled else "is enabled"
    _print_changed(key, f"Key {display_name(key)} {verb}.", as_json=as_json)


@keys.command(
    short_help="Deny a key's requests, from the next one on.", epilog="Example: ratelimit keys disable tpcx6e0oyw"
)
@click.argument("key_id")
@durable_options
@options.json_option
@connection_options
def disable(connection: Connection, key_id: str, durability: Durability, as_json: bool) -> None:
    """Disable the key KEY_ID: every replica denies its very next request."""
    with connection.catalog() as catalog:
        was_enabled = catalog.get_key(key_id).enabled
        key = catalog.update_key(key_id, enabled=False, **durability)
    verb = "is disabled" if was_enabled else "was disabled already"
    _print_changed(key, f"Key {display_name(key)} {verb}.", as_json=as_json)


def _confirmed(catalog: Catalog, key: ApiKey, durability: Durability) -> ApiKey:
    """Return a key that has been changed already: if that is to be durable, replicas may not have that change yet."""
    return catalog.update_key(key.id, **durability) if durability["durable"] else key


@keys.command(short_help="Add a key to a plan.", epilog="Example: ratelimit keys add tpcx6e0oyw gold")
@click.argument("key_id")
@click.argument("plan_id")
@options.json_option
@connection_options
def add(connection: Connection, key_id: str, plan_id: str, as_json: bool) -> None:
    """Add the key KEY_ID to the plan PLAN_ID. A key can be in one plan per stage."""
    with connection.catalog() as catalog:
        try:
            key, verb = catalog.add_key_to_plan(key_id, plan_id), "is now in"
        except Conflict as error:
            key, verb = catalog.get_key(key_id), "was already in"
            if plan_id not in key.plans:
                raise InputFailure(
                    f"{error}\nTo take it out of the other plan in the same step: `ratelimit keys move`."
                ) from None
    _print_changed(key, f"Key {display_name(key)} {verb} plan {plan_id}.", as_json=as_json)


@keys.command(short_help="Remove a key from a plan.", epilog="Example: ratelimit keys remove tpcx6e0oyw gold")
@click.argument("key_id")
@click.argument("plan_id")
@durable_options
@options.json_option
@connection_options
def remove(connection: Connection, key_id: str, plan_id: str, durability: Durability, as_json: bool) -> None:
    """Remove the key KEY_ID from the plan PLAN_ID. Its usage is kept, so that leaving and joining resets nothing."""
    with connection.catalog() as catalog:
        key, verb = catalog.get_key(key_id), "was not in"
        if plan_id in key.plans:
            key, verb = catalog.remove_key_from_plan(key_id, plan_id, **durability), "is no longer in"
        else:
            catalog.get_plan(plan_id)
            key = _confirmed(catalog, key, durability)
    _print_changed(key, f"Key {display_name(key)} {verb} plan {plan_id}.", as_json=as_json)


@keys.command(
    short_help="Move a key from one plan to another.", epilog="Example: ratelimit keys move tpcx6e0oyw trial gold"
)
@click.argument("key_id")
@click.argument("from_plan")
@click.argument("to_plan")
@durable_options
@options.json_option
@connection_options
def move(
    connection: Connection, key_id: str, from_plan: str, to_plan: str, durability: Durability, as_json: bool
) -> None:
    """Move the key KEY_ID from the plan FROM_PLAN to TO_PLAN in one step: at no time is it in neither of them.

    What it used under each plan stays with that plan.
    """
    with connection.catalog() as catalog:
        key, verb = catalog.get_key(key_id), "was already moved to"
        if from_plan in key.plans or to_plan not in key.plans:
            key, verb = catalog.move_key(key_id, from_plan, to_plan, **durability), "has moved to"
        else:
            catalog.get_plan(from_plan)
            key = _confirmed(catalog, key, durability)
    _print_changed(key, f"Key {display_name(key)} {verb} plan {to_plan}.", as_json=as_json)


@keys.command(
    short_help="Delete a key and everything counted for it.", epilog="Example: ratelimit keys delete tpcx6e0oyw"
)
@click.argument("key_id")
@durable_options
@options.yes_option
@options.json_option
@connection_options
def delete(connection: Connection, key_id: str, durability: Durability, yes: bool, as_json: bool) -> None:
    """Delete the key KEY_ID for good, with the state of its limits and its usage. To only stop it, disable it."""
    with connection.catalog() as catalog:
        key = catalog.get_key(key_id)
        options.confirm(f"Delete key {display_name(key)} and its usage for good?", yes=yes)
        replication = catalog.delete_key(key_id, expected=key, **durability)
    if as_json:
        output.print_json({"deleted": key_id, **durability_report.as_data(replication)})
    else:
        output.console().print(f"Deleted key {display_name(key)}.")
    durability_report.report(replication, as_json=as_json)


# Keys as CSV


@keys.command(
    "import",
    short_help="Create or update keys from a CSV file.",
    epilog="Example: ratelimit keys import keys.csv --fail-on-warnings",
)
@click.argument("file", type=click.Path(allow_dash=True))
@click.option("--fail-on-warnings", is_flag=True, help="Store nothing if there is any warning.")
@options.json_option
@connection_options
@click.pass_context
def import_keys(ctx: click.Context, connection: Connection, file: str, fail_on_warnings: bool, as_json: bool) -> None:
    """Create the API keys of FILE ("-": standard input), and update those that exist.

    FILE is CSV in the format of AWS API Gateway. The first line names the columns: Key and Name, and optionally
    Description, Enabled and UsagePlanIds. Valid rows are stored; each other row is reported as a warning with its line
    number. An import that was interrupted can be repeated.

    Exit code 1 if --fail-on-warnings prevented the import.
    """
    source = sys.stdin.buffer if file == "-" else Path(file)
    with output.progress() as progress, connection.catalog() as catalog:
        row_count = None if progress.disable or file == "-" else _estimated_rows(Path(file))
        task = progress.add_task("Importing", total=row_count, note="")
        report = catalog.import_keys(
            source,
            fail_on_warnings,
            lambda rows: progress.update(task, completed=rows, note=output.count(rows, "row")),
        )
    if as_json:
        warnings = [{"line": warning.line, "message": warning.message} for warning in report.warnings]
        counts = {"created": report.created, "updated": report.updated, "ids": list(report.ids)}
        output.print_json({**counts, "warnings": warnings})
    else:
        _print_import(report, fail_on_warnings=fail_on_warnings)
    ctx.exit(1 if fail_on_warnings and report.warnings else 0)


def _estimated_rows(file: Path) -> int | None:
    """Return about how many rows a file has, for the progress bar; None if it cannot be read twice."""
    if not file.is_file():
        return None
    try:
        with file.open("rb") as opened:
            return max(1, sum(chunk.count(b"\n") for chunk in iter(lambda: opened.read(2**20), b"")) - 1)
    except OSError:
        return None  # the import itself reports what is wrong


def _print_import(report: ImportReport, *, fail_on_warnings: bool) -> None:
    stderr = output.console(stderr=True)
    for warning in report.warnings[:_MAX_WARNINGS_SHOWN]:
        stderr.print(f"line {warning.line}: {printable(warning.message)}", style="yellow", soft_wrap=True)
    if len(report.warnings) > _MAX_WARNINGS_SHOWN:
        stderr.print(f"{output.count(len(report.warnings) - _MAX_WARNINGS_SHOWN, 'more warning')}: --json lists all.")
    console, warnings = output.console(), output.count(len(report.warnings), "warning")
    if fail_on_warnings and report.warnings and not report.ids:
        console.print(f"Nothing stored: {warnings}.")
    else:
        console.print(f"{output.count(report.created, 'key')} created, {report.updated:,} updated, {warnings}.")


@keys.command(
    "export",
    short_help="Write all keys to a CSV file, without their values.",
    epilog="Example: ratelimit keys export keys.csv",
)
@click.argument("file", type=click.Path(allow_dash=True, dir_okay=False), default="-")
@options.json_option
@connection_options
def export_keys(connection: Connection, file: str, as_json: bool) -> None:
    """Write all API keys as CSV to FILE (standard output by default), newest first, without their values.

    An existing file is replaced, but only once all keys have been read. Cells that a spreadsheet would take for a
    formula get a single quote in front. With --json, the number of keys is printed as JSON.
    """
    if as_json and file == "-":
        raise click.UsageError("--json needs a FILE to report on: give one, or use `keys list --all --json`")
    with SpooledTemporaryFile(max_size=_EXPORT_BYTES_IN_MEMORY) as buffer:
        with connection.catalog() as catalog:
            count = catalog.export_keys(buffer)
        buffer.seek(0)
        if file == "-":
            shutil.copyfileobj(buffer, sys.stdout.buffer)
            sys.stdout.buffer.flush()
            return
        try:
            with Path(file).open("wb") as target:
                shutil.copyfileobj(buffer, target)
        except OSError as error:
            raise ConfigError(f"cannot be written: {error.strerror}", field=file) from None
    if as_json:
        output.print_json({"keys": count, "file": file})
    else:
        output.console().print(f"{output.count(count, 'key')} written to {printable(file)}.", soft_wrap=True)
