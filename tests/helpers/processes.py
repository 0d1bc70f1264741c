"""Processes of their own that start together: see the fixture `processes`."""

import sys
import threading
import time
from contextlib import contextmanager
from multiprocessing import active_children, get_context

PROCESSES = 8
GATE = "test:ready"
PATIENCE_S = 20


@contextmanager
def pool_of_processes():
    """A pool of eight processes, ended with the block whatever they do. Spawned: they share nothing with this one."""
    pool = get_context("spawn").Pool(PROCESSES)
    try:
        yield pool
    finally:
        # It waits for a lock that a process which was stopped at the wrong moment never gives back.
        ending = threading.Thread(target=pool.terminate, name="end-of-pool", daemon=True)
        ending.start()
        ending.join(PATIENCE_S)
        if ending.is_alive():
            sys.stderr.write("the pool of processes did not end by itself: its processes are killed\n")
            for process in active_children():
                process.kill()


def wait_for_all(client, processes):
    """Return once all `processes` are ready."""
    client.incr(GATE)
    while int(client.get(GATE)) < processes:
        time.sleep(0.001)
