"""What callers without a good key cost those who have one.

`python benchmarks/unknown_keys.py [--full]`. Three tables: requests per second of one process by the share of keys that
do not exist; what callers with good keys notice of a flood of them; and the CPU time of one request that is refused.
All unknown values are distinct and well-formed: nothing but a look-up can tell that no key has them.
"""

import asyncio
import time
from itertools import count

import floods
import host
import ours
from contenders import AMPLE
from progress import steps
from report import Figure
from rich.table import Table
from rounds import Spread, interleaved, ratio, rotated, spread

from ratelimit import AsyncLimiter, Limiter

SHARES = (0.0, 0.05, 0.1, 0.25, 0.5)
SECONDS = 0.3
LEAST = {0.1: 0.60, 0.5: 0.35}
FLOOD, SMALL_FLOOD = 200_000, 50_000
NEW_KEYS = 5_000
MOST_TIMES = 3.0
MOST_MS = 1_000
SERVED = 2_000
"""Requests by which the server's CPU time is told: it counts it in milliseconds, or coarser."""
NAMESPACE = "check"
KINDS = {
    "known": "a key of a plan",
    "unknown": "a value that no key has",
    "made-up stage": "a key, on a stage that its plan does not open",
    "disabled": "a key that is disabled",
    "expired": "a key that has expired",
    "unknown, again": "the same value again, within a second",
}


def _limiter(server):
    return AsyncLimiter.from_url(server.url, namespace=NAMESPACE, deadline=ours.PATIENT)


async def _shares(server, keys, values, rounds, tell):
    found = {share: [] for share in SHARES}
    async with _limiter(server) as limiter:
        for number in range(-1, rounds):  # the first is to warm up
            for share in rotated(SHARES, number):
                tell(f"{share:.0%} unknown")
                rate = await floods.shares(limiter, keys, share, values, SECONDS)
                if number >= 0:
                    found[share].append(rate)
    none = found[SHARES[0]]
    return {
        f"{share:.0%}": {"per_second": spread(rates), "ratio": ratio(rates, none)} for share, rates in found.items()
    }


async def _floods(server, keys, new_keys, values, size, rounds, tell):
    found = {shape: [] for shape in floods.SHAPES}
    for _ in range(rounds):
        for shape in floods.SHAPES:
            tell(f"a flood of {size:,}, {shape}")
            async with _limiter(server) as limiter:
                given = [next(values) for _ in range(size)]
                found[shape].append(await floods.flood(limiter, shape, keys, new_keys, given, quiet_s=1.0))
    return found


def _server_seconds(client):
    used = client.info("cpu")
    return used["used_cpu_user"] + used["used_cpu_sys"]


def _server_us(client, call):
    before = _server_seconds(client)
    for _ in range(SERVED):
        call()
    return (_server_seconds(client) - before) / SERVED * 1e6


def _refusals(server, keys, values, rounds, tell):
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

        def asking(value, stage=ours.STAGE):
            return lambda: limiter.check(value() if callable(value) else value, stage, ours.METHOD).allowed

        calls = {
            "known": (asking(good), True),
            "unknown": (asking(lambda: next(values)), False),
            "made-up stage": (asking(good, "made/up"), False),
            "disabled": (asking(disabled), False),
            "expired": (asking(expired), False),
            "unknown, again": (asking("x" * 40), False),
        }
        samples = interleaved(calls, rounds, 300, tell)
        of_server = {kind: _server_us(client, call) for kind, (call, _) in calls.items()}
    unknown = [sample.cpu for sample in samples["unknown"]]
    found = {}
    for kind, taken in samples.items():
        cpu = [sample.cpu for sample in taken]
        found[kind] = {"cpu_us": spread(cpu), "ratio": ratio(cpu, unknown), "server_us": of_server[kind]}
    return found


def measure(full=False):
    rounds, size, flood_rounds = (25, FLOOD, 5) if full else (7, SMALL_FLOOD, 2)
    values = floods.unknown(count())
    with steps("unknown keys", (rounds + 1) * (len(SHARES) + 1) + 2 * flood_rounds) as tell:
        with host.placed_server(host.MAIN, host.placements()[-1]) as server:
            keys = ours.CHECK.enrol(server.url, AMPLE, floods.TASKS + NEW_KEYS)
            met, new = keys[: floods.TASKS], keys[floods.TASKS :]
            by_share = asyncio.run(_shares(server, met, values, rounds, tell))
            flooded = asyncio.run(_floods(server, met, new, values, size, flood_rounds, tell))
        with host.placed_server(host.MAIN, host.placements()[0]) as server:
            keys = ours.CHECK.enrol(server.url, AMPLE, 3)
            refusals = _refusals(server, keys, values, rounds, tell)
    return {"shares": by_share, "floods": flooded, "size": size, "refusals": refusals}


def figures(found):
    for share, least in LEAST.items():
        times = Spread(*found["shares"][f"{share:.0%}"]["ratio"])
        what = f"{host.MAIN}: requests per second with {share:.0%} unknown keys / with none"
        yield Figure.of(what, times, better="higher", target=least)
    for shape, rounds in found["floods"].items():
        # What is asked all at once stops the event loop for as long as so many tasks take to begin, whoever made them.
        in_turn = shape == floods.IN_TURN
        what = f"{host.MAIN}: a flood of unknown keys, {shape}"
        times = ratio([one["flooded"]["p99"] for one in rounds], [one["alone"]["p99"] for one in rounds])
        yield Figure.of(f"{what}: p99 of known keys / without it", times, target=MOST_TIMES if in_turn else None)
        refused = sum(one["flooded"]["refused"] for one in rounds)
        yield Figure(f"{what}: known keys refused", refused, "", target=0)
        waits = [one["new_ms"] for one in rounds if one["new_ms"] is not None]
        target = MOST_MS if in_turn else None
        yield Figure(f"{what}: first answer to a new key, slowest", max(waits, default=0.0), "ms", target=target)
        yield Figure(f"{what}: new keys refused", sum(one["new_refused"] for one in rounds), "", target=0)
    for kind in ("made-up stage", "disabled", "expired"):
        times = Spread(*found["refusals"][kind]["ratio"])
        yield Figure.of(f"{host.MAIN}: CPU time of {KINDS[kind]} / an unknown value", times, target=1.0)


def tables(found):
    title = f"{floods.TASKS} tasks of one process ({host.MAIN}), by the share of requests with keys that do not exist"
    table = Table(title=title, title_justify="left")
    for column in ("unknown", "requests/s", "/ none", "quartiles"):
        table.add_column(column, justify="right")
    for share, one in found["shares"].items():
        low, middle, high = one["ratio"]
        table.add_row(share, f"{one['per_second'][1]:,.0f}", f"{middle:.2f}x", f"{low:.2f} - {high:.2f}")
    yield table
    title = (
        f"{floods.TASKS} tasks with known keys, alone and during a flood of {found['size']:,} unknown ones, by round"
    )
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
        "refused",
        "new keys, slowest ms",
    ):
        table.add_column(column, justify="right")
    for column in ("new keys refused", "flood: 403", "503"):
        table.add_column(column, justify="right")
    for shape, rounds in found["floods"].items():
        for one in rounds:
            alone = [f"{one['alone'][point] / 1000:.2f}" for point in ("p50", "p99")]
            flooded = [f"{one['flooded'][point] / 1000:.2f}" for point in ("p50", "p99", "max")]
            slowest = "" if one["new_ms"] is None else f"{one['new_ms']:,.0f}"
            new = slowest, f"{one['new_refused']} of {one['new_asked']}"
            told = [f"{one['statuses'].get(status, one['statuses'].get(str(status), 0)):,}" for status in (403, 503)]
            seconds = f"{one['seconds']:.1f}", f"{one['idle_seconds']:.1f}"
            table.add_row(shape, *seconds, *alone, *flooded, f"{one['flooded']['refused']}", *new, *told)
    yield table
    table = Table(title=f"one request, blocking, on the server's core ({host.MAIN})", title_justify="left")
    table.add_column("request with")
    for column in ("client CPU µs", "/ unknown", "quartiles", "server CPU µs"):
        table.add_column(column, justify="right")
    for kind, one in found["refusals"].items():
        low, middle, high = one["ratio"]
        compared = f"{middle:.2f}x", f"{low:.2f} - {high:.2f}"
        table.add_row(KINDS[kind], f"{one['cpu_us'][1]:.1f}", *compared, f"{one['server_us']:.1f}")
    yield table


if __name__ == "__main__":
    from alone import run

    run(measure, figures, tables)
