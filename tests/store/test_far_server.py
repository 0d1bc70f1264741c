"""A server so far that a deadline has time for one round trip and not for two: what was read is not read again."""

import pytest
from helpers.limiter_twin import TWINS, limiter_twin
from helpers.proxy import Proxy
from helpers.single_plan import ample_limiter, used

RTT_S, DEADLINE_S = 0.035, 0.06
MAX_CHECKS = 40
"""Three are enough where no process has to wait for a processor, and no late reply makes the breaker look."""


@pytest.mark.parametrize("twin", TWINS)
def test_a_new_key_gets_on_with_each_check(server, twin):
    """Its entry, its record, the check: each attempt gets one round trip further."""
    with ample_limiter(server) as admin, Proxy(server.socket, rtt=RTT_S) as far:
        keys = [admin.catalog.create_key(plans=["gold"]).value for _ in range(3)]
        with limiter_twin(twin, "url", far.url, keys[0], deadline=DEADLINE_S) as limiter:
            limiter.limiter._namespace.before_refresh = lambda: None  # no push that has the catalogue read
            wait_until_connected(limiter)
            for key in keys:
                limiter.key = key
                decisions = [limiter.check()]
                while not decisions[-1].allowed and len(decisions) < MAX_CHECKS:
                    decisions.append(limiter.check())
                assert decisions[-1].allowed, [(decision.cause, str(decision.error)) for decision in decisions]
                assert 1 <= used(admin, key) <= 1 + [decision.cause for decision in decisions].count("unknown")


def wait_until_connected(limiter):
    """Connecting takes round trips of its own."""
    if limiter.is_async:
        limiter.run(limiter.limiter._store.wait_connected(5))
    else:
        limiter.limiter._store.connect(5)
