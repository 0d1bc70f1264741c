"""The last states of limits that a process has seen, from the replies that it noted. No I/O."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from ratelimit.engine.limits import Bucket, CompiledLimits
from ratelimit.engine.protocol import Reply
from ratelimit.engine.spread_limits import JoinedReply
from ratelimit.errors import StoreError
from ratelimit.local.local_limits import KnownState


class NotedReply(NamedTuple):
    """A reply that judged a check, the limits that it is about, and when the check was sent."""

    limits: CompiledLimits
    reply: Reply
    sent_us: int


def time_us(noted: NotedReply) -> int | None:
    """Return the server's time of a reply; None if it cannot be read."""
    try:
        return noted.limits.time_us(noted.reply)
    except StoreError:
        return None


def latest_states(replies: Iterable[NotedReply], *, shared: bool) -> dict[str, KnownState]:
    """Return the latest state of each limit in replies, of equally late ones the lowest.

    Args:
        replies: The replies. One that cannot be read is left out; what this process judged by its own part says nothing
            of the limits that all callers share.
        shared: Whether the limits that all callers share are meant, or those of the caller.
    """
    states: dict[str, KnownState] = {}
    for limits, reply, sent_us in replies:
        if shared and isinstance(reply, JoinedReply) and reply.cause is not None:
            continue
        try:
            numbers, server_us = limits.numbers(reply), limits.time_us(reply)
            for index, limit, state_id in limits.indexed:
                if limit.shared is not shared:
                    continue
                per = limit.throttle.ratio[1] if isinstance(limit, Bucket) else 1
                level, last_us = int(numbers[2 * index]), int(numbers[2 * index + 1])
                before = states.get(state_id)
                if before is None or (server_us, -level) > (before.server_us, -before.level):
                    states[state_id] = KnownState(level, last_us, per, server_us, sent_us)
        except (StoreError, ValueError, OverflowError, struct.error):
            continue
    return states
