"""The moment from which propagation is counted."""

import time

from benchmarks.suite import host, propagation
from ratelimit import Catalog, Throttle, UsagePlan


def test_the_commit_of_a_change_is_recorded_between_call_and_return():
    """One script is answered for each change, within the call that makes it; afterwards nothing is recorded."""
    server = host.Server(host.MAIN)
    try:
        with server.client() as client:
            catalog = Catalog(client)
            catalog.put_plan(UsagePlan("gold", Throttle(1, 1)))
            with propagation._recording_commits(catalog) as commits:
                before = time.monotonic()
                catalog.put_plan(UsagePlan("gold", Throttle(1, 2)))
                after = time.monotonic()
            assert len(commits) == 1
            assert before < commits[0] < after
            catalog.put_plan(UsagePlan("gold", Throttle(1, 3)))
            assert len(commits) == 1
            assert catalog.get_plan("gold").throttle.burst == 3
    finally:
        server.stop()
