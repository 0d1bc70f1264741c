"""What a process of its own does in `test_push` and in the benchmark of propagation: one replica that is asked on."""

import time
from typing import NamedTuple

import redis

from ratelimit import Limiter

STAGE, METHOD = "petstore/prod", "GET /pets"
SEEN = "test:seen"
"""Hash: replica -> the newest burst that it decided by."""
PATIENCE_S = 40.0


class Turn(NamedTuple):
    """When a replica changed from one burst to another: its last answer by the old and its first by the new one.

    Seconds of the machine's monotonic clock, which all its processes share.
    """

    replica: int
    burst: int
    last_old: float
    first_new: float


def watch(url, replica, key, last_burst, pause_s, max_age):
    """Peek again and again until the plan has `last_burst`, and return every turn.

    Raises TimeoutError if nothing changes for a long time: whoever waits for this process is then told.
    """
    turns, burst, answered = [], None, time.monotonic()
    changed = answered
    with redis.Redis.from_url(url) as client, Limiter.from_url(url, deadline=10.0, max_age=max_age) as limiter:
        while burst != last_burst:
            (limit,) = limiter.peek(key, STAGE, METHOD).limits
            now = time.monotonic()
            if limit.limit != burst:
                if burst is not None:
                    turns.append(Turn(replica, limit.limit, answered, now))
                burst, changed = limit.limit, now
                client.hset(SEEN, replica, burst)
            elif now - changed > PATIENCE_S:
                raise TimeoutError(f"the plan has a burst of {burst}, and never gets one of {last_burst}")
            answered = now
            time.sleep(pause_s)
    return turns
