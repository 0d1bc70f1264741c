"""Pushed changes: every replica listens, so that a change of plans is in force everywhere at once. Nobody polls.

A lost push is no harm: `max_age` and the version that each key's state carries cover it.
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

import redis
import redis.asyncio
from redis.exceptions import RedisError

from ratelimit.local import fork_safety

_PATIENCE = 1.0
_PAUSE = 0.5

Changed = Callable[[str | None], None]
"""Takes a message, or None if some may have been missed."""


def _said(message: dict[str, Any]) -> str | None:
    if message["type"] != "message":
        return None
    said = message["data"]
    return said.decode(errors="replace") if isinstance(said, bytes) else str(said)


class Listener:
    """A daemon thread that calls `changed` for each message on `channel`, and whenever messages may have been lost.

    About once a second it calls `tick`, for what has to be done now and then. It ends with `stop`, and by itself
    some seconds after the object that `changed` is a method of is gone.
    """

    def __init__(self, client: redis.Redis, channel: str, changed: Changed, tick: Callable[[], None]) -> None:
        self._client: Any = client  # redis-py leaves pubsub untyped
        self._channel = channel
        self._changed = weakref.WeakMethod(changed)
        self._tick = weakref.WeakMethod(tick)
        self._pubsub: Any = None
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._stopped = threading.Event()
        self.reset_after_fork()
        fork_safety.register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Make the locks anew: another thread of the parent may have held them at the fork."""
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

    def stop(self) -> None:
        """Stop listening."""
        self._stopped.set()
        if self._thread is None or self._pid != os.getpid():
            return
        pubsub = self._pubsub
        end = getattr(getattr(pubsub, "connection", None), "_sock", None)
        with contextlib.suppress(RedisError, OSError):
            if isinstance(end, socket.socket):
                end.shutdown(socket.SHUT_RDWR)  # wakes the thread, which alone may use the connection
            elif end is not None:
                pubsub.unsubscribe()  # an emulator has no socket, and its reply wakes the thread
        self._thread.join(timeout=3 * _PATIENCE)

    def _listen(self) -> None:
        while not self._stopped.is_set() and self._changed() is not None:
            # Whatever happens to a connection that others may close meanwhile: listen again.
            with contextlib.suppress(Exception), self._client.pubsub() as pubsub:
                pubsub.subscribe(self._channel)
                self._pubsub = pubsub
                while not self._stopped.is_set() and (changed := self._changed()) is not None:
                    # The first message confirms the subscription: what was said before it was not heard.
                    if (message := pubsub.get_message(timeout=_PATIENCE)) is not None:
                        changed(_said(message))
                    if (tick := self._tick()) is not None:
                        tick()
                    del changed, tick  # not to keep alive what would end this thread
            self._pubsub = None
            self._stopped.wait(_PAUSE)


class AsyncListener:
    """The twin of `Listener`: a task of the event loop that starts it."""

    def __init__(
        self, client: redis.asyncio.Redis, channel: str, changed: Changed, tick: Callable[[], Awaitable[None]]
    ) -> None:
        self._client = client
        self._channel = channel
        self._changed = changed
        self._tick = tick
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    def start(self) -> None:
        """Listen from now on; does nothing if it listens already."""
        if self._task is None and not self._stopped:
            self._task = asyncio.get_running_loop().create_task(self._listen(), name="ratelimit-push")

    async def stop(self) -> None:
        """Stop listening."""
        self._stopped = True  # a cancellation alone can be swallowed where a timeout ends at the same moment
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _listen(self) -> None:
        while not self._stopped:
            with contextlib.suppress(Exception):  # as above
                async with self._client.pubsub() as pubsub:
                    await pubsub.subscribe(self._channel)
                    while not self._stopped:
                        if (message := await pubsub.get_message(timeout=_PATIENCE)) is not None:
                            self._changed(_said(message))
                        await self._tick()
            await asyncio.sleep(_PAUSE)
