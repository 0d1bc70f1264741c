"""The pytest plugin of ratelimit-redis: fixtures called `ratelimit_...`, and `--ratelimit-url`.

It stands outside of the package, and imports nothing of it before a fixture is used: pytest loads it in every project
where the package is installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from ratelimit import AsyncLimiter, Limiter
    from ratelimit.testing import AsyncStubLimiter, ManualClock, StubLimiter

_DEADLINE_S = 5.0
"""A machine that runs tests is busy."""


class _Url(str):
    """A URL that shows its scheme alone: pytest prints the arguments of what fails, and it may have a password."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(f"{self.partition(':')[0]}://...")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.getgroup("ratelimit").addoption(
        "--ratelimit-url",
        metavar="URL",
        help="server of the ratelimit fixtures and of ratelimit.testing.conformance; without it, an embedded one",
    )


@pytest.fixture(scope="session")
def ratelimit_url(pytestconfig: pytest.Config) -> Iterator[str]:
    """URL of a server: that of --ratelimit-url, else an embedded one, which runs until the session ends."""
    url = pytestconfig.getoption("--ratelimit-url")
    if url:
        yield _Url(url)
        return
    from ratelimit.store.embedded import EmbeddedServer  # noqa: PLC0415 - as all below: only where it is used

    with EmbeddedServer() as server:
        yield server.url


@pytest.fixture
def ratelimit_namespace(ratelimit_url: str) -> Iterator[str]:
    """A namespace of the test's own, which is deleted after it."""
    from ratelimit.testing.cleanup import delete_namespace  # noqa: PLC0415
    from ratelimit.testing.primaries import clients_of_primaries  # noqa: PLC0415

    namespace = f"ratelimit-test-{uuid4().hex[:12]}"
    yield namespace
    with clients_of_primaries(ratelimit_url, _DEADLINE_S) as clients:
        for client in clients:
            delete_namespace(client, namespace)


@pytest.fixture
def ratelimit_clock() -> ManualClock:
    """The clock of the test's limiters, moved by hand."""
    from ratelimit.testing import ManualClock  # noqa: PLC0415

    return ManualClock()


@pytest.fixture
def ratelimit_limiter(ratelimit_url: str, ratelimit_namespace: str, ratelimit_clock: ManualClock) -> Iterator[Limiter]:
    """A `Limiter` of a namespace of its own, by the clock of `ratelimit_clock`. It has no plans yet."""
    from ratelimit import Limiter  # noqa: PLC0415

    with Limiter.from_url(
        ratelimit_url, namespace=ratelimit_namespace, clock=ratelimit_clock, deadline=_DEADLINE_S
    ) as limiter:
        yield limiter


@pytest.fixture
def ratelimit_async_limiter(ratelimit_url: str, ratelimit_namespace: str, ratelimit_clock: ManualClock) -> AsyncLimiter:
    """An `AsyncLimiter` of the namespace of `ratelimit_limiter`, whose connections end with the test's event loop."""
    from ratelimit import AsyncLimiter  # noqa: PLC0415

    return AsyncLimiter.from_url(
        ratelimit_url, namespace=ratelimit_namespace, clock=ratelimit_clock, deadline=_DEADLINE_S
    )


@pytest.fixture
def ratelimit_stub() -> StubLimiter:
    """A limiter with answers of your choice."""
    from ratelimit.testing import StubLimiter  # noqa: PLC0415

    return StubLimiter()


@pytest.fixture
def ratelimit_async_stub() -> AsyncStubLimiter:
    """The same for asyncio."""
    from ratelimit.testing import AsyncStubLimiter  # noqa: PLC0415

    return AsyncStubLimiter()
