"""Processes of their own that start together: see the fixture `processes`."""

import time

PROCESSES = 8
GATE = "test:ready"


def wait_for_all(client, processes):
    """Return once all `processes` are ready."""
    client.incr(GATE)
    while int(client.get(GATE)) < processes:
        time.sleep(0.001)
