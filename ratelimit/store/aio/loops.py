"""What belongs to an event loop: made when the loop first needs it, gone when the loop has ended."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Generic, Protocol, TypeVar

from ratelimit.errors import ConfigError
from ratelimit.local import fork_safety


class LoopBound(Protocol):
    """Something that belongs to the event loop in which it is made."""

    async def close(self) -> None:
        """Close it, in its loop, as far as possible without harm to who waits."""

    def abandon(self) -> None:
        """Close it now. Its loop ends, or has ended."""


_T = TypeVar("_T", bound=LoopBound)


class PerLoop(Generic[_T]):
    """One object for each event loop, at once in threads or one after the other. Safe between threads.

    Args:
        make: Makes the object, in its loop.
        on_loop_end: Called with an object whose loop has ended, and for how many seconds it lived.
    """

    def __init__(self, make: Callable[[], _T], on_loop_end: Callable[[_T, float], None] = lambda *_: None) -> None:
        self._make = make
        self._on_loop_end = on_loop_end
        self.reset_after_fork()
        fork_safety.register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Leave what belongs to the parent's loops to the parent: closing it would disturb them."""
        self._lock = threading.Lock()
        self._objects: dict[asyncio.AbstractEventLoop, tuple[_T, AsyncGenerator[None, None]]] = {}

    def get(self) -> _T:
        """Return the running loop's object."""
        loop = _running_loop()
        entry = self._objects.get(loop)
        if entry is not None:
            return entry[0]
        self._abandon_those_of_closed_loops()
        made = self._make()
        end = _until_loop_ends(partial(self._on_end, loop, made, time.monotonic()))
        with self._lock:
            self._objects[loop] = made, end
        _run_to_next_yield(end.__anext__())
        return made

    def get_if_made(self) -> _T | None:
        """Return the running loop's object, None if it was not made yet."""
        entry = self._objects.get(_running_loop())
        return None if entry is None else entry[0]

    def all_made(self) -> list[_T]:
        """Return the objects of all loops."""
        with self._lock:
            return [made for made, _ in self._objects.values()]

    async def close(self) -> None:
        """Close what belongs to the running loop, and have the other loops close theirs."""
        self._abandon_those_of_closed_loops()
        running = _running_loop()
        with self._lock:
            own = self._objects.pop(running, None)
            others, self._objects = self._objects, {}
        for loop, (other, _) in others.items():
            with contextlib.suppress(RuntimeError):  # it was closed this very moment
                loop.call_soon_threadsafe(other.abandon)
        if own is not None:
            _run_to_next_yield(own[1].aclose())
            await own[0].close()

    def _on_end(self, loop: asyncio.AbstractEventLoop, ended: _T, since_s: float) -> None:
        with self._lock:
            entry = self._objects.get(loop)
            if entry is None or entry[0] is not ended:
                return  # closed before its loop ended
            del self._objects[loop]
        ended.abandon()
        self._on_loop_end(ended, time.monotonic() - since_s)

    def _abandon_those_of_closed_loops(self) -> None:
        """Close what is left of loops that were closed without any notice."""
        with self._lock:
            closed = [loop for loop in self._objects if loop.is_closed()]
            left = [self._objects.pop(loop)[0] for loop in closed]
        for each in left:
            each.abandon()


async def _until_loop_ends(on_end: Callable[[], None]) -> AsyncGenerator[None, None]:
    """Call back when the loop in which it is first run shuts its generators down, as `asyncio.run` does at its end."""
    try:
        yield
    finally:
        on_end()


def _run_to_next_yield(step: object) -> None:
    with contextlib.suppress(StopIteration, StopAsyncIteration):
        step.send(None)  # type: ignore[attr-defined] # an awaitable of a generator that waits for nothing


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigError(
            "no event loop runs here. A process that was forked in an event loop has to start one of its own, with "
            "asyncio.run, or to use Limiter",
            field="client",
        ) from None
