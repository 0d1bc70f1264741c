"""Bugs put into the Lua sources in memory, to show that a test fails with them."""

from contextlib import contextmanager
from unittest.mock import patch

from ratelimit.core import scripts


@contextmanager
def bug(right, wrong, script="check"):
    """Have limiters and catalogues that are made meanwhile use a script in which `right` became `wrong`."""
    expanded = scripts.expanded
    if expanded(script).count(right) != 1:  # no AssertionError: those are what is expected of a bug
        raise ValueError(f"{right!r} is not there, or not once: adapt the seeded bug")

    def mutated(name):
        source = expanded(name)
        return source.replace(right, wrong) if name == script else source

    scripts.load.cache_clear()
    try:
        with patch.object(scripts, "expanded", mutated):
            yield
    finally:
        scripts.load.cache_clear()
