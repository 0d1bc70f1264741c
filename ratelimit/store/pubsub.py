"""Change messages: every replica subscribes, so that a change of plans is in force everywhere at once.

A lost message is no harm: `max_age` and the version that each key's state carries cover it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

from ratelimit.local import fork_safety
from ratelimit.store import redis_compat
from ratelimit.store.addresses import Address
from ratelimit.store.aio.finder import AsyncFinder
from ratelimit.store.aio.loops import PerLoop
from ratelimit.store.blocking.finder import Finder
from ratelimit.store.clients import AsyncClient, Client, pool_of

_POLL_S = 1.0
_RECONNECT_PAUSE_S = 0.5

OnMessage = Callable[[str | None], None]
"""Takes a change message, or None if some may have been missed."""


def _text(message: dict[str, Any]) -> str | None:
    if message["type"] != "message":
        return None  # the confirmation of the subscription: what was published before it was missed
    data = message["data"]
    return data.decode(errors="replace") if isinstance(data, bytes) else str(data)


class Listener:
    """A daemon thread that passes on each message of a channel, and None when messages may have been lost.

    It ends with `stop`, and by itself some seconds after the object that `on_message` is a method of is gone.

    Args:
        client: Its pool says how to connect.
        channel: The channel's name.
        on_message: A method to be called with each message, and with None.
        tick: A method to be called about once a second, for what has to be done now and then.
        finder: Finds the server to connect to; None where the pool says it.
    """

    def __init__(
        self,
        client: Client,
        channel: str,
        on_message: OnMessage,
        tick: Callable[[], None],
        finder: Finder | None = None,
    ) -> None:
        self._pool = pool_of(client)
        self._channel = channel
        self._finder = finder
        self._is_moved = False
        self._on_message = weakref.WeakMethod(on_message)
        self._tick = weakref.WeakMethod(tick)
        self._pubsub: Any = None
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._stopped = threading.Event()
        self.reset_after_fork()
        fork_safety.register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Make the locks anew: a thread of the parent may have held them at the fork."""
        stopped = self._stopped.is_set()
        self._lock, self._stopped = threading.Lock(), threading.Event()
        if stopped:
            self._stopped.set()

    def start(self) -> None:
        """Listen from now on; does nothing if this process listens already. After a fork, the child starts anew."""
        if self._pid == os.getpid():
            return
        with self._lock:
            if self._pid == os.getpid() or self._stopped.is_set():
                return
            self._pid = os.getpid()
            self._thread = threading.Thread(target=self._listen, name="ratelimit-push", daemon=True)
            self._thread.start()
        if self._finder is not None:
            self._finder.watch(self._move_to)

    def stop(self) -> None:
        """Stop listening."""
        self._stopped.set()
        if self._thread is None or self._pid != os.getpid():
            return
        if self._finder is not None:
            self._finder.unwatch(self._move_to)
        self._wake()
        self._thread.join(timeout=_POLL_S)

    def _move_to(self, address: Address) -> None:
        """Subscribe at another server: the one before publishes changes no more, without an error."""
        self._is_moved = True
        if (connection := getattr(self._pubsub, "connection", None)) is not None:
            connection.host, connection.port = address  # a pubsub reconnects by itself, and not to the one before
        self._wake()

    def _wake(self) -> None:
        pubsub = self._pubsub
        sock = redis_compat.socket_of(getattr(pubsub, "connection", None))
        with contextlib.suppress(*redis_compat.client_errors()):
            if isinstance(sock, socket.socket):
                sock.shutdown(socket.SHUT_RDWR)  # wakes the thread, which alone may use the connection
            elif sock is not None:
                pubsub.unsubscribe()  # an emulator has no socket, and its reply wakes the thread

    def _listen(self) -> None:
        while not self._stopped.is_set() and self._on_message() is not None:
            self._is_moved = False
            # Whatever happens to a connection that others may close meanwhile: subscribe again.
            with contextlib.suppress(Exception), self._new_pubsub() as pubsub:
                pubsub.subscribe(self._channel)
                self._pubsub = pubsub
                while not (self._is_moved or self._stopped.is_set()) and (on_message := self._on_message()) is not None:
                    if (message := pubsub.get_message(timeout=_POLL_S)) is not None:
                        on_message(_text(message))
                    if (tick := self._tick()) is not None:
                        tick()
                    del on_message, tick  # not to keep alive what would end this thread
            self._pubsub = None
            if not (self._is_moved or self._stopped.is_set()):
                if (tick := self._tick()) is not None:
                    tick()  # also where there are no pushes: a user may not subscribe
                del tick
                self._stopped.wait(_RECONNECT_PAUSE_S)

    def _new_pubsub(self) -> Any:
        return redis_compat.new_pubsub(self._pool, None if self._finder is None else self._finder.find())


class AsyncListener:
    """The twin of `Listener`: a task of each event loop that starts it.

    Args:
        client: Its pool says how to connect.
        channel: The channel's name.
        on_message: Called with each message, and with None.
        tick: Awaited about once a second, for what has to be done now and then.
        finder: In each loop, finds the server to connect to; None where the pool says it.
    """

    def __init__(
        self,
        client: AsyncClient,
        channel: str,
        on_message: OnMessage,
        tick: Callable[[], Awaitable[None]],
        finder: Callable[[], AsyncFinder] | None = None,
    ) -> None:
        pool = pool_of(client)
        self._subscriptions = PerLoop(
            lambda: _Subscription(pool, channel, on_message, tick, None if finder is None else finder())
        )
        self._stopped = False

    def start(self) -> None:
        """Listen from now on in the running loop; does nothing if it listens already."""
        if not self._stopped:
            self._subscriptions.get()

    async def stop(self) -> None:
        """Stop listening, in all loops."""
        self._stopped = True
        await self._subscriptions.close()


class _Subscription:
    """A task that listens in one event loop."""

    def __init__(
        self,
        pool: Any,
        channel: str,
        on_message: OnMessage,
        tick: Callable[[], Awaitable[None]],
        finder: AsyncFinder | None,
    ) -> None:
        self._pool = pool
        self._finder = finder
        self._is_moved = asyncio.Event()
        self._channel = channel
        self._on_message = on_message
        self._tick = tick
        self._stopped = False
        self._pubsub: Any = None
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] = self._loop.create_task(self._listen(), name="ratelimit-push")
        if finder is not None:
            finder.watch(self._move_to)

    async def close(self) -> None:
        """Stop listening."""
        self.abandon()
        await asyncio.gather(self._task, return_exceptions=True)

    def abandon(self) -> None:
        """Have the task end."""
        self._stopped = True
        if not self._loop.is_closed():
            self._task.cancel()

    def _move_to(self, _address: Address) -> None:
        """As `Listener._move_to`."""
        self._is_moved.set()
        if (connection := getattr(self._pubsub, "connection", None)) is not None:
            redis_compat.abort(connection)

    def _goes_on(self) -> bool:
        # A cancellation can be swallowed where a timeout ends at the same moment.
        return not self._stopped and not self._task.cancelling()

    async def _listen(self) -> None:
        while self._goes_on():
            self._is_moved.clear()
            with contextlib.suppress(Exception):  # as above
                address = None if self._finder is None else await self._finder.find()
                with redis_compat.new_pubsub(self._pool, address) as pubsub:
                    self._pubsub = pubsub
                    await pubsub.subscribe(self._channel)
                    while self._goes_on() and not self._is_moved.is_set():
                        if (message := await pubsub.get_message(timeout=_POLL_S)) is not None:
                            self._on_message(_text(message))
                        await self._tick()
            self._pubsub = None
            if self._goes_on():
                if not self._is_moved.is_set():
                    with contextlib.suppress(Exception):  # a loop that closes
                        await self._tick()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_RECONNECT_PAUSE_S):
                        await self._is_moved.wait()
