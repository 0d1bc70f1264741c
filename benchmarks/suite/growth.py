"""What a check costs as the work grows: more limits, more keys, more plans, and the first check of a key.

Each point of a series has a namespace (or, for keys, a server) of its own. In each round every point gets a limiter
that has just been made, as in a process that has just started: its very first check connects and loads the catalogue;
then come first checks of keys (cold), then later checks of the same keys (warm). All are timed round by round, so
"grows by" is the median of the ratios within a round. Server and client share one core: wall time then is the work of
both. What the server alone spends is counted by callgrind.

The model has at most six limits for a check; the script takes more. So check.lua is also called by hand, over the wire
contract, with 1 limit to 8.
"""

import gc
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial

import redis
from rich.table import Table

from benchmarks.contenders import loading
from benchmarks.contenders.contender import AMPLE
from benchmarks.contenders.ours import ALL_DAY, METHOD, PATIENT, STAGE, UNDER_VALGRIND
from benchmarks.report import plots
from benchmarks.report.progress import steps
from benchmarks.report.results import Figure
from benchmarks.suite import callgrind, host
from benchmarks.suite.rounds import ratio, rotated, spread
from ratelimit import Catalog, Limiter, PlanStage, Quota, Stage, Throttle, UsagePlan
from ratelimit.engine.limits import Bucket, CompiledLimits, QuotaCount
from ratelimit.scripts import load

KEYS = 50
"""Keys that are checked in a round."""
AGAIN = 4
"""Keys are checked in a round once (cold), then so many times again (warm)."""
FEW_KEYS = 1000
LIMITERS_COUNTED = 5
MOST_LIMITS = 6
"""Of one check: the plan's bucket or that of the method in its place, the stage's, the account's and the quota, which
can deny; the bucket and the quota of the plan's shadow, which are evaluated as well. The model has no more."""
SCRIPT_LIMITS = 8
SCRIPT_CALLS = 200
KINDS = {"first": "first check of a process", "cold": "first check of a key", "warm": "later checks"}
SERIES = {"limits": "limits evaluated per check", "keys": "keys stored", "plans": "plans in the catalogue"}
FLAT = 1.10
"""What a check of a cached key may grow by with keys and plans: nothing, within what can be measured."""

_THROTTLE = Throttle(AMPLE.rate, AMPLE.burst)
_QUOTA = Quota(AMPLE.window, "DAY")


@dataclass(frozen=True)
class Point:
    """One amount of work. `work` is None for what has no position on the axis: then `label` says what it is."""

    series: str
    label: str
    work: int | None
    keys: int
    namespace: str
    prepare: object

    plans: int = 1
    apart: bool = False

    @cached_property
    def numbers(self):
        """Keys to check, spread over those that are stored; the last one is to warm up."""
        return [at * (self.keys - 1) // KEYS for at in range(KEYS + 1)]

    def plan_of(self, number):
        """The plan of a key. Those that are checked share a plan, unless they are `apart`."""
        return f"plan{number % self.plans if self.apart or number not in self.numbers else 0}"

    def load(self, client):
        """Write its plans and keys."""
        self.prepare(client, self.namespace)
        loading.load_keys(client, self.namespace, self.keys, self.plan_of)

    def values(self):
        """Values of the keys to check; the last one is to warm up."""
        return [loading.value(number) for number in self.numbers]


def _plan(name="plan0", quota=_QUOTA, stages=(STAGE,), **options):
    return UsagePlan(name, _THROTTLE, quota, stages, **options)


def _with_limits(limits, client, namespace, by_method=False, alerts=()):
    """Put a plan whose checks evaluate so many limits."""
    catalog = Catalog(client, namespace=namespace)
    if limits >= 3:
        catalog.put_stage(Stage(STAGE, _THROTTLE))
    if limits >= 4:
        catalog.set_account_throttle(_THROTTLE)
    if limits >= 5:
        catalog.put_plan(_plan("shadow", _QUOTA if limits >= 6 else None))
    stage = PlanStage(STAGE, {METHOD: _THROTTLE} if by_method else {})
    shadow = "shadow" if limits >= 5 else None
    catalog.put_plan(_plan(quota=_QUOTA if limits >= 2 else None, stages=[stage], alerts=alerts, shadow=shadow))


def _with_plans(plans, client, namespace):
    Catalog(client, namespace=namespace).put_plan(_plan())
    loading.load_plans(client, namespace, [_plan(f"plan{number}") for number in range(plans)])


def points(full=False):
    """All series; each begins with the least work and ends with the most."""
    series = [
        Point("limits", f"{n}", n, FEW_KEYS, f"limits{n}", partial(_with_limits, n)) for n in range(1, MOST_LIMITS + 1)
    ]
    series += [
        Point("limits", label, None, FEW_KEYS, namespace, partial(_with_limits, limits, **options))
        for label, namespace, limits, options in (
            ("4, the plan's bucket is one of the method", "method", 4, {"by_method": True}),
            ("6, and 10 alerts", "alerts", 6, {"alerts": range(10, 101, 10)}),
        )
    ]
    most = 6 if full else 4
    for n in (10**power for power in range(2, most + 1)):
        series.append(Point("keys", f"{n:,}", n, n, "keys", partial(_with_plans, 1)))
    for n in (10**power for power in range(5 if full else 4)):
        series.append(Point("plans", f"{n:,}", n, max(n, FEW_KEYS), f"plans{n}", partial(_with_plans, n), n))
    label = f"{n:,}, each key of another plan"
    series.append(Point("plans", label, None, max(n, FEW_KEYS), "apart", partial(_with_plans, n), n, apart=True))
    return series


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
        gc.collect()  # a snapshot of 10,000 plans that another limiter dropped is not this one's cost
        first = _checks(limiter, [spare])
        _checks(limiter, [spare] * 20)
        return {"first": first, "cold": _checks(limiter, values), "warm": _checks(limiter, values * AGAIN)}


def _all_rounds(server_of, rounds, step):
    """Return, for each point and kind of check, the CPU and wall times of all rounds."""
    times = {point: {kind: [] for kind in KINDS} for point in server_of}
    for number in range(-1, rounds):  # the first is to warm up
        for point in rotated(server_of, number):
            step(f"{point.label} {SERIES[point.series]}, round {max(number, 0) + 1} of {rounds}")
            one_round = _round(point, server_of[point].url)
            if number >= 0:
                for kind in KINDS:
                    times[point][kind].append(one_round[kind])
    return times


def _summary(point, times, least):
    """Of a point: spreads of its times, and by how much they exceed those of the least work."""
    summary = {"series": point.series, "label": point.label, "work": point.work, "keys": point.keys}
    for at, clock in enumerate(("cpu", "wall")):
        own, base = ({kind: [pair[at] for pair in pairs[kind]] for kind in KINDS} for pairs in (times, least))
        summary[clock] = {kind: spread(own[kind]) for kind in KINDS}
        summary[f"{clock}_growth"] = {kind: ratio(own[kind], base[kind]) for kind in KINDS}
    return summary


def _instructions(point):
    """What the server spends on a first and on a later check of a key, by the median of limiters made one by one.

    In some of so few checks Lua collects garbage, or the server goes on with its hash table.
    """
    *values, spare = point.values()
    with callgrind.metered() as meter, redis.Redis.from_url(meter.url) as client:
        point.load(client)
        options = {"namespace": point.namespace, "deadline": UNDER_VALGRIND, "max_age": ALL_DAY}
        cold, warm = [], []
        for _ in range(LIMITERS_COUNTED):
            with Limiter.from_url(meter.url, **options) as limiter:
                _checks(limiter, [spare] * 20)
                meter.read()
                _checks(limiter, values)
                cold.append(meter.read() / KEYS)
                _checks(limiter, values * AGAIN)
                warm.append(meter.read() / KEYS / AGAIN)
        return {"cold": statistics.median(cold), "warm": statistics.median(warm)}


_KEY, _FIELD, _VERSION_TOKEN = "check:{1}", "p:gold", "epoch--10000000001stamp--1"


def _script_limits(count):
    """So many limits: the plan's bucket, buckets that all callers share, and the quota last."""
    shared = [Bucket(f"bucket {n}", _THROTTLE, f"check:bucket:{n}", shared=True) for n in range(1, count - 1)]
    quota = [QuotaCount("quota", _QUOTA)] if count > 1 else []
    return [Bucket("plan", _THROTTLE), *shared, *quota]


def _script_command(count, now_us):
    """Return the compiled limits, and the EVALSHA of a check that evaluates so many limits."""
    limits, script = CompiledLimits(_script_limits(count), _FIELD), load("check")
    request = limits.request(
        now_us=0, cost=1, valid_until_us=0, flags=0, version_token=_VERSION_TOKEN.encode(), estimate_us=lambda: now_us
    )
    keys = (_KEY, *limits.shared_keys)
    return limits, ("EVALSHA", script.sha, len(keys), *keys, request, *limits.fields)


def _script_instructions():
    """Return pairs: limits, and the server's instructions for a usual check of so many."""
    pairs = []
    with callgrind.metered() as meter, redis.Redis.from_url(meter.url) as client:
        client.script_load(load("check").source)
        seconds, _ = client.time()
        for count in range(1, SCRIPT_LIMITS + 1):
            client.flushdb()
            client.hset(_KEY, "r", _VERSION_TOKEN)
            limits, command = _script_command(count, seconds * 10**6)
            for calls in (SCRIPT_CALLS, SCRIPT_CALLS):  # the first to warm up
                meter.read()
                replies = [client.execute_command(*command) for _ in range(calls)]
                spent = meter.read()
            assert all(isinstance(reply, bytes) for reply in replies), "a usual check is answered with its states"
            assert len(limits.statuses_after_charge(replies[-1])) == count
            pairs.append((count, spent / SCRIPT_CALLS))
    return pairs


def measure(full=False):
    chosen = points(full)
    counting = callgrind.VALGRIND and callgrind.CONTROL
    # Loading a million keys under valgrind takes minutes, and what the server does for each is the same.
    counted = [p for p in chosen if p.keys <= 10**5 and (full or p.series != "plans" or p.work in {1, 1000})]
    server = {"absent": None, "instructions_of": callgrind.version()} if counting else {"absent": callgrind.ABSENT}
    rounds, summaries = 24 if full else 8, {}
    total = len(chosen) * (rounds + 2) + (len(counted) + 1 if counting else 0)
    with steps("growth", total) as step:
        for series, what in SERIES.items():
            in_series = [point for point in chosen if point.series == series]
            with ExitStack() as stack:
                server_of, one = {}, None
                for point in in_series:
                    if one is None or series == "keys":
                        one = stack.enter_context(host.placed_server(host.MAIN, host.placements()[0]))
                    server_of[point] = one
                    with one.client() as client:
                        step(f"{point.label} {what}: {point.keys:,} keys are written")
                        point.load(client)
                times = _all_rounds(server_of, rounds, step)
            for point in in_series:
                summaries[point] = _summary(point, times[point], times[in_series[0]])
        for point in counted if counting else ():
            step(f"{point.label} {SERIES[point.series]}: instructions")
            summaries[point]["instructions"] = _instructions(point)
        if counting:
            step("the script alone: instructions")
            server["script"] = _script_instructions()
    return {**server, "rounds": rounds, "points": list(summaries.values())}


def ends(result, series, field=None):
    """The points with the least and the most work of a series (of those that have `field`)."""
    in_series = [p for p in result["points"] if p["series"] == series and p["work"] and (field is None or field in p)]
    return in_series[0], in_series[-1]


def figures(result):
    for series, what in SERIES.items():
        least, most = ends(result, series)
        span = f"{least['label']} to {most['label']} {what}"
        for kind, name in KINDS.items():
            target = FLAT if series != "limits" and kind != "first" else None
            for clock, label in (("cpu", "CPU"), ("wall", "wall time, with the server's work")):
                low, middle, high = most[f"{clock}_growth"][kind]
                title = f"{host.MAIN}: growth from {span}: {name}, {label}"
                yield Figure(title, middle, "x", "lower", target if clock == "cpu" else None, low, high)
        if result["absent"]:
            continue
        least, most = ends(result, series, "instructions")
        span = f"{least['label']} to {most['label']} {what}"
        for kind in ("cold", "warm"):
            grown = most["instructions"][kind] / least["instructions"][kind]
            title = f"{result['instructions_of']}: growth from {span}: {KINDS[kind]}, instructions of the server"
            yield Figure(title, grown, "x", target=None if series == "limits" else FLAT)


def tables(result):
    for series, what in SERIES.items():
        table = Table(title=f"cost as work grows: {what} ({host.MAIN}; median of {result['rounds']} rounds)")
        table.title_justify = "left"
        table.add_column(what)
        for name in KINDS.values():
            table.add_column(f"{name}, CPU µs", justify="right")
        table.add_column("later checks, wall µs", justify="right")
        table.add_column("grown by, CPU (quartiles)", justify="right", no_wrap=True)
        for kind in ("cold", "warm"):
            table.add_column(f"instructions, {KINDS[kind]}", justify="right")
        for point in (p for p in result["points"] if p["series"] == series):
            low, middle, high = point["cpu_growth"]["warm"]
            cpu = [f"{point['cpu'][kind][1]:,.1f}" for kind in KINDS]
            counts = [f"{count:,.0f}" for count in point["instructions"].values()] if "instructions" in point else []
            grown = f"{middle:.2f}x ({low:.2f} - {high:.2f})"
            table.add_row(point["label"], *cpu, f"{point['wall']['warm'][1]:,.1f}", grown, *counts)
        yield table
    if result["absent"]:
        yield f"[yellow]{result['absent']}"
        return
    table = Table(title=f"cost as work grows: limits evaluated by check.lua alone ({result['instructions_of']})")
    table.title_justify = "left"
    for column in ("limits of a usual check", "instructions of the server", "more than with one limit less"):
        table.add_column(column, justify="right")
    before = None
    for count, spent in result["script"]:
        table.add_row(f"{count}", f"{spent:,.0f}", "" if before is None else f"{spent - before:+,.0f}")
        before = spent
    yield table


def plot(plt, result):
    """Above, what the client spends on a check; below, what the server does: for each series of work."""
    with_work = [point for point in result["points"] if point["work"]]
    counted = not result["absent"]
    figure, grid = plt.subplots(2 if counted else 1, len(SERIES), figsize=(10, 5.6 if counted else 3), squeeze=False)
    styles = {kind: plots.other_style(number) for number, kind in enumerate(reversed(KINDS))}
    for column, (series, what) in enumerate(SERIES.items()):
        in_series = [point for point in with_work if point["series"] == series]
        grid[0][column].set_title(what, loc="left")
        rows = [({kind: [p["cpu"][kind][1] for p in in_series] for kind in KINDS}, in_series)]
        if counted:
            some = [p for p in in_series if "instructions" in p]
            rows.append(({kind: [p["instructions"][kind] for p in some] for kind in ("cold", "warm")}, some))
        for axes, (lines, its_points) in zip((row[column] for row in grid), rows, strict=True):
            for kind, values in reversed(lines.items()):
                axes.plot([p["work"] for p in its_points], values, label=KINDS[kind], **styles[kind])
            axes.set_xscale("linear" if series == "limits" else "log")
        grid[0][column].set_yscale("log")
        if counted and series == "limits":
            script = zip(*result["script"], strict=True)
            grid[1][column].plot(*script, linestyle=":", label="check.lua alone", **plots.other_style(len(KINDS)))
            grid[1][column].legend(fontsize=7, frameon=False)
        if counted:
            grid[1][column].set_ylim(bottom=0)
    grid[0][0].set_ylabel("CPU of the client, µs (log)")
    grid[0][0].legend(fontsize=7, frameon=False, loc="center", bbox_to_anchor=(0.5, 0.68))
    if counted:
        grid[1][0].set_ylabel("instructions of the server")
    figure.tight_layout()
    return figure
