"""What one server carries when its core is full: checks that are prepared, sent by processes that do nothing else.

A check costs its client about as much as its server, so clients on one core cannot fill a server on another. Here each
process makes the packets of its checks beforehand, as the library sends them; then it sends as many as are to be in
flight, waits for all answers, counts them, and sends the next.
"""

import time
from contextlib import contextmanager
from itertools import cycle, islice

import redis
from rich.table import Table

from benchmarks.contenders import ours
from benchmarks.contenders.contender import exactly
from benchmarks.report.progress import steps
from benchmarks.report.results import Figure, Spread
from benchmarks.suite import host
from benchmarks.suite.rounds import spread
from benchmarks.suite.workers import workers
from ratelimit import Limiter, scripts
from ratelimit.engine.batch import ManyChecks
from ratelimit.store.blocking.connection import open_connection
from ratelimit.store.blocking.wait import Wait
from ratelimit.store.resp import pack

PROCESSES = (1, 2, 4, 8)
IN_FLIGHT = 50
"""Of each process. A divisor of the calls that it makes."""
WAYS = {"each a script call": False, f"{IN_FLIGHT} in a script call": True}
ADMITTED = (1, 2)
"""What the reply to an admitted check begins with where it is a list, such as that to the first check of a key."""
PASSES = 3
"""In each way. The median counts."""


def settings(full):
    """How many keys, and how many checks all processes make in one pass: on many keys one of each."""
    return [(1, 60_000), (100_000, 100_000)] if full else [(1, 6_000), (3_200, 3_200)]


def _script_call(limiter, caller):
    limiter.peek(caller, ours.STAGE, ours.METHOD)  # charges nobody
    return ours.script_call(limiter, caller)


def _packets(limiter, callers, together):
    """Packets of `IN_FLIGHT` checks of these callers, with the number of replies to each."""
    calls = [_script_call(limiter, caller) for caller in callers]
    chunks = [calls[at : at + IN_FLIGHT] for at in range(0, len(calls), IN_FLIGHT)]
    if together:
        return [(ManyChecks(chunk).packet, 1) for chunk in chunks]
    return [(b"".join(call.packed(pack) for call in chunk), len(chunk)) for chunk in chunks]


@contextmanager
def _connection(url):
    with redis.Redis.from_url(url, socket_timeout=ours.PATIENT) as client:
        connection = open_connection(client.connection_pool, None, ours.PATIENT)
        yield connection
        connection.close()


def _admitted(replies, together):
    """How many checks were admitted: their replies are new states, or lists that begin with one of `ADMITTED`."""
    (replies,) = replies if together else (replies,)
    return sum(isinstance(reply, bytes) or (isinstance(reply, list) and reply[0] in ADMITTED) for reply in replies)


def _serve(pipe):
    while (job := pipe.recv()) is not None:
        _, url, _, callers, _, calls, *_ = job
        in_flight = callers if len(callers) > 1 else callers * IN_FLIGHT
        with Limiter.from_url(url, namespace="check", deadline=ours.PATIENT, max_age=ours.ALL_DAY) as limiter:
            ways = [(together, _packets(limiter, in_flight, together)) for together in WAYS.values()]
        with _connection(url) as connection:
            for together, packets in (way for way in ways for _ in range(PASSES)):
                pipe.send("ready")
                pipe.recv()
                admitted, start = 0, time.monotonic()
                for packet, replies in islice(cycle(packets), calls // IN_FLIGHT):
                    admitted += _admitted(connection.execute(packet, replies, Wait(ours.PATIENT)), together)
                pipe.send((start, time.monotonic(), {True: admitted, False: calls - admitted, None: 0}))


def _setting(pool, server, keys, calls, step):
    """All numbers of processes on the same keys, whose limits admit exactly the checks that all of them make."""
    load = exactly(len(PROCESSES) * len(WAYS) * PASSES * calls // keys)
    with server.client() as client:
        client.flushall()
        client.script_load(scripts.load("check_many").source)  # check.lua is loaded by the first peek
    names = ours.enrol(server.url, load, keys + 1, progress=lambda _: step("making keys", by=0))
    runs = []
    for processes in PROCESSES:
        step(f"{processes} processes, {_where(keys)}")
        outcomes = pool.run(ours.CHECK, server, load, names, processes, calls, len(WAYS) * PASSES)
        for number, way in enumerate(WAYS):
            passes = outcomes[number * PASSES :][:PASSES]
            run = {"way": way, "processes": processes, "denied": sum(one.denied for one in passes)}
            run["per_second"] = spread([one.per_second for one in passes])
            run["server_cpu"] = spread([one.server_cpu for one in passes]).middle
            runs.append(run)
    with ours.connect(server.url, load) as call:
        beyond = sum(call(name) for name in names[:-1][:20])
    return {"keys": keys, "runs": runs, "beyond": beyond}


def measure(full=False):
    """Server and clients have a core each where there are two."""
    chosen = settings(full)
    with (
        host.placed_server(host.MAIN, host.placements()[-1]) as server,
        workers(max(PROCESSES), _serve) as pool,
        steps("full server", len(chosen) * len(PROCESSES)) as step,
    ):
        return [_setting(pool, server, keys, calls, step) for keys, calls in chosen]


def _where(keys):
    return "one hot key" if keys == 1 else f"{keys:,} keys"


def lines(result):
    """What was measured over processes, by keys and way."""
    for setting in result:
        for way in WAYS:
            yield f"{_where(setting['keys'])}, {way}", [run for run in setting["runs"] if run["way"] == way]


def _wrong(setting):
    return setting["beyond"] + sum(run["denied"] for run in setting["runs"])


def figures(result):
    for name, runs in lines(result):
        best = max((Spread(*run["per_second"]) for run in runs), key=lambda rate: rate.middle)
        yield Figure.of(f"{host.MAIN}: what a full server carries, {name}", best, "/s", "higher")
    wrong = sum(map(_wrong, result))
    yield Figure(f"{host.MAIN}: checks of a full server wrongly admitted or denied", wrong, "checks", target=0)


def tables(result):
    title = (
        f"a full server ({host.MAIN}), {IN_FLIGHT} prepared checks of each process in flight: checks/s over processes, "
        "and the share of its core that the server used"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("checks")
    for processes in PROCESSES:
        table.add_column(f"{processes}", justify="right", no_wrap=True)
    for name, runs in lines(result):
        table.add_row(name, *(f"{run['per_second'][1]:,.0f} ({run['server_cpu']:.0%})" for run in runs))
    yield table
    wrong = sum(map(_wrong, result))
    yield f"Of these checks {wrong:,} were wrongly admitted or denied: the limits admit exactly as many as were made."
