"""Makes the connections to one server, watches them, and decides when to send nothing for a while.

A thread decides what is due (see breaker.py). It starts when a connection is first needed. What may take long it leaves
to other threads, which end with that: an attempt to connect, the answer of the spare connection.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Any
from weakref import ref

from ratelimit.errors import StoreUnavailable
from ratelimit.store import error_mapping, redis_compat
from ratelimit.store.addresses import Address
from ratelimit.store.blocking.background import Background
from ratelimit.store.blocking.connection import Connection, open_connection
from ratelimit.store.blocking.connections import Connections
from ratelimit.store.blocking.finder import Finder
from ratelimit.store.breaker import PROBE_INTERVAL_S, Breaker, Step

_MAX_ATTEMPTS = 8
_PATIENCE_S = 5.0
"""How long an attempt to connect may take, and the answer of a spare connection."""
_WATCH_INTERVAL_S = 1.0
_SILENT = StoreUnavailable("no connection to Redis: it does not answer")


class Connector:
    """Has as many connections stand as are needed, as long as the server answers.

    Args:
        pool: Says how to connect. It must be held by whoever uses the connector.
        connections: Where connections go that the server has answered on, and who waits for one.
        primary: Finds the server to connect to; None where the pool says it.
        probes_unused_s: For how many seconds a server that does not answer is probed without any caller. Then the
            thread ends, and the next caller waits for a connection as the first one did.

    Attributes:
        breaker: Whether the server answers.
    """

    def __init__(
        self, pool: Any, connections: Connections, primary: Finder | None = None, probes_unused_s: float = inf
    ) -> None:
        self._pool = ref(pool)
        self._connections = connections
        self._primary = primary
        self._probes_unused_s = probes_unused_s
        self._used_s = 0.0
        """When the thread last saw that the breaker was closed, or that a caller had been refused."""
        self._is_used = False
        """Whether a caller was refused since then."""
        self.breaker = Breaker()
        self._background = Background(self._step, "ratelimit-connections")
        self._changed = threading.Condition(connections.lock)
        self._generation = 0
        """Of attempts: what comes of those of an earlier one is not needed any more."""
        self._opening = set[Connection]()
        """Connections on which the server has not answered yet, and a spare one that was just pinged."""
        self._attempts = 0
        self._failure: StoreUnavailable | None = None
        self._retry_s = self._watch_s = 0.0
        self._is_closed = False

    def need(self) -> None:
        """Have the thread do what is due; start it if need be.

        Raises:
            StoreUnavailable: There can be no more threads.
        """
        self._is_closed = False
        try:
            self._background.wake()
            if self._primary is not None:
                self._primary.watch(self.move_to)
        except RuntimeError as error:
            raise StoreUnavailable(f"no connection to Redis: {error}") from error

    def look(self) -> None:
        """Have the thread do what is due, if it runs."""
        self._background.look()

    def note_miss(self) -> None:
        """Note that a caller had no answer within its deadline."""
        with self._connections.lock:
            self.breaker.miss(monotonic())
        self.look()

    def unavailable(self) -> StoreUnavailable:
        """Return an error that says why nothing is sent."""
        self._is_used = True
        failure = self._failure or _SILENT
        return StoreUnavailable(*failure.args, cause=failure.cause)

    def none_in_time(self) -> StoreUnavailable:
        """Return an error for who got no connection."""
        serving = self._connections.serving
        if self._failure is not None:
            return self.unavailable()
        problem = f"all {serving} were in use" if serving else "it did not answer in time"
        return StoreUnavailable(f"no connection to Redis: {problem}")

    def _step(self) -> float | None:
        """Do what is due; return when to do so again at the latest."""
        if self._is_closed:
            return None
        now_s, connections = monotonic(), self._connections
        if self._is_unused(now_s):
            return None
        if now_s >= self._watch_s:
            self._watch_s = now_s + _WATCH_INTERVAL_S
            connections.close_ended()
            connections.close_unused(now_s)
        elif self._failure is not None:
            connections.close_ended()
        with connections.lock:
            pings_spare, attempts, wait_s = self._decide(now_s)
            spare = connections.take_spare() if pings_spare else None
            if spare is not None:
                self._opening.add(spare)
            self._attempts += attempts + (spare is not None)
            generation = self._generation
        if spare is not None:
            self._start(_ping_spare, generation, spare)
        for _ in range(attempts):
            self._start(_connect, generation, self._pool())
        return min(wait_s, _WATCH_INTERVAL_S)

    def _is_unused(self, now_s: float) -> bool:
        """Return whether a server that does not answer has had no caller for long; then begin anew for the next one."""
        if self._is_used or not self.breaker.is_open:
            self._used_s, self._is_used = now_s, False
        if now_s <= self._used_s + self._probes_unused_s:
            return False
        with self._connections.lock:
            self._is_closed = not (self._connections.waiters or self._connections.wanted)
            if self._is_closed:
                self._begin_anew()
            return self._is_closed

    def _decide(self, now_s: float) -> tuple[bool, int, float]:
        """Return whether to ping the spare connection, how many others to make, and for how many seconds to rest."""
        breaker, connections = self.breaker, self._connections
        has_just_failed = self._failure is not None and now_s < self._retry_s
        if has_just_failed:
            connections.serve_with_spare()
            if connections.are_none:
                breaker.open(now_s)
        was_open = breaker.is_open
        step, wait_s = breaker.step(now_s, has_spare=connections.spare is not None)
        if breaker.is_open:
            if not was_open:
                self._failure = None  # of what came before: now it is silence
            connections.refuse_waiters(self.unavailable)
            return False, int(step is Step.PROBE and self._attempts < _MAX_ATTEMPTS), wait_s
        if has_just_failed:
            return step is Step.PING_SPARE, 0, min(wait_s, self._retry_s - now_s)
        pings_spare = step is Step.PING_SPARE
        # A spare one that is pinged is taken away, so another is needed in its place: it may be the first to answer.
        wanted = min(connections.missing() + pings_spare, _MAX_ATTEMPTS)
        return pings_spare, max(0, wanted - self._attempts), wait_s

    def _start(self, attempt: Callable[..., None], generation: int, subject: Any) -> None:
        arguments = (ref(self), generation, subject)
        try:
            threading.Thread(target=attempt, args=arguments, name="ratelimit-connect", daemon=True).start()
        except RuntimeError as error:  # there can be no more threads
            self.on_failure(generation, StoreUnavailable(str(error)))

    def on_open(self, generation: int, connection: Connection) -> bool:
        """Note that a connection is open; return whether it is still needed."""
        with self._connections.lock:
            if generation == self._generation:
                self._opening.add(connection)
            return generation == self._generation

    def on_answer(self, generation: int, connection: Connection, *, was_spare: bool = False) -> None:
        """Take a connection on which the server has answered."""
        with self._connections.lock:
            if not self._finish(generation, connection):
                connection.close()
                return
            self._failure = None
            now_s = connection.last_used_s = monotonic()
            self.breaker.answer(now_s)
            if was_spare:
                self._connections.close_idle()  # nothing has come on them for a while: this one serves in their place
            self._connections.add(connection)
            self._changed.notify_all()
        self.look()

    def on_failure(self, generation: int, error: Exception, connection: Connection | None = None) -> None:
        """Note that an attempt failed."""
        failure = error_mapping.before_sending(error)
        with self._connections.lock:
            if not self._finish(generation, connection):
                return
            self._failure = StoreUnavailable(*failure.args, cause=failure.cause)  # without the frames of the attempt
            self._retry_s = monotonic() + PROBE_INTERVAL_S
            self._changed.notify_all()
        self.look()

    def on_silence(self, generation: int, spare: Connection) -> None:
        """Note that the spare connection did not answer."""
        with self._connections.lock:
            self._finish(generation, spare)
        self.look()

    def _finish(self, generation: int, connection: Connection | None) -> bool:
        """Note that an attempt has ended; return whether it counts."""
        if generation != self._generation:
            return False
        if connection is not None:
            self._opening.discard(connection)
        self._attempts -= 1
        return True

    def address(self) -> Address | None:
        """Return the host and port to connect to, None for those of the pool. Takes as long as Sentinels do."""
        return None if self._primary is None else self._primary.find()

    def stand(self, count: int, timeout_s: float) -> None:
        """Wait until so many connections serve, and there is a spare one: after this time, for one and the spare.

        Raises:
            StoreUnavailable: Not even these stand; with the reason.
        """
        connections, until_s = self._connections, monotonic() + timeout_s
        connections.close_ended()
        with connections.lock:
            connections.wanted = min(count, connections.capacity)
        self.need()
        with connections.lock:
            self._changed.wait_for(
                lambda: connections.serving >= connections.wanted and connections.spare is not None,
                until_s - monotonic(),
            )
            connections.wanted = 0
            if connections.serving and connections.spare is not None:
                return
        raise self.none_in_time()

    def move_to(self, _address: Address) -> None:
        """Leave the server, as another one is the primary now.

        Calls that wait for the old one end at once, with the cause "deposed".
        """
        with self._connections.lock:
            self._begin_anew(is_deposed=True)
        self.look()

    def close(self) -> None:
        """Close all connections, and end the thread; it starts anew for whoever needs it."""
        with self._connections.lock:
            self._begin_anew()
            self._is_closed = not self._connections.waiters
        if self._is_closed:
            self._background.join()
            if self._primary is not None:
                self._primary.unwatch(self.move_to)

    def retire(self) -> None:
        """Leave the server to those who still wait for its replies: their connections are closed with these."""
        with self._connections.lock:
            self._generation += 1
            self._attempts = 0
            self._connections.retire()
            spare = self._connections.take_spare()
            for connection in (*self._opening, *filter(None, [spare])):
                connection.break_off()
            self._opening.clear()
            self._is_closed = not self._connections.waiters
        if spare is not None:
            spare.close()
        self.look()

    def _begin_anew(self, *, is_deposed: bool = False) -> None:
        self._generation += 1
        self._attempts = 0
        self._connections.break_off(is_deposed=is_deposed)
        for connection in self._opening:
            connection.break_off()
        self._opening.clear()
        self._failure = None
        self.breaker.answer(monotonic())  # what happened before says nothing of what comes

    def abandon(self) -> None:
        """Close here what the parent of this process was opening."""
        for connection in self._opening:
            with contextlib.suppress(Exception):
                connection.close()

    def __del__(self) -> None:
        for connection in [*self._opening]:
            connection.break_off()
        self._background.look()


def _connect(connector: ref[Connector], generation: int, pool: Any) -> None:
    """Make a connection: it stands once the server has answered on it, be it with an error."""
    connection: Connection | None = None
    try:
        if (it := connector()) is None:
            return
        address = it.address()
        del it  # not to keep it alive while this takes long
        connection = open_connection(pool, address, _PATIENCE_S)
        if (it := connector()) is None or not it.on_open(generation, connection):
            connection.close()
            return
        del it
        _expect_service(connection.probe(_PATIENCE_S))
    except Exception as error:  # noqa: BLE001 - whatever a client's own way of connecting raises, there is none
        if connection is not None:
            connection.close()
        if (it := connector()) is not None:
            it.on_failure(generation, error, connection)
    else:
        if (it := connector()) is not None:
            it.on_answer(generation, connection)


def _expect_service(reply: Any) -> None:
    if redis_compat.is_without_room(reply):
        raise reply  # and closes the connection


def _ping_spare(connector: ref[Connector], generation: int, spare: Connection) -> None:
    try:
        spare.probe(_PATIENCE_S)
    except Exception:  # noqa: BLE001 - as above
        spare.close()
        if (it := connector()) is not None:
            it.on_silence(generation, spare)
    else:
        if (it := connector()) is not None:
            it.on_answer(generation, spare, was_spare=True)
