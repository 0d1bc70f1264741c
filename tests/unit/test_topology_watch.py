"""The task that refreshes the topology of a cluster for an event loop."""

import asyncio
from types import SimpleNamespace

from ratelimit.store.aio.topology_watch import TopologyWatch


def test_a_listener_that_fails_ends_no_watch():
    """The next refresh comes all the same, and its listener is called."""

    async def refresh_twice():
        refreshes = []

        def fail_once():
            refreshes.append(watch.problem)
            if len(refreshes) == 1:
                raise RuntimeError("a fault")

        client = SimpleNamespace(start_nodes=[], connection_pool=None)
        watch = TopologyWatch(client, list, lambda: False, fail_once)
        for _ in range(2):
            await watch.next_refresh(5)
        await watch.close()
        return refreshes

    assert len(asyncio.run(refresh_twice())) == 2
