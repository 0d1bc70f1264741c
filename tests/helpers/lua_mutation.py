"""Bugs put into the Lua sources in memory, to show that a test fails with them."""

from contextlib import contextmanager
from unittest.mock import patch

from ratelimit import scripts


def mutated(right, wrong, script):
    """Return what reads scripts, with `right` in one of them become `wrong`."""
    expanded = scripts.expanded
    # No AssertionError, and not only once a test runs: a bug that is not there must not pass for one found.
    if expanded(script).count(right) != 1:
        raise ValueError(f"{right!r} is not there, or not once: adapt the seeded bug")
    return lambda name: expanded(name).replace(right, wrong) if name == script else expanded(name)


@contextmanager
def bug(right, wrong, script="check"):
    """Have limiters and catalogues that are made meanwhile use a script in which `right` became `wrong`."""
    reads = mutated(right, wrong, script)
    scripts.load.cache_clear()
    try:
        with patch.object(scripts, "expanded", reads):
            yield
    finally:
        scripts.load.cache_clear()
