"""What both kinds of executors need to ask servers beside the primary: its replicas, and its Sentinels."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ratelimit.admin.doctor.read import Peer, PeerReply, wall_us
from ratelimit.admin.doctor.readings import ClientSettings
from ratelimit.errors import StoreError, StoreUnavailable
from ratelimit.store import error_mapping, redis_compat
from ratelimit.store.resp import pack

TIMEOUT_S = 2.0
"""How long a peer may take to connect, and to answer each time."""


def client_settings(pool: Any) -> ClientSettings:
    """Return how a client is set that was passed in, by its pool."""
    keywords = pool.connection_kwargs
    user = "" if keywords.get("credential_provider") else keywords.get("username") or "default"
    retries = redis_compat.retries_of(pool)
    if not redis_compat.finds_primary(pool):
        return ClientSettings(retries, user)
    tracker = redis_compat.primary_tracker(pool)
    return ClientSettings(retries, user, tracker.service, tuple(tracker.sentinels))


def way_to(pool: Any, peer: Peer) -> tuple[Any, tuple[str, int] | None]:
    """Return the pool by whose settings to connect to a peer, and the address instead of the pool's.

    Raises:
        StoreUnavailable: The pool is of a Unix socket, which leads to one server alone.
    """
    if isinstance(peer.address, int):
        return redis_compat.sentinel_pools(pool)[peer.address], None
    if "path" in pool.connection_kwargs:
        raise StoreUnavailable("the URL is that of a Unix socket, which leads to the primary alone")
    return pool, peer.address


class Exchange:
    """One question to a peer: the first command goes alone, so that its reply has a time."""

    def __init__(self, peer: Peer) -> None:
        first, *others = peer.commands
        self.packets = [(pack([first]), 1), (pack(others), len(others))]
        self._replies = list[Any]()
        self._sent_us = self._answered_us = self._ticks = 0

    def begin(self) -> None:
        """Note that the first command is about to be sent."""
        self._sent_us, self._ticks = wall_us(), time.monotonic_ns()

    def add(self, replies: Sequence[Any]) -> None:
        """Note the replies to one of the packets."""
        if not self._replies:
            self._answered_us = self._sent_us + (time.monotonic_ns() - self._ticks) // 1000
        self._replies += [
            error_mapping.after_sending(each) if isinstance(each, Exception) else each for each in replies
        ]

    def reply(self) -> PeerReply:
        """Return all replies."""
        return PeerReply(self._replies, self._sent_us, self._answered_us)


def failure(error: Exception) -> StoreError:
    """Return why a peer could not be asked."""
    return error if isinstance(error, StoreError) else error_mapping.before_sending(error)
