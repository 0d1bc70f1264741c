"""Requests that a test sends by itself, as an operation would."""

from ratelimit.store.blocking.wait import Wait


def reply_to(store, request, seconds=None):
    """Have a blocking executor send one request, and wait so many seconds; else as for an administrator."""
    return store._execute(request, Wait(seconds or store._patience_s))
