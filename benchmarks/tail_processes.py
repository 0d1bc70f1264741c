"""A steady load on processes that wait for each answer: the workers of a gateway without asyncio.

Each process has a schedule of its own; together they are the load. A request that is due before the one ahead of it
in its process is answered waits there, and that counts. Threads of one process are not measured: they share one
interpreter, and carry less than the asyncio twin of the same process.
"""

import time
from contextlib import ExitStack
from itertools import chain

import host
import ours
import peers
from arrivals import LOOK_SECONDS, LOOKS, SECONDS, Taken, histogram, schedule, shuffled
from contenders import AMPLE
from workers import BY_NAME, workers

PROCESSES = 4
CALLERS = 16
"""Of each process."""
CONTENDERS = [ours.CHECK, *peers.MAIN]
_SOON = 0.05
"""Seconds from now until all processes begin, so that each has heard of it."""
_WARM = 20


def serve(pipe):
    """Connect to all contenders, then do what is asked, with one of them at a time, until None comes."""
    url, callers = pipe.recv()
    with ExitStack() as stack:
        calls = {name: stack.enter_context(BY_NAME[name].connect(url, AMPLE)) for name in callers}
        for name, call in calls.items():
            for caller in callers[name] * (_WARM // CALLERS + 1):
                call(caller)
        pipe.send("ready")
        while (asked := pipe.recv()) is not None:
            what, name, start, work = asked
            pipe.send(what(calls[name], callers[name], start, work))


def flat_out(call, callers, start, seconds):
    """Return how many calls were answered, each made as soon as the one before it was over."""
    time.sleep(max(0.0, start - time.monotonic()))
    answered, number = 0, 0
    while time.monotonic() < start + seconds:
        number += 1
        try:
            call(callers[number % len(callers)])
            answered += 1
        except peers.UNANSWERED:
            pass
    return answered


def on_schedule(call, callers, start, due):
    """Return the seconds from due to answered of each request, and how many had no answer."""
    latencies, unanswered = [], 0
    for number, offset in enumerate(due):
        wait = start + offset - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        try:
            call(callers[number % len(callers)])
        except peers.UNANSWERED:
            unanswered += 1
        latencies.append(time.monotonic() - start - offset)
    return latencies, unanswered


def _all(pipes, what, name, works):
    start = time.monotonic() + _SOON
    for pipe, work in zip(pipes, works, strict=True):
        pipe.send((what, name, start, work))
    return [pipe.recv() for pipe in pipes]


def _prepare(pipes, url):
    """Give each process callers of its own with every contender."""
    enrolled = {one.name: one.enrol(url, AMPLE, CALLERS * len(pipes)) for one in CONTENDERS}
    for number, pipe in enumerate(pipes):
        pipe.send((url, {name: callers[number :: len(pipes)] for name, callers in enrolled.items()}))
    for pipe in pipes:
        pipe.recv()


def measure(rounds, tell):
    names = [one.name for one in CONTENDERS]
    with host.placed_server(host.MAIN, host.FREE) as server, workers(PROCESSES, serve) as crew:
        _prepare(crew.pipes, server.url)
        carried = {name: [] for name in names}
        for look in range(-1, LOOKS):  # the first is to warm up
            for name in names:
                tell(f"{name}: what {PROCESSES} processes can carry")
                answered = sum(_all(crew.pipes, flat_out, name, [LOOK_SECONDS] * PROCESSES))
                if look >= 0:
                    carried[name].append(answered / LOOK_SECONDS)
        taken = Taken(carried)
        for number in range(rounds):
            for load in shuffled(taken.loads, number):
                kind, share, name = load
                each = taken.loads[load] / PROCESSES
                tell(f"{name}: {PROCESSES} processes, round {number + 1}, {share:.0%} {kind}")
                dues = [schedule(each, SECONDS, number * PROCESSES + at) for at in range(PROCESSES)]
                answers = _all(crew.pipes, on_schedule, name, dues)
                found = histogram(chain.from_iterable(latencies for latencies, _ in answers))
                taken.add(load, found, sum(unanswered for _, unanswered in answers))
        return taken.summary()
