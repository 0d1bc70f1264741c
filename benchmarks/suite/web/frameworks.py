"""What a limiter adds to a request of a web application, and what its user writes: beside the peers of each framework.

All applications of a framework run at once, each under its web server in a process of its own, on one core; Redis and
the load generator have the other. In each round every one of them gets the same requests in turn. What counts is the
time of a request less that of the bare application in the same round: CPU time of the server's processes, and time of
the wall while 32 requests are under way, which is what a server that is always busy loses of its throughput.
"""

import importlib.util
import os
from contextlib import ExitStack

from rich.table import Table

from benchmarks.contenders import ours
from benchmarks.contenders.contender import AMPLE, exactly
from benchmarks.contenders.web_apps import BARE, FRAMEWORKS, OURS
from benchmarks.report.progress import steps
from benchmarks.report.results import Figure, Spread
from benchmarks.suite import host
from benchmarks.suite.rounds import ratio_above, rotated, spread
from benchmarks.suite.web import http_load
from benchmarks.suite.web.lines import lines_written
from benchmarks.suite.web.web_server import free_port, serving
from benchmarks.suite.workers import workers

CONNECTIONS = 32
CALLERS = 100
PATH = "/pets/7"
FEW = 3
"""Requests a day that are left to each caller where it is tried whether an application is limited at all."""
WARM = 200
"""Requests to each application before its first round."""
CPU, WALL = "CPU time", "time"
KINDS = {"cpu_us": CPU, "wall_us": WALL}
TARGETS = {"slowapi": 0.12, "fastapi-redis-sdk": 0.35}


def settings(full):
    """Rounds, and requests to each application in a round."""
    return (60, 800) if full else (20, 400)


def missing(framework):
    """Packages that are needed and not installed."""
    names = [*framework.needs, *(app.needs for app in framework.apps if app.needs)]
    return [name for name in names if importlib.util.find_spec(name) is None]


def requests_of(keys):
    head = f"GET {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nx-api-key: "
    return [f"{head}{key}\r\n\r\n".encode() for key in keys]


def enrol(server, load):
    """Empty Redis, and put the plan and the keys of all callers."""
    with server.client() as client:
        client.flushall()
    return ours.enrol(server.url, load, CALLERS, namespace="ratelimit")


def tcp_url(server):
    return f"redis://127.0.0.1:{server.port}/0"


class Load:
    """The load generator, in its own process, beside the Redis server."""

    def __init__(self, pipe, redis_server):
        self._pipe = pipe
        self._cores = os.sched_getaffinity(redis_server.process.pid)

    def run(self, server, requests, number, connections=CONNECTIONS):
        """Return how often each status came, and the seconds taken."""
        self._pipe.send((self._cores, server.port, requests, number, connections))
        answer = self._pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer


def statuses_when_few(framework, redis_server, load):
    """What each application answers to one caller more often than the limit allows: statuses, in order.

    Raises RuntimeError for one that does not limit, or for a bare one that does.
    """
    found = {}
    for app in framework.apps:
        key = enrol(redis_server, exactly(FEW))[0]  # peers of one kind have names of limits in common
        with serving(framework, app, tcp_url(redis_server), FEW) as server:
            answers = [load.run(server, requests_of([key]), 1, 1)[0] for _ in range(FEW + 2)]
        found[app.name] = [status for answer in answers for status in answer]
    for name, statuses in found.items():
        admitted = FEW + 2 if name == BARE else FEW
        if statuses[:admitted] != [200] * admitted or 200 in statuses[admitted:]:
            raise RuntimeError(f"{framework.name}, {name}: {FEW} are allowed, and the answers were {statuses}")
    return found


def time_rounds(framework, redis_server, load, rounds, number, step):
    """Time all applications in turn, round after round.

    A round in which a request within its limits got another answer than 200 is made again: on a busy machine Redis may
    be silent for longer than a limiter waits.

    Returns:
        For each application microseconds of a request in each round, by kind, and how many requests "failed" so.

    Raises:
        RuntimeError: As many rounds as are wanted were made again.
    """
    requests = requests_of(enrol(redis_server, AMPLE))
    samples = {app.name: {**{kind: [] for kind in KINDS}, "failed": 0} for app in framework.apps}
    with ExitStack() as stack:
        url = tcp_url(redis_server)
        servers = {app.name: stack.enter_context(serving(framework, app, url, AMPLE.window)) for app in framework.apps}
        for server in servers.values():
            load.run(server, requests, WARM)
        done = made = 0
        while done < rounds:
            if made == 2 * rounds:
                failed = {name: its["failed"] for name, its in samples.items() if its["failed"]}
                raise RuntimeError(f"{framework.name}: requests within their limits got no 200: {failed}")
            step(f"{framework.name}: round {done + 1} of {rounds}", by=1)
            measured = {name: _time(servers[name], load, requests, number) for name in rotated(servers, made)}
            made += 1
            for name, one in measured.items():
                samples[name]["failed"] += one["failed"]
            if any(one["failed"] for one in measured.values()):
                continue
            done += 1
            for name, one in measured.items():
                for kind in KINDS:
                    samples[name][kind].append(one[kind])
    return samples


def _time(server, load, requests, number):
    before = server.cpu_seconds()
    statuses, seconds = load.run(server, requests, number)
    cpu = server.cpu_seconds() - before
    failed = number - statuses.get(200, 0)
    return {"cpu_us": cpu / number * 1e6, "wall_us": seconds / number * 1e6, "failed": failed}


def summary(framework, samples):
    """Of each application: its time, what it adds to the bare one's, ours in ratio to that, and lines written."""
    bare_source = framework.apps[0].path.read_text(encoding="utf-8")
    found = {}
    for app in framework.apps:
        one = {"failed": samples[app.name]["failed"]}
        for kind in KINDS:
            bare, our, its = (samples[name][kind] for name in (BARE, OURS, app.name))
            one[kind] = spread(its)
            one[f"added_{kind}"] = spread([mine - least for mine, least in zip(its, bare, strict=True)])
            if app.name not in {BARE, OURS}:
                one[f"ratio_{kind}"] = ratio_above(bare, our, its)
        if app.name != BARE:
            one["lines"] = len(lines_written(bare_source, app.path.read_text(encoding="utf-8")))
        found[app.name] = one
    return found


def measure(full=False):
    rounds, number = settings(full)
    result = {}
    with (
        host.placed_server(host.MAIN, host.placements()[-1], port=free_port()) as redis_server,
        workers(1, http_load.serve) as pool,
        steps("frameworks", len(FRAMEWORKS) * (rounds + 1)) as step,
    ):
        load = Load(pool.pipes[0], redis_server)
        for framework in FRAMEWORKS:
            step(f"{framework.name}: whether each application is limited")
            if absent := missing(framework):
                raise RuntimeError(f"not installed: {', '.join(absent)}; `pip install --group bench-frameworks`")
            statuses_when_few(framework, redis_server, load)
            samples = time_rounds(framework, redis_server, load, rounds, number, step)
            result[framework.name] = {"server": framework.server, "apps": summary(framework, samples)}
    return result


def _peers(one):
    """Applications of a framework that are compared with ours."""
    return [name for name in one["apps"] if name not in {BARE, OURS}]


def figures(result):
    for framework, one in result.items():
        where = f"{framework} under {one['server']}"
        our = one["apps"][OURS]
        for kind, what in KINDS.items():
            yield Figure.of(f"{where}: {what} added to a request", Spread(*our[f"added_{kind}"]), "us")
            for peer in _peers(one):
                target = TARGETS.get(peer) if kind == "wall_us" else None
                times = Spread(*one["apps"][peer][f"ratio_{kind}"])
                yield Figure.of(f"{where}: {what} added to a request / {peer}", times, target=target)
        fewest = min(one["apps"][peer]["lines"] for peer in _peers(one))
        yield Figure(f"{where}: lines that a user writes", our["lines"], "lines", target=fewest)


def tables(result):
    for framework, one in result.items():
        title = f"{framework} under {one['server']}: microseconds of a request, {CONNECTIONS} under way"
        table = Table(title=title, title_justify="left")
        table.add_column("limited by")
        for what in ("CPU", "wall"):
            for column in (what, "added", "ours / this", "quartiles"):
                table.add_column(column, justify="right", no_wrap=True)
        for column in ("failed", "lines"):
            table.add_column(column, justify="right", no_wrap=True)
        for name, app in one["apps"].items():
            cells = []
            for kind in KINDS:
                ratio = app.get(f"ratio_{kind}")
                cells += [f"{app[kind][1]:.0f}", "" if name == BARE else f"{app[f'added_{kind}'][1]:.1f}"]
                cells += [f"{ratio[1]:.2f}x", str(Spread(*ratio))] if ratio else ["", ""]
            table.add_row(name, *cells, f"{app['failed']}", f"{app.get('lines', '')}")
        yield table
