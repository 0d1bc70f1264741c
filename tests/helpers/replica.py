"""One process of a gateway, and the stage and methods that most tests check."""

from contextlib import contextmanager
from fractions import Fraction

from ratelimit import Limiter

STAGE, METHOD, OTHER = "petstore/prod", "GET /pets", "POST /pets"
SLOW = Fraction(1, 1000)
"""Tokens per second: no test waits for one by accident."""
FOREVER = 1e9
"""As `max_age`: a replica that does not look by itself."""


@contextmanager
def replica(backend, **options):
    """A limiter with connections of its own. It hears no pushes and has no denial cache: it asks Redis."""
    with backend.client() as client, Limiter(client, **({"denial_cache": False, "deadline": 5} | options)) as limiter:
        limiter._namespace.before_refresh = lambda: None
        yield limiter


def caching_replica(backend, clock, **options):
    """A replica with a denial cache."""
    return replica(backend, **({"clock": clock, "denial_cache": True} | options))


def remaining(decision):
    """What is left of each limit, by its name."""
    return {limit.name: limit.remaining for limit in decision.limits}
