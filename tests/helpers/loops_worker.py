"""In a process of its own: what an AsyncLimiter leaves behind in event loops that have ended."""

import asyncio
import contextlib
import gc
import threading
import warnings
from pathlib import Path

from helpers.replica import METHOD, STAGE
from helpers.waiting import wait_for
from ratelimit import AsyncLimiter

DESCRIPTORS = Path("/proc/self/fd")


def sockets():
    """How many descriptors of this process are sockets."""
    gc.collect()
    links = []
    for descriptor in DESCRIPTORS.iterdir():
        with contextlib.suppress(OSError):  # that of the listing has gone
            links.append(str(descriptor.readlink()))
    return sum(link.startswith("socket:") for link in links)


def ask_in_many_loops(url, key, loops):
    """Ask in one loop after the other; return all statuses, what asyncio said and what Python warned of.

    Raises AssertionError if sockets or threads of ended loops stay.
    """
    limiter, answers, said = AsyncLimiter.from_url(url, deadline=5), [], []

    async def ask():
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: said.append(str(context)))
        decisions = await asyncio.gather(*(limiter.check(key, STAGE, METHOD) for _ in range(5)))
        answers.extend(decision.status for decision in decisions)

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", ResourceWarning)
        asyncio.run(ask())
        before, threads = sockets(), threading.active_count()
        for _ in range(loops):
            asyncio.run(ask())
        wait_for(lambda: sockets() <= before)
        assert threading.active_count() <= threads
        asyncio.run(limiter.aclose())
        gc.collect()
    return answers, said, [str(each.message) for each in warned if issubclass(each.category, ResourceWarning)]
