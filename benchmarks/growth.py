"""What a check costs as the work grows: more limits, more keys, more plans, and the first check of a key.

Each point of a series has a namespace (or, for keys, a server) of its own. In each round every point gets a limiter
that has just been made, as in a process that has just started: its very first check connects and loads the catalogue;
then come first checks of keys (cold), then later checks of the same keys (warm). All are timed round by round, so
"grows by" is the median of the ratios within a round. Server and client share one core: wall time then is the work of
both. What the server alone spends is counted by callgrind.
"""

import gc
import statistics
import time
from contextlib import ExitStack

import callgrind
import growth_script
import host
import redis
from growth_points import KEYS, points
from ours import ALL_DAY, METHOD, PATIENT, STAGE, UNDER_VALGRIND
from progress import steps
from report import Figure
from rich.table import Table
from rounds import ratio, rotated, spread

from ratelimit import Limiter

AGAIN = 4
"""Keys are checked in a round once (cold), then so many times again (warm)."""
COUNTED = 5
KINDS = {"first": "first check of a process", "cold": "first check of a key", "warm": "later checks"}
SERIES = {"limits": "limits judged per check", "keys": "keys stored", "plans": "plans in the catalogue"}
FLAT = 1.10
"""What a check of a known key may grow by with keys and plans: nothing, within what can be measured."""


def _checks(limiter, values):
    """Check all values once; return microseconds per check: CPU of this process, and wall."""
    check = limiter.check
    wall, cpu = time.perf_counter(), time.process_time()
    right = sum(check(value, STAGE, METHOD).allowed for value in values)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    assert right == len(values), f"{len(values) - right} of {len(values)} checks were not admitted"
    return cpu / right * 1e6, wall / right * 1e6


def _round(point, url):
    """Return (CPU, wall) of each kind of check, by a limiter that is as good as a process that has just started."""
    *values, spare = point.values()
    with Limiter.from_url(url, namespace=point.namespace, deadline=PATIENT, max_age=ALL_DAY) as limiter:
        gc.collect()  # a snapshot of 10,000 plans that somebody else dropped is not this one's cost
        first = _checks(limiter, [spare])
        _checks(limiter, [spare] * 20)
        return {"first": first, "cold": _checks(limiter, values), "warm": _checks(limiter, values * AGAIN)}


def _on(server_of, rounds, tell):
    """Return, for each point and kind of check, the CPU and wall times of all rounds."""
    taken = {point: {kind: [] for kind in KINDS} for point in server_of}
    for number in range(-1, rounds):  # the first is to warm up
        for point in rotated(server_of, number):
            tell(f"{point.label} {SERIES[point.series]}, round {max(number, 0) + 1} of {rounds}")
            found = _round(point, server_of[point].url)
            if number >= 0:
                for kind in KINDS:
                    taken[point][kind].append(found[kind])
    return taken


def _summary(point, taken, least):
    """Of a point: spreads of its times, and by how much they exceed those of the least work."""
    found = {"series": point.series, "label": point.label, "work": point.work, "keys": point.keys}
    for at, clock in enumerate(("cpu", "wall")):
        mine, theirs = ({kind: [pair[at] for pair in pairs[kind]] for kind in KINDS} for pairs in (taken, least))
        found[clock] = {kind: spread(mine[kind]) for kind in KINDS}
        found[f"{clock}_growth"] = {kind: ratio(mine[kind], theirs[kind]) for kind in KINDS}
    return found


def _instructions(point):
    """What the server spends on a first and on a later check of a key, by the median of limiters made one by one.

    In some of so few checks Lua collects garbage, or the server goes on with its hash table.
    """
    *values, spare = point.values()
    with callgrind.metered() as meter, redis.Redis.from_url(meter.url) as client:
        point.load(client)
        options = {"namespace": point.namespace, "deadline": UNDER_VALGRIND, "max_age": ALL_DAY}
        cold, warm = [], []
        for _ in range(COUNTED):
            with Limiter.from_url(meter.url, **options) as limiter:
                _checks(limiter, [spare] * 20)
                meter.look()
                _checks(limiter, values)
                cold.append(meter.look() / KEYS)
                _checks(limiter, values * AGAIN)
                warm.append(meter.look() / KEYS / AGAIN)
        return {"cold": statistics.median(cold), "warm": statistics.median(warm)}


def measure(full=False):
    chosen = points(full)
    counting = callgrind.VALGRIND and callgrind.CONTROL
    # Loading a million keys under valgrind takes minutes, and what the server does for each is the same.
    counted = [p for p in chosen if p.keys <= 10**5 and (full or p.series != "plans" or p.work in {1, 1000})]
    server = {"absent": None, "instructions_of": callgrind.version()} if counting else {"absent": callgrind.ABSENT}
    rounds, found = 24 if full else 8, {}
    total = len(chosen) * (rounds + 2) + (len(counted) + 1 if counting else 0)
    with steps("growth", total) as tell:
        for series, what in SERIES.items():
            mine = [point for point in chosen if point.series == series]
            with ExitStack() as stack:
                server_of, one = {}, None
                for point in mine:
                    if one is None or series == "keys":
                        one = stack.enter_context(host.placed_server(host.MAIN, host.placements()[0]))
                    server_of[point] = one
                    with one.client() as client:
                        tell(f"{point.label} {what}: {point.keys:,} keys are written")
                        point.load(client)
                taken = _on(server_of, rounds, tell)
            for point in mine:
                found[point] = _summary(point, taken[point], taken[mine[0]])
        for point in counted if counting else ():
            tell(f"{point.label} {SERIES[point.series]}: instructions")
            found[point]["instructions"] = _instructions(point)
        if counting:
            tell("the script alone: instructions")
            server["script"] = growth_script.measure()
    return {**server, "rounds": rounds, "points": list(found.values())}


def ends(found, series, field=None):
    """The points with the least and the most work of a series (of those that have `field`)."""
    mine = [p for p in found["points"] if p["series"] == series and p["work"] and (field is None or field in p)]
    return mine[0], mine[-1]


def figures(found):
    for series, what in SERIES.items():
        least, most = ends(found, series)
        span = f"{least['label']} to {most['label']} {what}"
        for kind, name in KINDS.items():
            target = FLAT if series != "limits" and kind != "first" else None
            for clock, said in (("cpu", "CPU"), ("wall", "wall time, with the server's work")):
                low, middle, high = most[f"{clock}_growth"][kind]
                title = f"{host.MAIN}: growth from {span}: {name}, {said}"
                yield Figure(title, middle, "x", "lower", target if clock == "cpu" else None, low, high)
        if found["absent"]:
            continue
        least, most = ends(found, series, "instructions")
        span = f"{least['label']} to {most['label']} {what}"
        for kind in ("cold", "warm"):
            grown = most["instructions"][kind] / least["instructions"][kind]
            title = f"{found['instructions_of']}: growth from {span}: {KINDS[kind]}, instructions of the server"
            yield Figure(title, grown, "x", target=None if series == "limits" else FLAT)


def tables(found):
    for series, what in SERIES.items():
        table = Table(title=f"cost as work grows: {what} ({host.MAIN}; median of {found['rounds']} rounds)")
        table.title_justify = "left"
        table.add_column(what)
        for name in KINDS.values():
            table.add_column(f"{name}, CPU µs", justify="right")
        table.add_column("later checks, wall µs", justify="right")
        table.add_column("grown by, CPU (quartiles)", justify="right", no_wrap=True)
        for kind in ("cold", "warm"):
            table.add_column(f"instructions, {KINDS[kind]}", justify="right")
        for point in (p for p in found["points"] if p["series"] == series):
            low, middle, high = point["cpu_growth"]["warm"]
            cpu = [f"{point['cpu'][kind][1]:,.1f}" for kind in KINDS]
            counts = [f"{count:,.0f}" for count in point["instructions"].values()] if "instructions" in point else []
            grown = f"{middle:.2f}x ({low:.2f} - {high:.2f})"
            table.add_row(point["label"], *cpu, f"{point['wall']['warm'][1]:,.1f}", grown, *counts)
        yield table
    if found["absent"]:
        yield f"[yellow]{found['absent']}"
        return
    table = Table(title=f"cost as work grows: limits judged by check.lua alone ({found['instructions_of']})")
    table.title_justify = "left"
    for column in ("limits of a usual check", "instructions of the server", "more than with one limit less"):
        table.add_column(column, justify="right")
    before = None
    for count, spent in found["script"]:
        table.add_row(f"{count}", f"{spent:,.0f}", "" if before is None else f"{spent - before:+,.0f}")
        before = spent
    yield table


if __name__ == "__main__":
    from alone import run

    run(measure, figures, tables)
