"""The options that name the server, the limiter and catalogue on it, and what is printed when it fails."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import date
from functools import wraps
from typing import Any

import click

from ratelimit.catalog import Catalog
from ratelimit.cli.ceilings import ceilings
from ratelimit.cli.output import StoreFailure
from ratelimit.errors import Cause, StoreError
from ratelimit.limiter import Limiter, Options
from ratelimit.model import MICROSECONDS
from ratelimit.registry.windows import EPOCH_ORDINAL, day_of
from ratelimit.store import clients, urls

PEPPER = "RATELIMIT_PEPPER"
_PERMISSIONS = (
    "This Redis user lacks a permission, so the command may have been carried out in part. lua/ACL.md says what an "
    "administrator needs. Check what is stored now, then repeat the command as such a user."
)
_REMEDIES = {
    "no permissions to": _PERMISSIONS,
    "can't run this command": _PERMISSIONS,
    "+cluster|slots": "Nothing was carried out. lua/ACL.md says what each user needs on a cluster.",
    "username-password": "Check the user and the password in RATELIMIT_URL; percent-encode special characters. On a "
    "cluster, users and passwords must be the same on every node.",
    "Authentication required": "Put the password into RATELIMIT_URL: redis://:PASSWORD@host:port/0.",
    "DB index is out of range": "The number at the end of the URL is the database: this server has fewer.",
}
"""What to do about an error of the server: a part of its message -> the remedy. The last one that fits counts."""
_NO_ANSWER = ("not_sent", "unknown", None)


@dataclass(frozen=True, slots=True)
class Connection:
    """The server that the options name.

    The pepper is read from the environment only: command lines are visible to others.

    Attributes:
        url: The server's URL; it may hold a password.
        namespace: The prefix of all names in Redis.
        deadline: Seconds to wait for the server.
    """

    url: str = field(repr=False)
    namespace: str
    deadline: float

    @contextmanager
    def limiter(self) -> Iterator[Limiter]:
        """Open a limiter for a `with` block.

        Raises:
            StoreFailure: Redis failed within the block; with the remedy.
        """
        pepper = os.environ.get(PEPPER) or None
        options = Options(namespace=self.namespace, deadline=self.deadline, pepper=pepper, on_unavailable="closed")
        client = clients.client_from_url(self.url, clients.validate_deadline(self.deadline))
        with closing(client), Limiter(client, **options) as limiter:
            limiter.catalog.ceilings = ceilings()
            try:
                yield limiter
            except StoreError as error:
                lines = [f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())]
                raise self.failure("\n".join(lines), error.cause) from None

    @contextmanager
    def catalog(self) -> Iterator[Catalog]:
        """Open a limiter's catalogue for a `with` block, as `limiter` does."""
        with self.limiter() as limiter:
            yield limiter.catalog

    def failure(self, message: str, cause: Cause | None) -> StoreFailure:
        """Return the error that ends a command because Redis failed, with the remedy.

        Args:
            message: What happened.
            cause: That of the StoreError, or of the decision.
        """
        remedy = f"The server is {self.shown_url}."
        if cause in _NO_ANSWER:
            remedy = f"Is a server running at {self.shown_url}? Name another one by --url or RATELIMIT_URL."
        for part, better in _REMEDIES.items():
            if part in message:
                remedy = f"{better} The server is {self.shown_url}."
        return StoreFailure(f"{message}\n{remedy}")

    @property
    def shown_url(self) -> str:
        """The URL without user and password."""
        return urls.redact_url(self.url)


def server_day(limiter: Limiter) -> date:
    """Return today's date (UTC) by the server's clock, which decides which window a request belongs to."""
    now_us = limiter._store.run(limiter._namespace.server_us())
    return date.fromordinal(EPOCH_ORDINAL + day_of(now_us))


def server_time(catalog: Catalog) -> float:
    """Return the server's time, in seconds since 1970."""
    return catalog._run(catalog._namespace.server_us()) / MICROSECONDS


deadline_option = click.option(
    "--deadline", metavar="SECONDS", type=float, default=2.0, show_default=True, help="How long to wait for Redis."
)
namespace_option = click.option(
    "--namespace",
    envvar="RATELIMIT_NAMESPACE",
    default="ratelimit",
    show_default=True,
    show_envvar=True,
    help="Prefix of all names in Redis.",
)


def connection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --url, --namespace and --deadline to a command, as one `Connection` called `connection`."""

    @wraps(command)
    def connected(*args: Any, url: str, namespace: str, deadline: float, **options: Any) -> Any:
        return command(*args, connection=Connection(url, namespace, deadline), **options)

    for option in (
        deadline_option,
        namespace_option,
        click.option(
            "--url",
            envvar="RATELIMIT_URL",
            default="redis://localhost:6379/0",
            show_default=True,
            show_envvar=True,
            help="The server: redis://, rediss://, unix:// or redis+sentinel://; of a cluster any node, with "
            "?cluster=true. Put a password into the variable, not on the command line. A pepper is read from "
            f"{PEPPER}.",
        ),
    ):
        connected = option(connected)
    return connected
