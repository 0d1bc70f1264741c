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
    """A limiter with connections of its own. No pushes, no denial cache: Redis decides, or it is 503."""
    options = {"denial_cache": False, "deadline": 5, "on_unavailable": "closed"} | options
    with backend.client() as client, Limiter(client, **options) as limiter:
        limiter._namespace.before_refresh = lambda: None
        yield limiter


def caching_replica(backend, clock, **options):
    """A replica with a denial cache."""
    return replica(backend, **({"clock": clock, "denial_cache": True} | options))


def remaining(decision):
    """What is left of each limit, by its name."""
    return {limit.name: limit.remaining for limit in decision.limits}
