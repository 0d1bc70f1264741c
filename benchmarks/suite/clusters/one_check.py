"""What a check costs the servers of a cluster: instructions, summed over three primaries, beside those of one server.

All of them run under callgrind. Checks are prepared by a limiter and sent as it packs them, one at a time, each to the
node that owns its key; nothing else is sent while they are counted. That no other node has any part in a check of a
limiter is a test: `test_a_check_meets_one_node`. Two runs differ by a few thousandths, for three reasons:

- What servers execute for clients counts, by function: from what they read to what they write. Cron and the connections
  between nodes do not: they go by the clock, and under valgrind checks take many times as long. What all that costs a
  node which nobody asks for anything is counted apart, by the second.
- A server has one key. In a hash table of many, a look-up meets other keys, by seeds that are drawn at each start.
- The allocator does not gather small chunks (`mxfast`), which it merges whenever something large is freed: how much
  there is to merge depends on all that happened before. The servers from wheels use that of glibc.
"""

import contextlib
import time
from datetime import UTC, datetime
from functools import partial
from itertools import cycle, islice

from rich.table import Table

from benchmarks.contenders import floors, ours
from benchmarks.report.progress import steps
from benchmarks.report.results import Figure
from benchmarks.suite import callgrind
from benchmarks.suite.clusters.metered_cluster import NODES, metered_cluster
from ratelimit import Limiter, Quota, Throttle, UsagePlan

AMPLE = 1_000_000
WARM_UP, CHECKS, IDLE_S = 300, 1500, 2
ONE_SERVER, CLUSTER = "one server", "three primaries"
SERVERS = dict.fromkeys(("valkey", callgrind.SERVER))
TARGET = 1.05
CONDITIONS = {"settings": ("--hz", "10"), "environment": {"GLIBC_TUNABLES": "glibc.malloc.mxfast=0"}}
"""Their cron runs ten times a second, as by default."""
FOR_CLIENTS = ("readQueryFromClient", "handleClientsWithPendingWrites")
"""Functions of both servers: the one reads, parses and executes commands, the other writes the replies."""


def _commands(url, node_of, nodes):
    """Store a plan, and keys until every node has one; return by node what a check of its key sends."""
    options = {"deadline": ours.UNDER_VALGRIND, "max_age": ours.ALL_DAY, "on_unavailable": "closed"}
    with Limiter.from_url(url, **options) as limiter:
        quota = Quota(AMPLE, "MONTH", (datetime.now(UTC).day + 13) % 28)  # no window ends meanwhile
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(AMPLE, AMPLE), quota, [ours.STAGE]))
        commands = {}
        while len(commands) < nodes:
            key = limiter.catalog.create_key(plans=["gold"]).value
            assert limiter.check(key, ours.STAGE, ours.METHOD).allowed
            command = ours.script_call(limiter, key).by_hash()
            commands[node_of(command[3])] = command
        return commands


def _counts(meters, commands):
    """Return instructions of all servers per check, and of each per second in which nothing is asked of it."""
    with contextlib.ExitStack() as stack:
        calls = []
        for node, meter in enumerate(meters):
            calls.append(partial(stack.enter_context(floors.raw_round_trip(meter.url)), commands[node]))
            meter.read()  # from here on it counts

        def check(count):
            right = sum(isinstance(call(), bytes) for call in islice(cycle(calls), count))
            assert right == count, f"{count - right} of {count} checks were not admitted"

        check(WARM_UP)
        for meter in meters:
            meter.read()
        check(CHECKS)
        spent = [meter.read_of(FOR_CLIENTS) for meter in meters]
        started_s = time.monotonic()
        for meter in meters:
            meter.read()
        time.sleep(IDLE_S)
        idle = [meter.read() for meter in meters]
        idle_s = time.monotonic() - started_s
    return {"per_check": sum(spent) / CHECKS, "idle_per_s": sum(idle) / len(idle) / idle_s}


def _of_one_server(server):
    with callgrind.metered(server=server, **CONDITIONS) as meter:
        return _counts([meter], _commands(meter.url, lambda _: 0, 1))


def _of_a_cluster(server):
    with metered_cluster(server=server, **CONDITIONS) as cluster:
        return _counts(cluster.meters, _commands(cluster.url, cluster.node_of, NODES))


def measure(full=False):  # noqa: ARG001 - the full run has no more of it
    if not (callgrind.VALGRIND and callgrind.CONTROL):
        return {"absent": callgrind.ABSENT, "counts": {}}
    counts = {}
    with steps("cluster", 2 * len(SERVERS)) as step:
        for server in SERVERS:
            of_server = counts[callgrind.version(server)] = {}
            for place, counting in ((ONE_SERVER, _of_one_server), (CLUSTER, _of_a_cluster)):
                step(f"{server}, {place}")
                of_server[place] = counting(server)
    return {"counts": counts}


def _ratio(places):
    return places[CLUSTER]["per_check"] / places[ONE_SERVER]["per_check"]


def figures(result):
    for version, places in result["counts"].items():
        what = f"{version}: instructions of the servers per check, three primaries, of one server"
        yield Figure(what, _ratio(places), "x", target=TARGET)
        what = f"{version}: instructions a second of a node of three that is asked for nothing"
        yield Figure(what, places[CLUSTER]["idle_per_s"], "")


def tables(result):
    if "absent" in result:
        yield f"[yellow]{result['absent']}"
        return
    table = Table(title="instructions of the servers", title_justify="left")
    table.add_column("server")
    for column in (ONE_SERVER, CLUSTER):
        table.add_column(f"a check, {column}", justify="right")
    table.add_column("ratio", justify="right")
    for column in (ONE_SERVER, "one of three"):
        table.add_column(f"a second, {column}", justify="right")
    for version, places in result["counts"].items():
        both = places[ONE_SERVER], places[CLUSTER]
        checks, seconds = ([f"{round(each[of]):,}" for each in both] for of in ("per_check", "idle_per_s"))
        table.add_row(version, *checks, f"{_ratio(places):.4f}x", *seconds)
    yield table
