"""What the twins share: all but the waiting."""

from __future__ import annotations

import logging
from math import inf
from typing import TypedDict

from ratelimit.decision import Decision
from ratelimit.effects import TooManyLookUpsError
from ratelimit.errors import ConfigError, StoreError
from ratelimit.limiter.checker import Checker, unavailable
from ratelimit.limiter.failure_log import FailureLog
from ratelimit.registry.key_values import Peppers
from ratelimit.registry.namespace import Clock, Namespace
from ratelimit.store import clients
from ratelimit.store.embedded import EmbeddedServer
from ratelimit.validation import flag, shown

log = logging.getLogger("ratelimit")

DEADLINE = 0.05
EMBEDDED_DEADLINE = 1.0
MAX_AGE = 5.0


class Options(TypedDict, total=False):
    """The keywords of a limiter; see `Limiter`."""

    namespace: str
    deadline: float
    max_age: float
    pepper: Peppers
    clock: Clock | None
    denial_cache: bool


def validate_seconds(seconds: object, field: str) -> float:
    """Return seconds as a float; raise ConfigError for what is no time above 0."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < inf:
        raise ConfigError(f"must be seconds above 0, not {shown(seconds)}", field=field)
    return float(seconds)


class LimiterBase:
    """A limiter without its connections."""

    def __init__(
        self,
        namespace: str,
        max_age: float,
        pepper: Peppers,
        clock: Clock | None,
        deadline: float,
        *,
        denial_cache: bool,
    ) -> None:
        validate_seconds(max_age, "max_age")
        clients.validate_deadline(deadline)
        if clock is not None and not callable(clock):
            raise ConfigError("must be a callable that returns microseconds since 1970", field="clock")
        self._namespace = Namespace(namespace, pepper, clock)
        self._checker = Checker(self._namespace, max_age, denial_cache=flag(denial_cache, "denial_cache"))
        self._failures = FailureLog()
        self.server: EmbeddedServer | None = None

    @property
    def url(self) -> str | None:
        """URL of the embedded server, "unix://<socket>"; None with any other server."""
        return self.server.url if self.server else None

    @property
    def unmatched(self) -> int:
        """How many checks of this process passed a method that is no `VERB /template`: no plan or stage can list it."""
        return self._checker.unmatched.count

    def _stop_server(self) -> None:
        if self.server is not None:
            self.server.stop()
            self.server = None

    @property
    def _failing(self) -> bool:
        return self._failures.is_failing

    def _failed(self, error: StoreError) -> Decision:
        # That too many unknown keys come is logged where they wait: nothing is wrong with Redis.
        if not isinstance(error, TooManyLookUpsError) and (line := self._failures.failure(error)) is not None:
            log.warning("%s", line)
        return unavailable(error)

    def _recovered(self) -> None:
        if (line := self._failures.success()) is not None:
            log.warning("%s", line)
