"""What a process of its own does in `test_concurrency`: one replica of a gateway that asks for one key."""

import redis

from helpers.processes import wait_for_all
from helpers.replica import METHOD, STAGE
from ratelimit import Limiter


def ask(url, key, calls, processes):
    """Wait until all `processes` are ready, check a key `calls` times; return how often each outcome came."""
    counts = {}
    with redis.Redis.from_url(url) as client, Limiter.from_url(url, deadline=10.0) as limiter:
        limiter.peek(key, STAGE, METHOD)
        wait_for_all(client, processes)
        for _ in range(calls):
            outcome = limiter.check(key, STAGE, METHOD).reason.value
            counts[outcome] = counts.get(outcome, 0) + 1
    return counts
