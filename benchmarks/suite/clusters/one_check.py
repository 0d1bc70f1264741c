"""What a check costs the servers of a cluster: instructions of the one node that it meets, beside those of one server.

A node alone in cluster mode runs under callgrind, counted as in `instructions`. That no other node has any part in a
check is a test: `test_a_check_meets_one_node`.
"""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from itertools import product

from rich.table import Table

from benchmarks.contenders import ours
from benchmarks.report.progress import steps
from benchmarks.report.results import Figure
from benchmarks.suite import callgrind
from benchmarks.suite.instructions import LONG, SHORT
from ratelimit import Limiter, Quota, Throttle, UsagePlan

AMPLE = 1_000_000
ONE_SERVER, A_NODE = "one server", "a node of a cluster"
PLACES = {ONE_SERVER: False, A_NODE: True}
SERVERS = dict.fromkeys(("valkey", callgrind.SERVER))
TARGET = 1.05


def _checks(calls, *, server, slots):
    """Instructions of a server that starts, stores a plan and a key, and carries out so many checks."""
    with callgrind.counted(server=server, slots=slots) as (url, counted):
        options = {"deadline": ours.UNDER_VALGRIND, "max_age": ours.ALL_DAY, "on_unavailable": "closed"}
        with Limiter.from_url(url, **options) as limiter:
            quota = Quota(AMPLE, "MONTH", (datetime.now(UTC).day + 13) % 28)  # no window ends meanwhile
            limiter.catalog.put_plan(UsagePlan("gold", Throttle(AMPLE, AMPLE), quota, [ours.STAGE]))
            key = limiter.catalog.create_key(plans=["gold"]).value
            limiter.peek(key, ours.STAGE, ours.METHOD)
            right = sum(limiter.check(key, ours.STAGE, ours.METHOD).allowed for _ in range(calls))
    assert right == calls, f"{calls - right} of {calls} checks were not admitted"
    return counted[0]


def measure(full=False):  # noqa: ARG001 - the full run has no more of it
    if callgrind.VALGRIND is None:
        return {"absent": callgrind.ABSENT, "per_check": {}}
    per_check, places = {}, list(product(SERVERS, PLACES.items()))
    with ThreadPoolExecutor(2) as both, steps("cluster", len(places)) as step:
        for server, (place, slots) in places:
            step(f"{server}, {place}")
            short, long = both.map(partial(_checks, server=server, slots=slots), (SHORT, LONG))
            per_check.setdefault(callgrind.version(server), {})[place] = (long - short) / (LONG - SHORT)
    return {"per_check": per_check}


def figures(result):
    for version, counts in result["per_check"].items():
        what = f"{version}: instructions of the servers per check, a cluster, of one server"
        yield Figure(what, counts[A_NODE] / counts[ONE_SERVER], "x", target=TARGET)


def tables(result):
    if "absent" in result:
        yield f"[yellow]{result['absent']}"
        return
    table = Table(title="instructions of the servers per check", title_justify="left")
    table.add_column("server")
    for place in PLACES:
        table.add_column(place, justify="right")
    for version, counts in result["per_check"].items():
        table.add_row(version, *(f"{round(counts[place]):,}" for place in PLACES))
    yield table
