"""The options by which commands reach a server, and what they say when it does not answer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from functools import wraps
from typing import Any

import click

from ratelimit.catalog import Catalog
from ratelimit.cli.ceilings import ceilings
from ratelimit.cli.output import StoreFailure
from ratelimit.errors import StoreError
from ratelimit.limiter import Limiter, Options
from ratelimit.model import MICROSECONDS
from ratelimit.registry.windows import EPOCH_ORDINAL, day_of
from ratelimit.store import urls

PEPPER = "RATELIMIT_PEPPER"
_PERMISSIONS = (
    "This user may not do that, and what it may do of it may have been done. lua/ACL.md says what an administrator "
    "needs (Permissions); look at what holds now, then repeat the command as such a user."
)
_INSTEAD = {
    "no permissions to": _PERMISSIONS,
    "can't run this command": _PERMISSIONS,
    "username-password": "Check the user and the password in RATELIMIT_URL; percent-encode what is special in a URL.",
    "Authentication required": "Put the password into RATELIMIT_URL: redis://:PASSWORD@host:port/0.",
    "DB index is out of range": "The number at the end of the URL is a database's: the server has fewer.",
}
"""What to do about what a server said, where it is not its absence."""


@dataclass(frozen=True, slots=True)
class Connection:
    """What the options said. The pepper comes from the environment alone: command lines can be seen by others."""

    url: str = field(repr=False)
    namespace: str
    deadline: float

    @contextmanager
    def limiter(self) -> Iterator[Limiter]:
        """Return a limiter on the server, for a `with` block in which a failing server ends the command."""
        pepper = os.environ.get(PEPPER) or None
        options = Options(namespace=self.namespace, deadline=self.deadline, pepper=pepper)
        bounds = ceilings()
        with Limiter.from_url(self.url, **options) as limiter:
            limiter.catalog.ceilings = bounds
            try:
                yield limiter
            except StoreError as error:
                told = [f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())]
                raise self.fault("\n".join(told)) from None

    @contextmanager
    def catalog(self) -> Iterator[Catalog]:
        """Return the catalogue of such a limiter, in the same way."""
        with self.limiter() as limiter:
            yield limiter.catalog

    def fault(self, cause: str) -> StoreFailure:
        """Return the error that ends a command whose server failed."""
        remedy = f"Is a server running at {self.shown_url}? Name another one by --url or RATELIMIT_URL."
        for told, instead in _INSTEAD.items():
            if told in cause:
                remedy = f"{instead} The server is {self.shown_url}."
        return StoreFailure(f"{cause}\n{remedy}")

    @property
    def shown_url(self) -> str:
        """The URL without the password that it may hold: where the server is."""
        return urls.shown_url(self.url)


def server_day(limiter: Limiter) -> date:
    """Return the day (UTC) by the server's clock, which is the one that limits go by."""
    now_us = limiter._store.run(limiter._namespace.server_us())
    return date.fromordinal(EPOCH_ORDINAL + day_of(now_us))


def server_time(catalog: Catalog) -> float:
    """Return the time by the server's clock, in seconds since 1970."""
    return catalog._run(catalog._namespace.server_us()) / MICROSECONDS


def connection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --url, --namespace and --deadline to a command, which gets a `Connection` as `connection`."""

    @wraps(command)
    def connected(*args: Any, url: str, namespace: str, deadline: float, **options: Any) -> Any:
        return command(*args, connection=Connection(url, namespace, deadline), **options)

    for option in (
        click.option(
            "--deadline",
            metavar="SECONDS",
            type=float,
            default=2.0,
            show_default=True,
            help="How long to wait for the server.",
        ),
        click.option(
            "--namespace",
            envvar="RATELIMIT_NAMESPACE",
            default="ratelimit",
            show_default=True,
            show_envvar=True,
            help="Prefix of every name in Redis.",
        ),
        click.option(
            "--url",
            envvar="RATELIMIT_URL",
            default="redis://localhost:6379/0",
            show_default=True,
            show_envvar=True,
            help="The server: redis://, rediss:// or unix://. Put a password into the variable, not on the command "
            f"line; the pepper, if keys have one, is read from {PEPPER}.",
        ),
    ):
        connected = option(connected)
    return connected
