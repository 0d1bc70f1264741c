"""What callers without a good key cost those who have one.

Three tables: requests per second of one process by the share of keys that do not exist; what callers with good keys
notice of a flood of them; and the CPU time of one request that is denied. All unknown values are distinct and
well-formed: only a look-up shows that no key has them.
"""

import asyncio
import time
from itertools import count, islice

from rich.table import Table

from benchmarks.contenders import ours
from benchmarks.contenders.contender import AMPLE
from benchmarks.report.progress import steps
from benchmarks.report.results import Figure, Spread
from benchmarks.suite import host
from benchmarks.suite.rounds import interleaved, percentiles, ratio, rotated, spread
from ratelimit import AsyncLimiter, Limiter
from ratelimit.registry.key_values import _checksum

SHARES = (0.0, 0.05, 0.1, 0.25, 0.5)
SECONDS = 0.3
RATE_TIMES = {0.1: 0.60, 0.5: 0.35}
FLOOD, SMALL_FLOOD = 200_000, 50_000
NEW_KEYS = 5_000
P99_TIMES = 3.0
NEW_KEY_MS = 1_000
SERVED = 2_000
"""Requests over which the server's CPU time is averaged: it counts in milliseconds, or coarser."""
NAMESPACE = "check"
KINDS = {
    "known": "a key of a plan",
    "unknown": "a value that no key has",
    "made-up stage": "a key, on a stage that its plan does not open",
    "disabled": "a key that is disabled",
    "expired": "a key that has expired",
    "unknown, again": "the same value again, within a second",
}
TASKS = 300
NEW_EACH_S = 0.02
"""During a flood, a good key that this process never met is checked so often, in seconds."""


def unknown(numbers):
    """Values that are well-formed, to their checksum, and belong to no key."""
    for number in numbers:
        body = f"{number:030}"
        yield f"rl_live_{body}{_checksum(body)}"


class CachedCallers:
    """Callers with keys that the process has met, each checking again as soon as it is answered."""

    def __init__(self, limiter, keys):
        self.waits_us, self.denied = [], 0
        self._ending = False
        self._limiter = limiter
        self._tasks = [asyncio.ensure_future(self._check(key)) for key in keys]

    async def _check(self, key):
        check, now = self._limiter.check, time.perf_counter_ns
        while not self._ending:
            began = now()
            decision = await check(key, ours.STAGE, ours.METHOD)
            self.waits_us.append((now() - began) / 1000)
            self.denied += not decision.allowed

    def take(self):
        """Return what was measured since the last time."""
        waits, denied, self.waits_us, self.denied = self.waits_us, self.denied, [], 0
        if not waits:
            raise RuntimeError("no check was answered")
        return {**percentiles(waits, (50, 99)), "max": max(waits), "answers": len(waits), "denied": denied}

    async def end(self):
        self._ending = True
        await asyncio.gather(*self._tasks)


async def _new_keys(limiter, keys):
    """Check good keys that were never met, one after the other; return milliseconds, or None without a 200."""
    waits = []

    async def check(key):
        began = time.perf_counter()
        decision = await limiter.check(key, ours.STAGE, ours.METHOD)
        waits.append((time.perf_counter() - began) * 1000 if decision.allowed else None)

    tasks = []
    try:
        for key in keys:
            tasks.append(asyncio.ensure_future(check(key)))
            await asyncio.sleep(NEW_EACH_S)
    except asyncio.CancelledError:
        await asyncio.gather(*tasks)
    return waits


async def _in_turn(limiter, values):
    """300 tasks share the values, each checking the next as soon as it is answered."""
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


async def flood(limiter, shape, cached_keys, new_keys, values, quiet_s):
    """Have good callers check alone for a while, then during a flood. Return what they and the flood were answered."""
    await asyncio.gather(*(limiter.check(key, ours.STAGE, ours.METHOD) for key in cached_keys))
    cached = CachedCallers(limiter, cached_keys)
    await asyncio.sleep(0.2)  # to warm up
    cached.take()
    await asyncio.sleep(quiet_s)
    before, fresh = cached.take(), iter(new_keys)
    newcomers = asyncio.ensure_future(_new_keys(limiter, fresh))
    began = time.perf_counter()
    statuses = await SHAPES[shape](limiter, values)
    seconds = time.perf_counter() - began
    during = cached.take()
    newcomers.cancel()
    waits = await newcomers
    await cached.end()
    idle = await idle_at_once(len(values))
    answered = [wait for wait in waits if wait is not None]
    return {
        "seconds": seconds,
        "idle_seconds": idle,
        "alone": before,
        "flooded": during,
        "statuses": statuses,
        "new_ms": max(answered, default=None),
        "new_checked": len(waits),
        "new_denied": len(waits) - len(answered),
    }


async def rate_with(limiter, cached_keys, share, values, seconds):
    """300 tasks check in turn, every so many times a value that no key has. Return answers per second."""
    end, answers, every = time.perf_counter() + seconds, 0, round(1 / share) if share else 0

    async def task(number, key):
        nonlocal answers
        while time.perf_counter() < end:
            number += 1
            good = not every or number % every
            value = key if good else next(values)
            status = (await limiter.check(value, ours.STAGE, ours.METHOD)).status
            if status != (200 if good else 403):
                raise RuntimeError(f"{'a good' if good else 'an unknown'} key was answered {status}")
            answers += 1

    began = time.perf_counter()
    await asyncio.gather(*(task(number, key) for number, key in enumerate(islice(cached_keys, TASKS))))
    return answers / (time.perf_counter() - began)


def _limiter(server):
    return AsyncLimiter.from_url(server.url, namespace=NAMESPACE, deadline=ours.PATIENT)


async def _shares(server, keys, values, rounds, step):
    rates = {share: [] for share in SHARES}
    async with _limiter(server) as limiter:
        for number in range(-1, rounds):  # the first is to warm up
            for share in rotated(SHARES, number):
                step(f"{share:.0%} unknown")
                rate = await rate_with(limiter, keys, share, values, SECONDS)
                if number >= 0:
                    rates[share].append(rate)
    none = rates[SHARES[0]]
    return {
        f"{share:.0%}": {"per_second": spread(by_round), "ratio": ratio(by_round, none)}
        for share, by_round in rates.items()
    }


async def _floods(server, keys, new_keys, values, size, rounds, step):
    rounds_of = {shape: [] for shape in SHAPES}
    for _ in range(rounds):
        for shape in SHAPES:
            step(f"a flood of {size:,}, {shape}")
            async with _limiter(server) as limiter:
                flood_values = [next(values) for _ in range(size)]
                rounds_of[shape].append(await flood(limiter, shape, keys, new_keys, flood_values, quiet_s=1.0))
    return rounds_of


def _server_seconds(client):
    used = client.info("cpu")
    return used["used_cpu_user"] + used["used_cpu_sys"]


def _server_us(client, call):
    before = _server_seconds(client)
    for _ in range(SERVED):
        call()
    return (_server_seconds(client) - before) / SERVED * 1e6


def _denials(server, keys, values, rounds, step):
    """CPU time of single requests, by a blocking limiter on the server's core, and what the server spends on each."""
    good, disabled, expired = keys
    with (
        server.client() as client,
        Limiter(client, namespace=NAMESPACE) as admin,
        Limiter.from_url(server.url, namespace=NAMESPACE, deadline=ours.PATIENT) as limiter,
    ):
        _, of_disabled, of_expired = sorted(key.id for key in admin.catalog.keys())  # noqa: SIM118 - no dict
        admin.catalog.update_key(of_disabled, enabled=False)
        admin.catalog.update_key(of_expired, expires_at=time.time() + 0.2)
        limiter.check(expired, ours.STAGE, ours.METHOD)
        time.sleep(0.3)

        def checking(value, stage=ours.STAGE):
            return lambda: limiter.check(value() if callable(value) else value, stage, ours.METHOD).allowed

        calls = {
            "known": (checking(good), True),
            "unknown": (checking(lambda: next(values)), False),
            "made-up stage": (checking(good, "made/up"), False),
            "disabled": (checking(disabled), False),
            "expired": (checking(expired), False),
            "unknown, again": (checking("x" * 40), False),
        }
        samples = interleaved(calls, rounds, 300, step)
        of_server = {kind: _server_us(client, call) for kind, (call, _) in calls.items()}
    unknown = [sample.cpu for sample in samples["unknown"]]
    summary = {}
    for kind, its_samples in samples.items():
        cpu = [sample.cpu for sample in its_samples]
        summary[kind] = {"cpu_us": spread(cpu), "ratio": ratio(cpu, unknown), "server_us": of_server[kind]}
    return summary


def measure(full=False):
    rounds, size, flood_rounds = (25, FLOOD, 5) if full else (7, SMALL_FLOOD, 2)
    values = unknown(count())
    with steps("unknown keys", (rounds + 1) * (len(SHARES) + 1) + 2 * flood_rounds) as step:
        with host.placed_server(host.MAIN, host.placements()[-1]) as server:
            keys = ours.CHECK.enrol(server.url, AMPLE, TASKS + NEW_KEYS)
            cached, new = keys[:TASKS], keys[TASKS:]
            by_share = asyncio.run(_shares(server, cached, values, rounds, step))
            flooded = asyncio.run(_floods(server, cached, new, values, size, flood_rounds, step))
        with host.placed_server(host.MAIN, host.placements()[0]) as server:
            keys = ours.CHECK.enrol(server.url, AMPLE, 3)
            denials = _denials(server, keys, values, rounds, step)
    return {"shares": by_share, "floods": flooded, "size": size, "denials": denials}


def figures(result):
    for share, least in RATE_TIMES.items():
        times = Spread(*result["shares"][f"{share:.0%}"]["ratio"])
        what = f"{host.MAIN}: requests per second with {share:.0%} unknown keys / with none"
        yield Figure.of(what, times, better="higher", target=least)
    for shape, rounds in result["floods"].items():
        # Checks that all begin at once stop the event loop for as long as so many tasks take to begin.
        in_turn = shape == IN_TURN
        what = f"{host.MAIN}: a flood of unknown keys, {shape}"
        times = ratio([one["flooded"]["p99"] for one in rounds], [one["alone"]["p99"] for one in rounds])
        yield Figure.of(f"{what}: p99 of known keys / without it", times, target=P99_TIMES if in_turn else None)
        denied = sum(one["flooded"]["denied"] for one in rounds)
        yield Figure(f"{what}: known keys denied", denied, "", target=0)
        waits = [one["new_ms"] for one in rounds if one["new_ms"] is not None]
        target = NEW_KEY_MS if in_turn else None
        yield Figure(f"{what}: first answer to a new key, slowest", max(waits, default=0.0), "ms", target=target)
        yield Figure(f"{what}: new keys denied", sum(one["new_denied"] for one in rounds), "", target=0)
    for kind in ("made-up stage", "disabled", "expired"):
        times = Spread(*result["denials"][kind]["ratio"])
        yield Figure.of(f"{host.MAIN}: CPU time of {KINDS[kind]} / an unknown value", times, target=1.0)


def tables(result):
    title = f"{TASKS} tasks of one process ({host.MAIN}), by the share of requests with keys that do not exist"
    table = Table(title=title, title_justify="left")
    for column in ("unknown", "requests/s", "/ none", "quartiles"):
        table.add_column(column, justify="right")
    for share, one in result["shares"].items():
        low, middle, high = one["ratio"]
        table.add_row(share, f"{one['per_second'][1]:,.0f}", f"{middle:.2f}x", f"{low:.2f} - {high:.2f}")
    yield table
    title = f"{TASKS} tasks with known keys, alone and during a flood of {result['size']:,} unknown ones, by round"
    table = Table(title=title, title_justify="left")
    table.add_column("flood")
    for column in (
        "s",
        "idle tasks: s",
        "alone: p50 ms",
        "p99",
        "flooded: p50",
        "p99",
        "max",
        "denied",
        "new keys, slowest ms",
    ):
        table.add_column(column, justify="right")
    for column in ("new keys denied", "flood: 403", "503"):
        table.add_column(column, justify="right")
    for shape, rounds in result["floods"].items():
        for one in rounds:
            alone = [f"{one['alone'][point] / 1000:.2f}" for point in ("p50", "p99")]
            flooded = [f"{one['flooded'][point] / 1000:.2f}" for point in ("p50", "p99", "max")]
            slowest = "" if one["new_ms"] is None else f"{one['new_ms']:,.0f}"
            new = slowest, f"{one['new_denied']} of {one['new_checked']}"
            statuses = [
                f"{one['statuses'].get(status, one['statuses'].get(str(status), 0)):,}" for status in (403, 503)
            ]
            seconds = f"{one['seconds']:.1f}", f"{one['idle_seconds']:.1f}"
            table.add_row(shape, *seconds, *alone, *flooded, f"{one['flooded']['denied']}", *new, *statuses)
    yield table
    table = Table(title=f"one request, blocking, on the server's core ({host.MAIN})", title_justify="left")
    table.add_column("request with")
    for column in ("client CPU µs", "/ unknown", "quartiles", "server CPU µs"):
        table.add_column(column, justify="right")
    for kind, one in result["denials"].items():
        low, middle, high = one["ratio"]
        compared = f"{middle:.2f}x", f"{low:.2f} - {high:.2f}"
        table.add_row(KINDS[kind], f"{one['cpu_us'][1]:.1f}", *compared, f"{one['server_us']:.1f}")
    yield table
