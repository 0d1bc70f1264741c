"""Limiters with answers of your choice: for tests of what an application does with a decision."""

from __future__ import annotations

from threading import Lock
from types import TracebackType
from typing import NamedTuple, Self

from ratelimit import validation
from ratelimit.decision import Decision
from ratelimit.errors import ConfigError
from ratelimit.model import Caller, Identity
from ratelimit.registry.redis_keys import OTHERS
from ratelimit.testing.decisions import allowed


class StubCall(NamedTuple):
    """One call of a stub.

    Attributes:
        key: The key's value that was passed, the `Identity`, or None.
        stage: The stage.
        method: The method.
        cost: The units.
        is_peek: Whether `peek` was called.
    """

    key: Caller
    stage: str
    method: str
    cost: int = 1
    is_peek: bool = False


class _Rule:
    """What to answer to some of the calls."""

    def __init__(self, wanted: tuple[Caller, ...], decisions: tuple[Decision, ...]) -> None:
        self._wanted = wanted
        self._decisions = list(decisions)
        self.precision = sum(each is not None for each in wanted)

    def applies(self, call: StubCall) -> bool:
        return all(each in (None, given) for each, given in zip(self._wanted, call, strict=False))

    def next(self) -> Decision:
        return self._decisions.pop(0) if len(self._decisions) > 1 else self._decisions[0]


class _Stub:
    """What the twins share."""

    url = None
    server = None
    unmatched = 0

    def __init__(self, *decisions: Decision) -> None:
        """Answer these decisions to all calls, see `answer`; without any, admit all."""
        self.calls: list[StubCall] = []
        self._lock = Lock()
        self._rules = [_Rule((None, None, None), decisions or (allowed(),))]

    def answer(
        self, *decisions: Decision, key: Caller = None, stage: str | None = None, method: str | None = None
    ) -> None:
        """Say what to answer from now on.

        Args:
            decisions: Answered in turn, the last one over and over.
            key: To calls with this key, or of this identity, alone.
            stage: To calls with this stage alone.
            method: To calls with this method alone. Where several answers would do, the one that says most of the call
                holds, and among these the latest.

        Raises:
            ConfigError: There is no decision.
        """
        if not decisions or not all(isinstance(decision, Decision) for decision in decisions):
            raise ConfigError("must be decisions, such as throttled(): at least one", field="decisions")
        with self._lock:
            self._rules.append(_Rule((key, stage, method), decisions))

    def _decide(self, key: Caller, stage: str, method: str, cost: int, *, is_peek: bool) -> Decision:
        validation.cost(cost)
        validation.texts(None if isinstance(key, Identity) else key, stage, method)
        call = StubCall(key, stage, method, cost, is_peek)
        with self._lock:
            self.calls.append(call)
            rules = [rule for rule in reversed(self._rules) if rule.applies(call)]
            return max(rules, key=lambda rule: rule.precision).next()


class StubLimiter(_Stub):
    """Stands for a `Limiter`. Connects to nothing, counts nothing.

    Attributes:
        calls: A `StubCall` of each call of `check` and `peek`, in order.
    """

    def check(self, key: Caller, stage: str, method: str, cost: int = 1) -> Decision:
        """Return what was said; raise what `Limiter.check` raises for arguments of other types."""
        return self._decide(key, stage, method, cost, is_peek=False)

    def peek(self, key: Caller, stage: str, method: str, cost: int = 1) -> Decision:
        """Return what was said, as `check`."""
        return self._decide(key, stage, method, cost, is_peek=True)

    def _check_shared(self, key: Caller, stage: str, cost: int = 1, *, key_required: bool = True) -> Decision:  # noqa: ARG002
        return self.check(key, stage, OTHERS, cost)  # as an adapter checks what matched no route

    def warm_up(self, timeout: float = 5.0) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncStubLimiter(_Stub):
    """Stands for an `AsyncLimiter`: the twin of `StubLimiter`, awaited.

    Attributes:
        calls: A `StubCall` of each call of `check` and `peek`, in order.
    """

    async def check(self, key: Caller, stage: str, method: str, cost: int = 1) -> Decision:
        """Return what was said; raise what `AsyncLimiter.check` raises for arguments of other types."""
        return self._decide(key, stage, method, cost, is_peek=False)

    async def peek(self, key: Caller, stage: str, method: str, cost: int = 1) -> Decision:
        """Return what was said, as `check`."""
        return self._decide(key, stage, method, cost, is_peek=True)

    async def _check_shared(self, key: Caller, stage: str, cost: int = 1, *, key_required: bool = True) -> Decision:  # noqa: ARG002
        return await self.check(key, stage, OTHERS, cost)  # as an adapter checks what matched no route

    async def warm_up(self, timeout: float = 5.0) -> None:  # noqa: ASYNC109 - as the limiter
        """Do nothing."""

    async def aclose(self) -> None:
        """Do nothing."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
