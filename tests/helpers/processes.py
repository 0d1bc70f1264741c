"""Processes of their own that start together: see the fixture `processes`."""

import time
from multiprocessing import get_context
from subprocess import TimeoutExpired

PROCESSES = 8
GATE = "test:ready"
PATIENCE_S = 20


def pool_of_processes():
    """A pool of eight processes, ended with the block. Spawned: they share nothing with this one."""
    return get_context("spawn").Pool(PROCESSES)


def end(process, patience_s=PATIENCE_S):
    """End a process that was started by subprocess, by force if it does not end by itself in time."""
    process.terminate()
    try:
        process.wait(patience_s)
    except TimeoutExpired:
        process.kill()
        process.wait(patience_s)


def wait_for_all(client, processes):
    """Return once all `processes` are ready."""
    client.incr(GATE)
    while int(client.get(GATE)) < processes:
        time.sleep(0.001)
