"""Runs a gate with a limiter: `Enforcer` in blocking code, `AsyncEnforcer` in an event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from inspect import isawaitable, iscoroutinefunction
from typing import Any

from ratelimit.decision import Decision, Reason
from ratelimit.errors import ConfigError
from ratelimit.integrations.callers import (
    KeySource,
    RequestData,
    failed_caller,
    refuse_asynchronous,
    validate_caller,
)
from ratelimit.integrations.gate import EXEMPT, Gate, PlannedCheck
from ratelimit.integrations.marks import UNMARKED, Marks
from ratelimit.limiter import AsyncLimiter, Limiter
from ratelimit.model import Caller

log = logging.getLogger("ratelimit")


class _EnforcerBase:
    """What the twins share.

    Attributes:
        gate: Says which check a request needs, and what is replied.
        limiter: Decides.
        is_owner: Whether the limiter was made here, from a URL, and so is closed here.
    """

    def __init__(self, limiter: Any, gate: Gate, from_url: Callable[[str], Any]) -> None:
        if not isinstance(limiter, str) and not callable(getattr(limiter, "check", None)):
            remedy = "pass a Limiter, an AsyncLimiter, or the URL of a server: then the adapter makes one"
            raise ConfigError(f"cannot be {type(limiter).__name__}: {remedy}", field="limiter")
        self.gate = gate
        self.is_owner = isinstance(limiter, str)
        self.limiter = from_url(limiter) if isinstance(limiter, str) else limiter
        self._is_async = iscoroutinefunction(self.limiter.check)
        self._has_looked = False

    def _begin(self, request: RequestData, method: str | None, marks: Marks) -> PlannedCheck | None:
        return self.gate.plan(method, marks, is_preflight=request.verb == "OPTIONS" and request.is_preflight)

    def _check(self, planned: PlannedCheck, caller: Caller) -> Callable[[], Any]:
        """Return the call that decides."""
        stage = self.gate.stage
        if planned.charges_plan:
            return partial(self.limiter.check, caller, stage, planned.method, planned.cost)
        return partial(self.limiter._check_shared, caller, stage, planned.cost, key_required=planned.needs_key)

    def _failed(self, error: ConfigError) -> Decision:
        """Return the decision of a limiter that cannot work as it is configured, such as with another pepper."""
        log.error("checks are answered 503: %s", error)
        return Decision(Reason.UNAVAILABLE, source="fail_closed", cause="refused", error=str(error))

    def _look_at_catalog(self) -> None:
        """Log at ERROR, once, what the adapter names and nobody has configured, as soon as a catalogue is loaded."""
        snapshot = getattr(getattr(self.limiter, "_namespace", None), "snapshot", None)
        if snapshot is None or not snapshot.epoch:
            return
        self._has_looked = True
        for problem in self.gate.unconfigured(snapshot.methods_by_stage, snapshot.plans):
            log.error("%s", problem)

    @staticmethod
    def _not_warm(error: Exception) -> None:
        log.error("the limiter is not ready: %s: %s", type(error).__name__, error)


class Enforcer(_EnforcerBase):
    """Decides requests with a `Limiter`, in any thread.

    Args:
        limiter: A `Limiter`, which stays its owner's to close; or the URL of a server.
        gate: Says which check a request needs.

    Raises:
        ConfigError: An argument cannot be used.
    """

    def __init__(self, limiter: Limiter | str, gate: Gate) -> None:
        super().__init__(limiter, gate, Limiter.from_url)
        if self._is_async:
            remedy = "pass a Limiter, or the URL of a server"
            raise ConfigError(f"cannot be an AsyncLimiter in blocking code: {remedy}", field="limiter")
        refuse_asynchronous(gate.key, "key")

    def decide(self, request: RequestData, method: str | None, marks: Marks = UNMARKED) -> Decision:
        """Decide a request; see `Gate.plan` for the arguments. An exempt one is allowed, and has no limits."""
        planned = self._begin(request, method, marks)
        if planned is None:
            return EXEMPT
        caller = self._caller(request) if planned.needs_key else None
        try:
            decision: Decision = self._check(planned, caller)()
        except ConfigError as error:
            return self._failed(error)
        if not self._has_looked:
            self._look_at_catalog()
        return decision

    def _caller(self, request: RequestData) -> Caller:
        key = self.gate.key
        if isinstance(key, KeySource):
            return key.caller(request)
        try:
            return validate_caller(key(request.native))
        except Exception as error:  # noqa: BLE001 - it reads what a client sent
            return failed_caller(error)

    def start(self, timeout: float = 5.0) -> None:
        """Warm the limiter up, and log what is wrong: call it when the application has started. Raises nothing.

        Args:
            timeout: For how many seconds to wait until the server can be connected to.
        """
        try:
            self.limiter.warm_up(timeout)
        except Exception as error:  # noqa: BLE001 - the application starts, whatever the limiter meets
            self._not_warm(error)
        self._look_at_catalog()

    def close(self) -> None:
        """Close the limiter if it was made from a URL."""
        if self.is_owner:
            self.limiter.close()


class AsyncEnforcer(_EnforcerBase):
    """The twin of `Enforcer` for event loops. A blocking limiter works in threads, which costs more.

    Args:
        limiter: An `AsyncLimiter` or a `Limiter`, which stays its owner's to close; or the URL of a server.
        gate: Says which check a request needs.

    Raises:
        ConfigError: An argument cannot be used.
    """

    def __init__(self, limiter: AsyncLimiter | Limiter | str, gate: Gate) -> None:
        super().__init__(limiter, gate, AsyncLimiter.from_url)

    async def decide(self, request: RequestData, method: str | None, marks: Marks = UNMARKED) -> Decision:
        """Decide a request; see `Enforcer.decide`."""
        planned = self._begin(request, method, marks)
        if planned is None:
            return EXEMPT
        caller: Caller = None
        if planned.needs_key:
            key = self.gate.key
            caller = key.caller(request) if isinstance(key, KeySource) else await self._called(key, request)
        try:
            decision: Decision = await self._wait(self._check(planned, caller))
        except ConfigError as error:
            return self._failed(error)
        if not self._has_looked:
            self._look_at_catalog()
        return decision

    async def _called(self, key: Callable[[Any], Any], request: RequestData) -> Caller:
        try:
            result = key(request.native)
            return validate_caller(await result if isawaitable(result) else result)
        except Exception as error:  # noqa: BLE001 - it reads what a client sent
            return failed_caller(error)

    async def _wait(self, call: Callable[[], Any]) -> Any:
        return await (call() if self._is_async else asyncio.to_thread(call))

    async def start(self, timeout: float = 5.0) -> None:  # noqa: ASYNC109 - the limiter's own
        """Warm the limiter up, and log what is wrong; see `Enforcer.start`."""
        try:
            await self._wait(partial(self.limiter.warm_up, timeout))
        except Exception as error:  # noqa: BLE001 - the application starts, whatever the limiter meets
            self._not_warm(error)
        self._look_at_catalog()

    async def close(self) -> None:
        """Close the limiter if it was made from a URL."""
        if self.is_owner:
            await self.limiter.aclose()
