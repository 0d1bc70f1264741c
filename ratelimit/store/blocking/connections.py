"""The connections that one process has to one server, and the callers who wait for one."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from weakref import WeakSet

from ratelimit.errors import StoreUnavailable
from ratelimit.store.blocking.connection import Connection
from ratelimit.store.blocking.wait import Wait

USUALLY_IDLE = 8
"""So many stay, however long nobody needs them."""
_UNUSED_S = 10.0


class _Waiter:
    """A caller who waits for a connection: it has either one, or an error, once the gate is open."""

    __slots__ = ("connection", "error", "gate")

    def __init__(self) -> None:
        self.gate = threading.Lock()
        self.gate.acquire()
        self.connection: Connection | None = None
        self.error: StoreUnavailable | None = None


class Connections:
    """The connections that stand: some serve callers, one is the spare. Safe between threads.

    Who waits for one is served in turn. Methods that say so expect the caller to hold the lock.

    Args:
        capacity: How many may serve callers.

    Attributes:
        lock: Protects all but the ends of `idle`.
        idle: Whoever comes takes the last one, and appends it again afterwards, without the lock.
        waiters: Those who found none.
        spare: Serves nobody, so that it can tell whether the server answers.
        wanted: How many are to serve, though nobody waits for them.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.lock = threading.Lock()
        self.idle = deque[Connection]()
        self.waiters = deque[_Waiter]()
        self.spare: Connection | None = None
        self.wanted = 0
        self._all = WeakSet[Connection]()  # one that a caller lost, interrupted at the wrong moment, does not count

    @property
    def serving(self) -> int:
        """How many connections serve callers."""
        return len(self._all) - (self.spare is not None)

    @property
    def are_none(self) -> bool:
        """Whether no connection stands."""
        return not self._all

    def missing(self) -> int:
        """Return how many more are needed: for those who wait, and a spare one. Under the lock."""
        room = self.capacity - self.serving
        needed = max(len(self.waiters), self.wanted - self.serving)
        return max(0, min(needed, room)) + (self.spare is None)

    def acquire(self, wait: Wait, need: Callable[[], None]) -> Connection | None:
        """Return a connection, None if there was none in time.

        Args:
            wait: How long to wait.
            need: Called if another connection has to be made.

        Raises:
            StoreUnavailable: There will be none.
        """
        with contextlib.suppress(IndexError):
            return self.idle.pop()
        waiter = _Waiter()
        with self.lock:
            self.waiters.append(waiter)
            self.serve_waiters()  # who gave one back just before this did not see that somebody waits
            is_missing = self.missing() > 0
        try:
            if is_missing:
                need()
            while wait.left_s > 0:
                is_served = waiter.gate.acquire(timeout=wait.begin())
                wait.end()
                if is_served:
                    break
        except BaseException:
            self._leave(waiter)
            if waiter.connection is not None:
                self.release(waiter.connection)
            raise
        self._leave(waiter)  # unless it is served this very moment
        if waiter.error is not None:
            raise waiter.error
        return waiter.connection

    def _leave(self, waiter: _Waiter) -> None:
        if waiter.connection is None:
            with self.lock, contextlib.suppress(ValueError):
                self.waiters.remove(waiter)

    def release(self, connection: Connection) -> bool:
        """Take a connection back, for the first who waits; return False if it had to be closed, and somebody waits."""
        if not connection.is_reusable:
            return self.drop(connection)
        with self.lock:
            if self.waiters:
                self._hand_over(connection)
            else:
                self.idle.append(connection)
        return True

    def drop(self, connection: Connection) -> bool:
        """Close a connection; return False if somebody waits."""
        connection.close()
        with self.lock:
            self._all.discard(connection)
            return not self.waiters

    def add(self, connection: Connection) -> None:
        """Take a new connection: for who waits, as the spare, or for whoever comes. Under the lock."""
        serving = self.serving
        self._all.add(connection)
        if self.waiters and serving < self.capacity:
            self._hand_over(connection)
        elif serving and self.spare is None:
            self.spare = connection
        else:
            self.idle.append(connection)

    def take_spare(self) -> Connection | None:
        """Return the spare connection, which does not count from now on. Under the lock."""
        spare, self.spare = self.spare, None
        if spare is not None:
            self._all.discard(spare)
        return spare

    def serve_waiters(self) -> None:
        """Give idle connections to those who wait; close those that were broken off. Under the lock."""
        for _ in range(len(self.idle)):
            try:
                connection = self.idle.popleft()
            except IndexError:
                return
            if not connection.is_reusable:
                connection.close()
                self._all.discard(connection)
            elif self.waiters:
                self._hand_over(connection)
            else:
                self.idle.append(connection)

    def serve_with_spare(self) -> None:
        """Give the spare connection to the first who waits, if no other stands. Under the lock."""
        if self.waiters and not self.serving and self.spare is not None:
            spare, self.spare = self.spare, None
            self._hand_over(spare)

    def _hand_over(self, connection: Connection) -> None:
        waiter = self.waiters.popleft()
        waiter.connection = connection
        waiter.gate.release()

    def refuse_waiters(self, error: Callable[[], StoreUnavailable]) -> None:
        """Have all who wait raise an error. Under the lock."""
        while self.waiters:
            waiter = self.waiters.popleft()
            waiter.error = error()
            waiter.gate.release()

    def close_ended(self) -> None:
        """Close the connections that have ended, but for those in use."""
        for _ in range(len(self.idle)):
            try:
                connection = self.idle.popleft()
            except IndexError:
                break
            connection.is_reusable = connection.is_reusable and not connection.has_ended()
            self.release(connection)
        with self.lock:
            spare = self.spare
            if spare is not None and (not spare.is_reusable or spare.has_ended()):
                self.take_spare()
                spare.close()

    def close_unused(self, now_s: float) -> None:
        """Close the connections that nobody has needed for a while, but for a few."""
        with contextlib.suppress(IndexError):
            while len(self.idle) > USUALLY_IDLE and now_s - self.idle[0].last_used_s > _UNUSED_S:
                self.drop(self.idle.popleft())

    def close_idle(self) -> None:
        """Close all idle connections. Under the lock."""
        for connection in [*self.idle]:
            connection.is_reusable = False
        self.serve_waiters()

    def retire(self) -> None:
        """Have no connection used again. Under the lock."""
        for connection in self._all:
            connection.is_reusable = False
        self.serve_waiters()

    def break_off(self, *, is_deposed: bool = False) -> None:
        """End all connections, also for those who wait for a reply on one. Under the lock."""
        for connection in self._all:
            connection.break_off(is_deposed=is_deposed)
        spare = self.take_spare()
        if spare is not None:
            spare.close()
        self.serve_waiters()
        self._all.clear()

    def abandon(self) -> None:
        """Close all connections here: those who use them are in another process."""
        for connection in self._all:
            with contextlib.suppress(Exception):
                connection.close()
