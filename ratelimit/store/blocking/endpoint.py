"""One server, as one process sees it: commands go out on connections of our own, and each is sent once.

Callers take an idle connection, or wait for one within their deadline. They never connect: see connector.py.
"""

from __future__ import annotations

import contextlib
from math import inf
from time import monotonic
from typing import Any, ClassVar
from weakref import WeakKeyDictionary, ref

from ratelimit.errors import StoreError, StoreTimeout, StoreUnavailable
from ratelimit.local import fork_safety
from ratelimit.store import error_mapping, redis_compat
from ratelimit.store.blocking.connection import Connection, NothingSentError, open_connection
from ratelimit.store.blocking.connections import USUALLY_IDLE, Connections
from ratelimit.store.blocking.connector import Connector
from ratelimit.store.blocking.finder import Finder
from ratelimit.store.blocking.primary import PrimaryFinder
from ratelimit.store.blocking.wait import Wait
from ratelimit.store.breaker import PROBE_INTERVAL_S, BreakerState
from ratelimit.store.resp import INCOMPLETE

MAX_CONNECTIONS = 64
"""How many serve callers at most; another one is the spare."""
RESERVED = 2
"""Of those that a client allows: the spare, and the one that changes are pushed on."""


class Endpoint:
    """The server of one pool. Safe between threads; after a fork, a child has its own connections.

    The pool says how to connect, and how many connections there may be; its own are not used. It must be held by
    whoever uses the endpoint.

    Attributes:
        connector: Makes the connections.
        primary: Finds the server to connect to; None where the pool says it.
        PROBES_UNUSED_S: As of `Connector`.
    """

    PROBES_UNUSED_S: ClassVar[float] = inf

    @classmethod
    def of(cls, pool: Any) -> Endpoint:
        """Return the endpoint of a client's pool: all limiters and catalogues of the client share it."""
        endpoint = _endpoints.get(pool)
        return endpoint or _endpoints.setdefault(pool, cls(pool))  # one step, also between threads

    def __init__(self, pool: Any) -> None:
        self._pool = ref(pool)  # `_endpoints` ends with the pool, and so must not keep it
        self.primary: Finder | None = PrimaryFinder(pool) if redis_compat.finds_primary(pool) else None
        self._set_up()
        fork_safety.register_fork_reset(self)

    def _set_up(self) -> None:
        pool = self._pool()
        self._connections = Connections(max(1, min(MAX_CONNECTIONS, pool.max_connections - RESERVED)))  # type: ignore[union-attr]
        self.connector = Connector(pool, self._connections, self.primary, self.PROBES_UNUSED_S)
        self._idle, self._waiters = self._connections.idle, self._connections.waiters
        self._breaker = self.connector.breaker
        self._renewed_s = 0.0

    def reset_after_fork(self) -> None:
        """Close the parent's connections here, and begin anew."""
        self.connector.abandon()
        self._connections.abandon()
        self._set_up()

    def call(self, packet: bytes, started_s: float, deadline_s: float) -> Any:
        """Send one command, and return its reply.

        Args:
            packet: The command as it goes over the wire.
            started_s: When its caller began to wait, by the monotonic clock: this very moment.
            deadline_s: For how many seconds it may wait.

        Returns:
            The reply: texts as bytes, an error as an exception.

        Raises:
            StoreUnavailable: The command was not carried out.
            StoreTimeout: Nobody knows whether it was.
        """
        breaker = self._breaker
        if breaker.is_open:
            raise self.connector.unavailable()
        try:
            connection = self._idle.pop()
        except IndexError:
            return self.execute(packet, 1, Wait(started_s + deadline_s - monotonic()))[0]
        try:
            reply = connection.call(packet, deadline_s)
            if reply is INCOMPLETE:
                (reply,) = connection.read(1, Wait(started_s + deadline_s - monotonic()))
        except NothingSentError:
            self._drop(connection)
            wait = Wait(started_s + deadline_s - monotonic())
            return self.finish(self._begin_again(packet, wait), 1, wait)[0]
        except redis_compat.client_errors() as error:
            raise self._failed(connection, error) from error
        except BaseException:
            self._drop(connection)  # interrupted
            raise
        connection.last_used_s = breaker.last_arrival_s = monotonic()
        if self._waiters or not connection.is_reusable:
            self._release(connection)
            return reply
        # Who waits says so before looking once more for an idle connection; here it is the other way round.
        self._idle.append(connection)
        if self._waiters or not connection.is_reusable:
            with self._connections.lock:
                self._connections.serve_waiters()
        return reply

    def execute(self, packet: bytes, reply_count: int, wait: Wait) -> list[Any]:
        """Send commands, and return their replies.

        Args:
            packet: The commands as they go over the wire.
            reply_count: How many commands these are.
            wait: How long to wait for a connection and the replies.

        Returns:
            Their replies: texts as bytes, errors in their places.

        Raises:
            StoreUnavailable: The commands were not carried out.
            StoreTimeout: Nobody knows whether they were.
        """
        return self.finish(self.begin(packet, wait), reply_count, wait)

    def begin(self, packet: bytes, wait: Wait) -> Connection:
        """Send commands; return the connection on which the replies come. It has to be given to `finish`, or `give_up`.

        Raises:
            StoreUnavailable: The commands were not carried out.
            StoreTimeout: Nobody knows whether they were.
        """
        try:
            return self._begin(packet, wait)
        except NothingSentError:
            return self._begin_again(packet, wait)

    def begin_at_once(self, packet: bytes, wait: Wait) -> Connection | None:
        """Do the same on an idle connection; return None if there is none, and nothing was sent."""
        if not self._breaker.is_open:
            with contextlib.suppress(IndexError, NothingSentError):
                return self._begin_on(self._idle.pop(), packet, wait)
        return None

    def _begin_again(self, packet: bytes, wait: Wait) -> Connection:
        """Send commands of which nothing could be sent."""
        self._connections.close_ended()  # others that were idle will have ended, too
        try:
            return self._begin(packet, wait)
        except NothingSentError as error:
            raise error_mapping.before_sending(error) from error

    def _begin(self, packet: bytes, wait: Wait) -> Connection:
        return self._begin_on(self._acquire(wait), packet, wait)

    def _begin_on(self, connection: Connection, packet: bytes, wait: Wait) -> Connection:
        try:
            connection.send(packet, wait)
        except NothingSentError:
            self._drop(connection)
            raise
        except redis_compat.client_errors() as error:
            raise self._failed(connection, error) from error
        except BaseException:
            self._drop(connection)
            raise
        return connection

    def finish(self, connection: Connection, reply_count: int, wait: Wait) -> list[Any]:
        """Return the replies to commands that `begin` sent. Raises as that."""
        try:
            replies = connection.read(reply_count, wait)
        except redis_compat.client_errors() as error:
            raise self._failed(connection, error) from error
        except BaseException:
            self._drop(connection)
            raise
        connection.last_used_s = self._breaker.last_arrival_s = monotonic()
        self._release(connection)
        return replies

    def give_up(self, connection: Connection) -> None:
        """Close a connection whose replies nobody will read."""
        self._drop(connection)

    def execute_apart(self, packet: bytes, reply_count: int, wait: Wait) -> list[Any]:
        """Do the same on a connection of their own, made and closed here: what takes long takes none from others."""
        try:
            connection = open_connection(self._pool(), self.connector.address(), wait.left_s)
        except Exception as error:  # whatever a client's own way of connecting raises, there is none
            raise error_mapping.before_sending(error) from error
        try:
            return connection.execute(packet, reply_count, wait)
        except redis_compat.client_errors() as error:
            raise error_mapping.after_sending(error) from error
        finally:
            connection.close()

    def _acquire(self, wait: Wait) -> Connection:
        if self._breaker.is_open:
            raise self.connector.unavailable()
        if wait.left_s <= 0:
            raise StoreUnavailable("the deadline was over before the command could be sent")
        connection = self._connections.acquire(wait, self.connector.need)
        if connection is None:
            self.connector.note_miss()
            raise self.connector.none_in_time()
        return connection

    def _release(self, connection: Connection) -> None:
        if not self._connections.release(connection):
            self.connector.look()

    def _drop(self, connection: Connection) -> None:
        if not self._connections.drop(connection):
            self.connector.look()

    def _failed(self, connection: Connection, error: Exception) -> StoreError:
        """Close a connection on which an answer did not come; return the error for its caller."""
        if isinstance(error, TimeoutError):
            self.connector.note_miss()
        self._drop(connection)
        if connection.is_deposed:
            return StoreTimeout("the connection was broken off: another server is the primary now", cause="deposed")
        return error_mapping.after_sending(error)

    def breaker_state(self) -> BreakerState:
        """Return whether the breaker is open, and how often it has opened."""
        return self._breaker.state()

    def connect(self, timeout_s: float, count: int = USUALLY_IDLE) -> None:
        """Wait until so many connections stand, as many as are usually idle; after this time, for one and a spare.

        Raises:
            StoreUnavailable: Not even these stand; with the reason.
        """
        self.connector.stand(count, timeout_s)

    def renew(self) -> None:
        """Have no connection used again, as new ones may lead to another server. Does so seldom, if called often."""
        now_s = monotonic()
        with self._connections.lock:
            if now_s < self._renewed_s + PROBE_INTERVAL_S:
                return
            self._renewed_s = now_s
            self._connections.retire()
        self._connections.close_ended()
        self.connector.look()

    def retire(self) -> None:
        """Close the connections that nobody uses, the others once their replies have come, and end the thread."""
        self.connector.retire()

    def close(self) -> None:
        """Close all connections, and end the thread. Whoever needs a connection afterwards has them made anew."""
        self.connector.close()


_endpoints: WeakKeyDictionary[Any, Endpoint] = WeakKeyDictionary()
