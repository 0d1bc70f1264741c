"""`ratelimit keys`: make and change API keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from ratelimit.admin.keys import KeyDetails
from ratelimit.cli import options, output
from ratelimit.cli.commands.keys import as_data, keys, show_key, titled
from ratelimit.cli.connection import Connection, connection_options, server_time
from ratelimit.cli.output import InputFailure, StoreFailure
from ratelimit.errors import Conflict
from ratelimit.model import ApiKey

_OVER = "It has expired already, and is refused: see `ratelimit keys update --expires`."
_SHOWN_ONCE = "The value is shown this once and stored nowhere: keep it now."


def _about_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--tag", "tags", type=options.tag, multiple=True, metavar="NAME=TEXT", help="A tag; repeat it."),
        click.option("--owner", help="Whose it is, for people and for billing."),
        click.option("--description", help="A text for people."),
        click.option(
            "--expires",
            type=options.moment,
            metavar="MOMENT",
            help="From when on it is refused: 2027-01-31, 2027-01-31T12:00 (UTC), or never.",
        ),
    ):
        command = option(command)
    return command


def _about(
    expires: float | None, description: str | None, owner: str | None, tags: tuple[tuple[str, str], ...]
) -> KeyDetails:
    about = KeyDetails()
    if expires is not None:
        about["expires_at"] = None if expires == options.NEVER else expires
    if description is not None:
        about["description"] = description
    if owner is not None:
        about["owner"] = owner
    if tags:
        about["tags"] = options.tags(tags)
    return about


def _show_new(key: ApiKey, told: str, *, generated: bool, as_json: bool) -> None:
    """Print a key with its new value, unless its owner has chosen that, and so knows it."""
    try:
        if as_json:
            output.print_json({**as_data(key), "value": key.value if generated else None})
        else:
            output.console().print(told)
            if generated:
                click.echo(f"value  {key.value}")
    except OSError as error:
        if not generated:
            raise
        lost = f"{told}\nIts value could not be written: {error.strerror or error}."
        raise StoreFailure(f"{lost} Give it another: `ratelimit keys rotate {key.id}`.") from None
    if generated:
        output.console(stderr=True).print(_SHOWN_ONCE, style="yellow")


def _show_changed(key: ApiKey, told: str, *, as_json: bool) -> None:
    if as_json:
        output.print_json(as_data(key))
    else:
        output.console().print(told)


@keys.command(short_help="Make a key, and show its value once.")
@click.argument("name", default="")
@click.option("--plan", "plans", multiple=True, metavar="PLAN", help="A plan that it joins; repeat it for several.")
@click.option("--disabled", is_flag=True, help="Make it, and leave it disabled.")
@_about_options
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
    """Make an API key called NAME and print its value: this once, it is stored nowhere."""
    about = _about(expires, description, owner, tags)
    value = options.own_value(value_from)
    with connection.catalog() as catalog:
        key = catalog.create_key(name, value, plans, not disabled, **about)
        is_over = key.expires_at is not None and key.expires_at <= server_time(catalog)
    told = f"Made key {titled(key)}, plans: {', '.join(key.plans) or 'none yet (see `ratelimit keys add`)'}."
    _show_new(key, told, generated=value is None, as_json=as_json)
    if is_over:
        output.console(stderr=True).print(_OVER, style="yellow")


@keys.command(short_help="Give a key a new value, and show it once.")
@click.argument("key_id")
@click.option(
    "--grace",
    type=options.duration,
    default="0",
    metavar="DURATION",
    help="How long the old value works beside the new one, on the same limits: 90s, 15m, 24h, 7d. Not at all unless "
    "given.",
)
@options.value_option
@options.yes_option
@options.json_option
@connection_options
def rotate(connection: Connection, key_id: str, grace: float, value_from: str | None, yes: bool, as_json: bool) -> None:
    """Give the key KEY_ID a new value and print it: this once, it is stored nowhere. Limits and counts stay."""
    with connection.catalog() as catalog:
        key = catalog.get_key(key_id)
        if not grace:
            question = f"The present value of key {titled(key)} is refused from now on, as there is no --grace. Rotate?"
            options.confirm(question, yes=yes)
        value = options.own_value(value_from)
        key = catalog.rotate_key(key_id, grace, value, expected=key)
    ends = f"works for {output.seconds(grace)} more" if grace else "is refused"
    told = f"Rotated key {titled(key)}: the old value {ends}."
    _show_new(key, told, generated=value is None, as_json=as_json)


@keys.command(short_help="Change what is known of a key.")
@click.argument("key_id")
@click.option("--name", help="What it is called.")
@_about_options
@click.option("--no-tags", is_flag=True, help="Take all tags away.")
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
    as_json: bool,
) -> None:
    """Change what is given of the key KEY_ID. Tags that are given replace all that it had."""
    if tags and no_tags:
        raise click.UsageError("give one of --tag and --no-tags")
    about = _about(expires, description, owner, tags)
    if no_tags:
        about["tags"] = {}
    if not about and name is None:
        raise click.UsageError("give what is to change, such as --name")
    with connection.catalog() as catalog:
        key = catalog.update_key(key_id, name=name, **about)
        now = server_time(catalog)
    if as_json:
        output.print_json(as_data(key))
    else:
        show_key(key, now)


@keys.command(short_help="Let a key's requests pass again.")
@click.argument("key_id")
@options.json_option
@connection_options
def enable(connection: Connection, key_id: str, as_json: bool) -> None:
    """Enable the key KEY_ID."""
    _switch(connection, key_id, enabled=True, as_json=as_json)


@keys.command(short_help="Refuse a key's requests, from the next one on.")
@click.argument("key_id")
@options.json_option
@connection_options
def disable(connection: Connection, key_id: str, as_json: bool) -> None:
    """Disable the key KEY_ID: every replica refuses its very next request."""
    _switch(connection, key_id, enabled=False, as_json=as_json)


def _switch(connection: Connection, key_id: str, *, enabled: bool, as_json: bool) -> None:
    with connection.catalog() as catalog:
        before = catalog.get_key(key_id).enabled
        key = catalog.update_key(key_id, enabled=enabled)
    state = "enabled" if enabled else "disabled"
    told = f"Key {titled(key)} was {state} already." if before == enabled else f"Key {titled(key)} is {state}."
    _show_changed(key, told, as_json=as_json)


@keys.command(short_help="Put a key into a plan.")
@click.argument("key_id")
@click.argument("plan_id")
@options.json_option
@connection_options
def add(connection: Connection, key_id: str, plan_id: str, as_json: bool) -> None:
    """Put the key KEY_ID into the plan PLAN_ID. A key may be in one plan of each stage."""
    with connection.catalog() as catalog:
        try:
            key, told = catalog.add_key_to_plan(key_id, plan_id), "is in plan {} now"
        except Conflict as error:
            key, told = catalog.get_key(key_id), "was in plan {} already"
            if plan_id not in key.plans:
                raise InputFailure(
                    f"{error}\nTo take it out of the other one in the same step: `ratelimit keys move`."
                ) from None
    _show_changed(key, f"Key {titled(key)} {told.format(plan_id)}.", as_json=as_json)


@keys.command(short_help="Take a key out of a plan.")
@click.argument("key_id")
@click.argument("plan_id")
@options.json_option
@connection_options
def remove(connection: Connection, key_id: str, plan_id: str, as_json: bool) -> None:
    """Take the key KEY_ID out of the plan PLAN_ID. What it used is kept: joining again gains nothing."""
    with connection.catalog() as catalog:
        key, told = catalog.get_key(key_id), "was not in plan {}"
        if plan_id in key.plans:
            key, told = catalog.remove_key_from_plan(key_id, plan_id), "is no longer in plan {}"
        else:
            catalog.get_plan(plan_id)
    _show_changed(key, f"Key {titled(key)} {told.format(plan_id)}.", as_json=as_json)


@keys.command(short_help="Delete a key, and all that was counted for it.")
@click.argument("key_id")
@options.yes_option
@options.json_option
@connection_options
def delete(connection: Connection, key_id: str, yes: bool, as_json: bool) -> None:
    """Delete the key KEY_ID for good, with its limits' state and its usage. To stop it for a while, disable it."""
    with connection.catalog() as catalog:
        key = catalog.get_key(key_id)
        options.confirm(f"Delete key {titled(key)} and its usage for good?", yes=yes)
        catalog.delete_key(key_id, expected=key)
    if as_json:
        output.print_json({"deleted": key_id})
    else:
        output.console().print(f"Deleted key {titled(key)}.")
