"""What callers notice of a Redis that stops, and how soon all is as before: decisions per second and their latency.

The server is stopped as a whole (SIGSTOP): its connections stay open, the system goes on to accept new ones, and nobody
answers. One thread, or 64 tasks of an event loop, make one call after the other all the time: a call that ends without
a decision of Redis (a 503, an exception) counts as well, for whoever waits for it. Peers keep the time limits that they
have by default. Each task lets others run after each call, as a request does in a real application.
"""

import asyncio
import threading
import time
from contextlib import contextmanager
from functools import partial
from signal import SIGCONT, SIGSTOP

from rich.table import Table

from benchmarks.contenders import ours, peers
from benchmarks.contenders.contender import AMPLE
from benchmarks.report import plots
from benchmarks.report.progress import steps
from benchmarks.report.results import Figure
from benchmarks.suite import host
from benchmarks.suite.arrivals import histogram
from benchmarks.suite.rounds import spread
from ratelimit.limiter.base import DEADLINE

CONTENDERS = [ours.CHECK, peers.LIMITS_FIXED, peers.THROTTLED_BUCKET]
TASKS = 64
WAYS = {"blocking": "one thread", "asyncio": f"{TASKS} tasks"}
BEFORE_S, STOPPED_S, AFTER_S = 1.0, 5.0, 2.0
ROUNDS, MORE_ROUNDS = 1, 5
BUCKET_S = 0.05
PHASES = ("before", "stopped", "after")
AT_ONCE_S = 0.002
"""Who is answered so soon has not waited for Redis."""
PER_SECOND, OPENED_MS, BACK_MS = 50_000, 200, 20


class Recorder:
    """When each call ended, how long it took, and whether it was a decision of Redis; from `start` on."""

    def __init__(self, stopped_s):
        self.total_s = BEFORE_S + stopped_s + AFTER_S
        self._stopped_s = stopped_s
        self._start = 0.0
        self._calls = []
        self.stop_s = self.continue_s = 0.0

    def start(self):
        self._start = time.perf_counter()

    def now(self):
        return time.perf_counter() - self._start

    def goes_on(self):
        return self.now() < self.total_s

    def add(self, began_s, *, answered):
        self._calls.append((began_s, self.now(), answered))

    @contextmanager
    def stopping(self, process):
        """Stop the server after a while, and let it go on."""

        def run():
            time.sleep(BEFORE_S)
            process.send_signal(SIGSTOP)
            self.stop_s = self.now()
            time.sleep(self._stopped_s)
            process.send_signal(SIGCONT)
            self.continue_s = self.now()

        thread = threading.Thread(target=run)
        self.start()
        thread.start()
        try:
            yield
        finally:
            thread.join()

    def summary(self):
        """For the JSON."""
        waits = {phase: [] for phase in PHASES}
        timeline = [0] * (int(self.total_s / BUCKET_S) + 1)
        ended = dict.fromkeys(PHASES, 0)
        for began_s, ended_s, _ in self._calls:
            ended[self._phase(ended_s)] += 1
            # Who was under way in the stop met it, whenever the answer came.
            met_stop = began_s < self.continue_s and ended_s >= self.stop_s
            waits["stopped" if met_stop else self._phase(ended_s)].append(ended_s - began_s)
            if ended_s < self.total_s:
                timeline[int(ended_s / BUCKET_S)] += 1
        seconds = (self.stop_s, self.continue_s - self.stop_s, self.total_s - self.continue_s)
        return {
            "phases": {
                phase: {"per_second": ended[phase] / length, **_percentiles_ms(waits[phase])}
                for phase, length in zip(PHASES, seconds, strict=True)
            },
            "opened_ms": self._opened_ms(),
            "back_ms": self._back_ms(),
            "timeline": [count / BUCKET_S for count in timeline],
            "stop_s": self.stop_s,
            "continue_s": self.continue_s,
        }

    def _phase(self, ended_s):
        return PHASES[(ended_s >= self.stop_s) + (ended_s >= self.continue_s)]

    def _opened_ms(self):
        """Until the first call that began then and did not wait, in milliseconds; None if there was none."""
        for began_s, ended_s, _ in self._calls:
            if self.stop_s <= began_s and ended_s < self.continue_s and ended_s - began_s <= AT_ONCE_S:
                return (began_s - self.stop_s) * 1000
        return None

    def _back_ms(self):
        """Until the first decision of Redis, in milliseconds; None if there was none."""
        return next(
            (
                (ended_s - self.continue_s) * 1000
                for _, ended_s, answered in self._calls
                if answered and ended_s >= self.continue_s
            ),
            None,
        )


def _percentiles_ms(waits):
    recorded = histogram(waits)
    points = {f"p{point}": recorded.get_value_at_percentile(point) / 1000 for point in (50, 99)}
    return {**points, "max_ms": max(waits) * 1000} if waits else {}


def _blocking(contender, server, recorder):
    connect = partial(ours.connect, deadline=DEADLINE) if contender is ours.CHECK else contender.connect
    (caller,) = contender.enrol(server.url, AMPLE, 1)
    with connect(server.url, AMPLE) as call:
        _warm(call, caller)
        with recorder.stopping(server.process):
            while recorder.goes_on():
                began_s, answered = recorder.now(), True
                try:
                    call(caller)
                except peers.UNANSWERED:
                    answered = False
                recorder.add(began_s, answered=answered)


def _warm(call, caller):
    for _ in range(50):
        call(caller)
        time.sleep(0.001)


async def _asyncio(contender, server, recorder):
    callers = contender.enrol(server.url, AMPLE, TASKS)
    async with contender.aconnect(server.url, AMPLE) as call:

        async def task(caller):
            while recorder.goes_on():
                began_s, answered = recorder.now(), True
                try:
                    await call(caller)
                except peers.UNANSWERED:
                    answered = False
                recorder.add(began_s, answered=answered)
                await asyncio.sleep(0)

        for _ in range(3):
            await asyncio.gather(*(call(caller) for caller in callers))
            await asyncio.sleep(0.02)
        with recorder.stopping(server.process):
            await asyncio.gather(*map(task, callers))


def _run(way, contender, stopped_s):
    recorder = Recorder(stopped_s)
    with host.placed_server(host.MAIN, host.FREE) as server:
        if way == "asyncio":
            asyncio.run(_asyncio(contender, server, recorder))
        else:
            _blocking(contender, server, recorder)
    return recorder.summary()


def measure(full=False):
    rounds = MORE_ROUNDS if full else ROUNDS
    result = {"stopped_s": STOPPED_S, "rounds": rounds, "runs": {way: {} for way in WAYS}}
    with steps("stop", len(WAYS) * len(CONTENDERS) * rounds) as step:
        for number in range(rounds):
            for way, label in WAYS.items():
                for contender in CONTENDERS:
                    step(f"{contender.name}, {label}, round {number + 1}")
                    result["runs"][way].setdefault(contender.name, []).append(_run(way, contender, STOPPED_S))
    return result


def _middle(runs, value):
    values = [each for each in map(value, runs) if each is not None]
    return spread(values) if values else None


def figures(result):
    for way, label in WAYS.items():
        runs = result["runs"][way][ours.CHECK.name]
        what = f"{host.MAIN}, {label}, Redis stopped"
        rate = _middle(runs, lambda run: run["phases"]["stopped"]["per_second"])
        target = PER_SECOND if way == "blocking" else None
        yield Figure.of(f"{what}: decisions per second", rate, "/s", "higher", target)
        for name, key, limit in (
            ("until no call waits", "opened_ms", OPENED_MS),
            ("until all is back", "back_ms", BACK_MS),
        ):
            middle = _middle(runs, lambda run, key=key: run[key])
            if middle is not None:
                yield Figure.of(f"{what}: {name}", middle, "ms", target=limit)
        before = _middle(runs, lambda run: run["phases"]["before"]["per_second"])
        after = _middle(runs, lambda run: run["phases"]["after"]["per_second"])
        yield Figure(f"{what}: decisions per second after / before", after.middle / before.middle, "x", "higher")


def tables(result):
    for way, label in WAYS.items():
        title = f"a stop of {result['stopped_s']:g} s, {label} ({host.MAIN}; medians of {result['rounds']} rounds)"
        table = Table(title=title, title_justify="left")
        table.add_column("contender")
        for phase in PHASES:
            table.add_column(f"{phase}: calls/s", justify="right")
        for column in ("stopped: p50 ms", "p99 ms", "max ms", "after: p99 ms", "no call waits, ms", "all is back, ms"):
            table.add_column(column, justify="right")
        for name, runs in result["runs"][way].items():
            rates = [_middle(runs, lambda run, phase=phase: run["phases"][phase]["per_second"]) for phase in PHASES]
            waits = [
                _middle(runs, lambda run, phase=phase, point=point: run["phases"][phase].get(point))
                for phase, point in (("stopped", "p50"), ("stopped", "p99"), ("stopped", "max_ms"), ("after", "p99"))
            ]
            ends = [_middle(runs, lambda run, key=key: run[key]) for key in ("opened_ms", "back_ms")]
            cells = [f"{rate.middle:,.0f}" for rate in rates]
            cells += ["never" if each is None else f"{each.middle:,.2f}" for each in waits + ends]
            table.add_row(name, *cells)
        yield table


def plot(plt, result):
    """Calls that ended per second, over time; the stop is shaded."""
    figure, grid = plt.subplots(1, len(WAYS), figsize=(9, 3.4), sharey=True, squeeze=False)
    for axes, (way, label) in zip(grid[0], WAYS.items(), strict=True):
        for name, runs in result["runs"][way].items():
            run = runs[0]
            moments = [number * BUCKET_S for number in range(len(run["timeline"]))]
            style = {**plots.line_style(name), "marker": "", "drawstyle": "steps-post"}
            axes.plot(moments, [max(rate, 1) for rate in run["timeline"]], label=name, **style)
            axes.axvspan(run["stop_s"], run["continue_s"], color="#e4e7eb", alpha=0.4, linewidth=0)
        axes.set_yscale("log")
        axes.set_xlabel("seconds; Redis is stopped in the grey part")
        axes.set_title(label, loc="left", fontsize=8)
    grid[0][0].set_ylabel("calls that ended per second (log)")
    grid[0][0].legend(fontsize=7, frameon=False)
    figure.tight_layout()
    return figure
