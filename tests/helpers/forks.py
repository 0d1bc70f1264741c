"""A forked child that does one thing and tells whether it could."""

import os
import signal
import time
import weakref
from unittest.mock import patch

from ratelimit.local import fork_safety


def run_in_child(act):
    """Run `act` in a forked child: 0 if it returned what is true; None if it had to be killed."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if act() else 1)
        finally:
            os._exit(2)
    deadline = time.monotonic() + 5
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(ended[1])


class _Nobody(weakref.WeakKeyDictionary):
    def __setitem__(self, *_):
        pass


def without_fork_resets():
    """A seeded bug: a child goes on with its parent's locks."""
    return patch.object(fork_safety, "_registered", _Nobody())
