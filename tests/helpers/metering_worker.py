"""What a process of its own does in `test_metering`: one replica of a gateway that adds up what it was told."""

import random
from collections import Counter

import redis

from helpers.processes import wait_for_all
from helpers.replica import METHOD, OTHER, STAGE
from ratelimit import Limiter

DONE = "test:done"
FREE = "free"
"""The one plan without any limit: a decision under it names none."""


def plan_of(decision):
    """The id of the plan that an admitted request was charged to, from the names of its limits."""
    named = (limit.name.split(":") for limit in decision.limits)
    return next((parts[1] for parts in named if parts[0] in {"plan", "quota"}), FREE)


def spend(url, keys, processes, seed):
    """Check random keys, methods and costs until DONE is set; return units admitted by (key, plan), and outcomes.

    `keys` maps the id of a key to all values that it will ever have. Which of them opens it is found out by asking.
    """
    chance, current = random.Random(seed), dict.fromkeys(keys, 0)
    admitted, outcomes = Counter(), Counter()
    with redis.Redis.from_url(url) as client, Limiter.from_url(url, deadline=10.0) as limiter:
        limiter.peek(None, STAGE, METHOD)
        wait_for_all(client, processes)
        while sum(outcomes.values()) % 20 or not client.exists(DONE):
            key_id, cost = chance.choice(list(keys)), chance.choice((1, 1, 2, 3, 7))
            value = keys[key_id][current[key_id] % len(keys[key_id])]
            decision = limiter.check(value, STAGE, chance.choice((METHOD, OTHER)), cost)
            outcomes[decision.reason.value] += 1
            if decision.allowed:
                admitted[key_id, plan_of(decision)] += cost
            elif decision.detail == "unknown":
                current[key_id] += 1
    return admitted, outcomes
