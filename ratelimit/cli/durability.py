"""The options of commands that wait for the replicas of Redis, and what they say about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from typing import Any, TypedDict

import click

from ratelimit.cli import options, output
from ratelimit.model import ApiKey, Replication

_TIMEOUT_S = 1.0


class Durability(TypedDict):
    """What `durable_options` passes on to the catalogue; see `Catalog`."""

    durable: bool
    durable_timeout: float


def durable_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --durable and --durable-timeout to a command, as `durability`."""

    @click.option(
        "--durable",
        is_flag=True,
        help="Wait until all connected replicas of Redis have the change. Exit code 1 if not all of them, or if there "
        "are none: the change is made all the same.",
    )
    @click.option(
        "--durable-timeout",
        type=options.Seconds(0, 60, min_open=True),
        metavar="SECONDS",
        help=f"How long to wait for them.  [default: {_TIMEOUT_S:g}]",
    )
    @wraps(command)
    def with_durability(*args: Any, durable: bool, durable_timeout: float | None, **keywords: Any) -> Any:
        if durable_timeout is not None and not durable:
            raise click.UsageError("--durable-timeout belongs to --durable: give both")
        timeout_s = _TIMEOUT_S if durable_timeout is None else durable_timeout
        return command(*args, durability=Durability(durable=durable, durable_timeout=timeout_s), **keywords)

    return with_durability


def as_data(replication: Replication | None) -> dict[str, Any]:
    """Return what is added to a command's JSON; nothing if it did not wait."""
    return {} if replication is None else {"replication": asdict(replication)}


def report(changed: ApiKey | Replication | None, *, as_json: bool) -> None:
    """Say which replicas have a change, if the command waited for them; end it with 1 if not all of them do."""
    replication = changed.replication if isinstance(changed, ApiKey) else changed
    if replication is None:
        return
    if not as_json:
        complete = replication.is_complete
        output.console(stderr=not complete).print(_message(replication), style="" if complete else "yellow")
    if not replication.is_complete:
        click.get_current_context().exit(1)


def _message(replication: Replication) -> str:
    if not replication.replicas:
        return "No replica is connected that could acknowledge it."
    is_set = "is set" if replication.has_min_replicas else "is not set"
    replicas = f"{replication.acknowledged} of {replication.replicas} connected replicas"
    return f"{replicas} have acknowledged it; min-replicas-to-write {is_set}."
