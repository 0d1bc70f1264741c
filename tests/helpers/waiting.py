"""Waiting for what happens in another thread or process."""

import time


def wait_for(condition, seconds=5):
    """Wait until something becomes true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.002)
