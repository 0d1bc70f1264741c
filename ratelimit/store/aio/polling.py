"""What an event loop has to read is read before anything is given up for being late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_MAX_POLLS = 8
"""Data may keep coming for others: nobody waits for its end longer than this."""


def once_quiet(
    loop: asyncio.AbstractEventLoop,
    last_arrival: Callable[[], float],
    callback: Callable[[], None],
    polls: int = _MAX_POLLS,
) -> None:
    """Call back once the loop has looked for data and there was none.

    Args:
        loop: The running loop.
        last_arrival: Returns when data last arrived.
        callback: What is then called.
        polls: How often to look at most.
    """
    before = last_arrival()

    def look() -> None:
        if polls > 1 and last_arrival() != before:
            once_quiet(loop, last_arrival, callback, polls - 1)
        else:
            callback()

    # What is called soon is called before that which the next poll finds, and so it takes a second turn.
    loop.call_soon(loop.call_soon, look)


async def next_poll() -> None:
    """Return once the running loop has looked for data, and transports that were closed have closed their sockets."""
    for _ in range(2):
        await asyncio.sleep(0)
