"""Floods of keys that do not exist, and what callers with good keys notice of them."""

import asyncio
import time
from itertools import islice

import ours
from rounds import percentiles

from ratelimit.registry.key_values import _checksum

TASKS = 300
NEW_EACH_S = 0.02
"""During a flood, a good key that this process never met is asked about so often."""


def unknown(numbers):
    """Values that are well-formed, to their checksum, and belong to no key."""
    for number in numbers:
        body = f"{number:030}"
        yield f"rl_live_{body}{_checksum(body)}"


class Met:
    """Callers with keys that the process has met, each asking again as soon as it is answered."""

    def __init__(self, limiter, keys):
        self.waits_us, self.refused = [], 0
        self._ending = False
        self._limiter = limiter
        self._tasks = [asyncio.ensure_future(self._ask(key)) for key in keys]

    async def _ask(self, key):
        check, now = self._limiter.check, time.perf_counter_ns
        while not self._ending:
            began = now()
            decision = await check(key, ours.STAGE, ours.METHOD)
            self.waits_us.append((now() - began) / 1000)
            self.refused += not decision.allowed

    def take(self):
        """Return what was seen since the last time."""
        waits, refused, self.waits_us, self.refused = self.waits_us, self.refused, [], 0
        if not waits:
            raise RuntimeError("nobody was answered")
        return {**percentiles(waits, (50, 99)), "max": max(waits), "answers": len(waits), "refused": refused}

    async def end(self):
        self._ending = True
        await asyncio.gather(*self._tasks)


async def _new_keys(limiter, keys):
    """Ask about good keys that were never met, one after the other; return milliseconds, or None without a 200."""
    waits = []

    async def ask(key):
        began = time.perf_counter()
        decision = await limiter.check(key, ours.STAGE, ours.METHOD)
        waits.append((time.perf_counter() - began) * 1000 if decision.allowed else None)

    tasks = []
    try:
        for key in keys:
            tasks.append(asyncio.ensure_future(ask(key)))
            await asyncio.sleep(NEW_EACH_S)
    except asyncio.CancelledError:
        await asyncio.gather(*tasks)
    return waits


async def _in_turn(limiter, values):
    """300 tasks share the values, each asking as soon as it is answered."""
    statuses, rest = {}, iter(values)

    async def task():
        for value in rest:
            status = (await limiter.check(value, ours.STAGE, ours.METHOD)).status
            statuses[status] = statuses.get(status, 0) + 1

    await asyncio.gather(*(task() for _ in range(TASKS)))
    return statuses


async def _at_once(limiter, values):
    """A task for each value, all made in one moment."""
    statuses = {}
    for decision in await asyncio.gather(*(limiter.check(value, ours.STAGE, ours.METHOD) for value in values)):
        statuses[decision.status] = statuses.get(decision.status, 0) + 1
    return statuses


IN_TURN = f"{TASKS} tasks in turn"
SHAPES = {IN_TURN: _in_turn, "all at once": _at_once}


async def idle_at_once(tasks):
    """Return the seconds that as many tasks take which wait for the next turn of the event loop and do nothing."""
    began = time.perf_counter()
    await asyncio.gather(*(asyncio.sleep(0) for _ in range(tasks)))
    return time.perf_counter() - began


async def flood(limiter, shape, met_keys, new_keys, values, quiet_s):
    """Have good callers ask alone for a while, then during a flood. Return what they and the flood were told."""
    await asyncio.gather(*(limiter.check(key, ours.STAGE, ours.METHOD) for key in met_keys))
    met = Met(limiter, met_keys)
    await asyncio.sleep(0.2)  # to warm up
    met.take()
    await asyncio.sleep(quiet_s)
    before, fresh = met.take(), iter(new_keys)
    asking = asyncio.ensure_future(_new_keys(limiter, fresh))
    began = time.perf_counter()
    statuses = await SHAPES[shape](limiter, values)
    seconds = time.perf_counter() - began
    during = met.take()
    asking.cancel()
    waits = await asking
    await met.end()
    idle = await idle_at_once(len(values))
    answered = [wait for wait in waits if wait is not None]
    return {
        "seconds": seconds,
        "idle_seconds": idle,
        "alone": before,
        "flooded": during,
        "statuses": statuses,
        "new_ms": max(answered, default=None),
        "new_asked": len(waits),
        "new_refused": len(waits) - len(answered),
    }


async def shares(limiter, met_keys, share, values, seconds):
    """300 tasks ask in turn, every so many times about a value that no key has. Return answers per second."""
    end, answers, every = time.perf_counter() + seconds, 0, round(1 / share) if share else 0

    async def task(number, key):
        nonlocal answers
        while time.perf_counter() < end:
            number += 1
            known = not every or number % every
            value = key if known else next(values)
            status = (await limiter.check(value, ours.STAGE, ours.METHOD)).status
            if status != (200 if known else 403):
                raise RuntimeError(f"a {'known' if known else 'unknown'} key was answered {status}")
            answers += 1

    began = time.perf_counter()
    await asyncio.gather(*(task(number, key) for number, key in enumerate(islice(met_keys, TASKS))))
    return answers / (time.perf_counter() - began)
