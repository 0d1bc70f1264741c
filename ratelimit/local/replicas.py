"""How many processes share the limits: each sends a heartbeat now and then, and learns how many do. No I/O."""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Hashable
from threading import Lock

from ratelimit.effects import Operation, UnknownScriptError
from ratelimit.errors import StoreError
from ratelimit.local import fork_safety
from ratelimit.local.process_life import PROCESS
from ratelimit.model import MICROSECONDS
from ratelimit.registry.namespace import Namespace
from ratelimit.scripts import Command, ScriptCall, load

log = logging.getLogger("ratelimit")

INTERVAL_US = 5 * MICROSECONDS
_COUNTS = 4
"""Of the last counts, the largest one is believed: after an outage not all heartbeats come at once."""
_NOT_PERMITTED = re.compile(r"NOPERM|ACL\.md|scripts load")
"""What errors say of a user who may not call the script, or not all that is in it."""


class Replicas:
    """What one limiter knows of the others; the process is counted once, whatever its limiters. Safe between threads.

    Attributes:
        answered_us: When Redis last answered, by `Namespace.age_us`; None if it never did.
    """

    def __init__(self, namespace: Namespace, least: int, server: Hashable = None) -> None:
        """Begin.

        Args:
            namespace: Where the processes are counted.
            least: How many there are at least.
            server: Stands for the server.
        """
        self._namespace = namespace
        self._least = least
        self._place = (namespace.names.namespace, server)
        self._is_refused = False
        self.answered_us: int | None = None
        self.reset_after_fork()
        fork_safety.register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Make the lock anew; the child is a process of its own, which has sent no heartbeat yet."""
        self._lock = Lock()
        self._due_us: int | None = None
        self._counts: deque[int] = deque(maxlen=_COUNTS)
        self._is_open = False

    @property
    def count(self) -> int:
        """N0: among how many processes limits are divided while Redis is away."""
        return max(self._least, *self._counts, 1)

    def command(self) -> Command:
        """Return the command that says that this process lives, for a server that knows the script."""
        self._join()
        return self._call().by_hash()

    def note(self, reply: object) -> None:
        """Note the reply to `command`."""
        if isinstance(reply, UnknownScriptError):
            return  # soon, with the script
        if isinstance(reply, StoreError):
            self._note_refusal(reply)
        elif isinstance(reply, int):
            now_us = self._namespace.age_us()
            with self._lock:
                self._counts.append(reply)
                self.answered_us, self._due_us = now_us, now_us + INTERVAL_US

    def renew(self) -> Operation[None]:
        """Say that this process lives, if it is time to."""
        now_us = self._namespace.age_us()
        with self._lock:
            due_us = self._due_us
            if due_us is not None and due_us - INTERVAL_US <= now_us < due_us:
                return
            self._due_us = now_us + INTERVAL_US  # another loop of this process need not
        self._join()
        try:
            reply = yield self._call()
        except StoreError as error:
            with self._lock:
                self._due_us = None
            self._note_refusal(error)
            if error.is_outage:
                raise
        else:
            self.note(reply)

    def leave(self) -> Operation[None]:
        """Say that this process ends, if this was its last limiter here."""
        with self._lock:
            was_open, self._is_open = self._is_open, False
        if was_open and PROCESS.end(self._place):
            yield self._call("leave")

    def _join(self) -> None:
        with self._lock:
            if not self._is_open:
                self._is_open = True
                PROCESS.begin(self._place)

    def _call(self, *further: str) -> ScriptCall:
        namespace = self._namespace
        args = (str(namespace.script_us()), PROCESS.name, *further)
        return ScriptCall(load("heartbeat"), (namespace.names.replicas,), args)

    def _note_refusal(self, error: StoreError) -> None:
        if _NOT_PERMITTED.search(str(error)) and not self._is_refused:
            self._is_refused = True
            log.warning(
                "this process cannot be counted among the replicas: %s. While Redis is away it takes them to be %d, "
                "by `replicas`",
                error,
                self._least,
            )
