"""A limiter on a server with slots, and data for it."""

from contextlib import contextmanager

from helpers.slot_data import copy_all
from ratelimit import Catalog, Limiter


def do_at_once(limiter):
    """Have a limiter do at once what it does in the background: it is in no order with what a test does."""
    limiter._store._background.start = limiter._store.run_upkeep


@contextmanager
def slot_limiter(slots, plain, fill, **options):
    """A limiter on the server with slots, and what `fill` returns, which is called with a catalogue.

    That is one on the server without slots, from which all is copied. No pushes; what Redis does not decide is 503.
    """
    with plain.client() as source:
        filled = fill(Catalog(source))
        copy_all(source, slots)
    with another_limiter(slots, **options) as limiter:
        yield limiter, filled


@contextmanager
def another_limiter(slots, **options):
    """One more limiter on the server with slots, as another process has it; as `slot_limiter` otherwise."""
    options = {"deadline": 5, "on_unavailable": "closed"} | options
    with slots.client() as client, Limiter(client, **options) as limiter:
        limiter._namespace.before_refresh = lambda: None
        do_at_once(limiter)
        yield limiter
