"""What the twins share: all but the waiting."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from typing import TypedDict

from ratelimit import validation
from ratelimit.decision import Decision
from ratelimit.effects import TooManyLookUpsError
from ratelimit.engine.limits import Bucket
from ratelimit.engine.prepared_check import PreparedCheck
from ratelimit.errors import ConfigError, OnUnavailable, StoreError
from ratelimit.limiter.checker import Checker
from ratelimit.limiter.failure_log import FailureLog
from ratelimit.limiter.slot_checks import SharedVerdict
from ratelimit.limiter.without_redis import WithoutRedis
from ratelimit.local.replicas import Replicas
from ratelimit.model import Caller
from ratelimit.registry.key_values import Peppers
from ratelimit.registry.namespace import Clock, Namespace
from ratelimit.store import clients
from ratelimit.store.embedded import EmbeddedServer
from ratelimit.validation import above_zero, flag

log = logging.getLogger("ratelimit")

DEADLINE = 0.05
EMBEDDED_DEADLINE = 1.0
MAX_AGE = 5.0
LOCAL_MAX_AGE = 300.0
STALE_CATALOGUE_S = 300.0


class Options(TypedDict, total=False):
    """The keywords of a limiter; see `Limiter`."""

    namespace: str
    deadline: float
    max_age: float
    pepper: Peppers
    clock: Clock | None
    denial_cache: bool
    on_unavailable: OnUnavailable
    replicas: int
    local_max_age: float
    stale_catalogue_s: float


class LimiterBase:
    """A limiter without its connections."""

    def __init__(
        self,
        namespace: str,
        max_age: float,
        pepper: Peppers,
        clock: Clock | None,
        deadline: float,
        server: Hashable,
        *,
        denial_cache: bool,
        on_unavailable: OnUnavailable,
        replicas: int,
        local_max_age: float,
        stale_catalogue_s: float,
    ) -> None:
        validation.seconds(max_age, "max_age")
        clients.validate_deadline(deadline)
        if clock is not None and not callable(clock):
            raise ConfigError("must be a callable that returns microseconds since 1970", field="clock")
        self._namespace = Namespace(namespace, pepper, clock)
        counted = Replicas(self._namespace, above_zero(replicas, "replicas"), server)
        denies_locally = flag(denial_cache, "denial_cache")
        policy = validation.on_unavailable(on_unavailable)
        self._checker = Checker(
            self._namespace,
            max_age,
            counted,
            denial_cache=denies_locally,
            on_unavailable=policy,
            stale_catalogue_s=validation.seconds(stale_catalogue_s, "stale_catalogue_s"),
        )
        self._without_redis = WithoutRedis(
            self._namespace,
            self._checker,
            counted,
            on_unavailable=policy,
            local_max_age=validation.seconds(local_max_age, "local_max_age"),
        )
        self._failures, self._shared_failures = FailureLog(), FailureLog()
        self._checker.judge_caller = self._failed
        self._checker.slots.judge_locally = self._judge_shared
        self._checker.slots.on_answer = self._shared_recovered
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

    def _failed(
        self, error: StoreError, key: Caller, stage: str, method: str, cost: int, *, peek: bool = False
    ) -> Decision:
        """Return the decision of a check, or of a peek, that Redis gave no answer to."""
        return self._logged(error, self._without_redis.decide(error, key, stage, method, cost, peek=peek))

    def _failed_shared(self, error: StoreError, key: Caller, stage: str, cost: int, *, key_required: bool) -> Decision:
        """Return the decision of a request that matched no route, and that Redis gave no answer to."""
        decision = self._without_redis.decide_shared(error, key, stage, cost, key_required=key_required)
        return self._logged(error, decision)

    def _judge_shared(
        self, error: StoreError, prepared: PreparedCheck, cost: int, buckets: Sequence[Bucket]
    ) -> SharedVerdict | None:
        """Judge what all callers share, of a check whose own limits Redis judges. See `WithoutRedis.judge_shared`."""
        verdict = self._without_redis.judge_shared(error, prepared, cost, buckets)
        if verdict is not None and (line := self._shared_failures.failure(error, verdict.source)) is not None:
            log.warning("shared limits alone: %s", line)
        return verdict

    def _shared_recovered(self) -> None:
        if not self._shared_failures.is_failing or self._shared_failures.is_lasting():
            return
        if not self._failing:
            self._without_redis.answered()
        if (line := self._shared_failures.success()) is not None:
            log.warning("shared limits alone: %s", line)

    def _logged(self, error: StoreError, decision: Decision) -> Decision:
        # That too many unknown keys come is logged where they wait: nothing is wrong with Redis.
        if not isinstance(error, TooManyLookUpsError):
            line = self._failures.failure(error, decision.source)
            if line is not None:
                log.warning("%s", line)
        return decision

    def _recovered(self) -> None:
        if self._namespace.has_slots and self._failures.is_lasting():
            return
        self._without_redis.answered()
        if (line := self._failures.success()) is not None:
            log.warning("%s", line)
