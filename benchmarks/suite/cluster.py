"""What a check costs the servers of a cluster: instructions of the one node that it meets, beside those of one server.

A node alone in cluster mode runs under callgrind, counted as in `instructions`. That no other node has any part in a
check is a test: `test_a_check_meets_one_node`.
"""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

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
TARGET = 1.05


def _checks(calls, *, slots):
    """Instructions of a server that starts, stores a plan and a key, and carries out so many checks."""
    with callgrind.counted(slots=slots) as (url, counted):
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
    per_check = {}
    with ThreadPoolExecutor(2) as both, steps("cluster", len(PLACES)) as step:
        for place, slots in PLACES.items():
            step(place)
            short, long = both.map(lambda calls, slots=slots: _checks(calls, slots=slots), (SHORT, LONG))
            per_check[place] = (long - short) / (LONG - SHORT)
    return {"version": callgrind.version(), "per_check": per_check}


def figures(result):
    if counts := result["per_check"]:
        what = f"{result['version']}: instructions of the servers per check, a cluster, of one server"
        yield Figure(what, counts[A_NODE] / counts[ONE_SERVER], "x", target=TARGET)


def tables(result):
    if "absent" in result:
        yield f"[yellow]{result['absent']}"
        return
    table = Table(title=f"instructions of the servers per check ({result['version']})", title_justify="left")
    table.add_column("where")
    table.add_column("instructions", justify="right")
    for place, count in result["per_check"].items():
        table.add_row(place, f"{round(count):,}")
    yield table
