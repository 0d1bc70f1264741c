"""What a process of its own does in tests of clusters: one replica of a gateway that asks for many keys."""

import random
import time
from array import array
from collections import Counter

from helpers.replica import METHOD, STAGE
from ratelimit import Limiter


def ask_each(url, values, rounds, seed, started_at):
    """Check each key `rounds` times, in an order of its own; how often each was admitted, and how each outcome came.

    Args:
        url: Of the cluster.
        values: Of the keys.
        rounds: How often each is checked.
        seed: Of the order.
        started_at: When all processes begin, in seconds since 1970; the limiter is connected before.
    """
    order = list(range(len(values))) * rounds
    random.Random(seed).shuffle(order)
    admitted, outcomes = array("H", bytes(2 * len(values))), Counter()
    with Limiter.from_url(url, deadline=10, on_unavailable="closed", denial_cache=False) as limiter:
        limiter.warm_up()
        time.sleep(max(0, started_at - time.time()))
        for at in order:
            decision = limiter.check(values[at], STAGE, METHOD)
            admitted[at] += decision.allowed
            outcomes[decision.reason.value if decision.cause is None else decision.error] += 1
    return admitted, outcomes
