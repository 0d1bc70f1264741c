"""Processes that all use one contender at the same time; each stays alive from one measurement to the next."""

import asyncio
import multiprocessing
import time
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice

from benchmarks.contenders import ours, peers
from benchmarks.contenders.by_name import BY_NAME

_WARM = 20


@dataclass(frozen=True)
class Outcome:
    """What all processes together did. `seconds` is from the first one's start to the last one's end."""

    admitted: int
    denied: int
    unanswered: int
    seconds: float
    server_cpu: float

    @property
    def per_second(self):
        return (self.admitted + self.denied) / self.seconds


def _serve(pipe):
    while (job := pipe.recv()) is not None:
        *about, tasks = job
        if tasks:
            asyncio.run(_with_tasks(pipe, *about, tasks))
        else:
            _singly(pipe, *about)


def _singly(pipe, name, url, load, callers, spare, calls, passes):
    with BY_NAME[name].connect(url, load) as call:
        for _ in range(_WARM):
            call(spare)  # connects and caches; charged to nobody who is measured
        for _ in range(passes):
            pipe.send("ready")
            pipe.recv()
            answers = {True: 0, False: 0, None: 0}
            start = time.monotonic()
            for caller in islice(cycle(callers), calls):
                try:
                    answers[call(caller)] += 1
                except peers.UNANSWERED:
                    answers[None] += 1
            pipe.send((start, time.monotonic(), answers))


async def _with_tasks(pipe, name, url, load, callers, spare, calls, passes, tasks):
    """The same calls by tasks of one event loop, each of which takes the next one when its last one is answered."""

    async def task(call, left, answers):
        for caller in left:
            try:
                answers[await call(caller)] += 1
            except peers.UNANSWERED:
                answers[None] += 1

    # The time-out that everybody else has: totals must be exact, and an answer that is late is no answer.
    options = {"deadline": ours.PATIENT} if BY_NAME[name].kind == "ours" else {}
    async with BY_NAME[name].aconnect(url, load, **options) as call:
        for _ in range(_WARM):
            await call(spare)
        for _ in range(passes):
            pipe.send("ready")
            pipe.recv()  # nothing else is under way
            answers, left = {True: 0, False: 0, None: 0}, islice(cycle(callers), calls)
            start = time.monotonic()
            await asyncio.gather(*(task(call, left, answers) for _ in range(tasks)))
            pipe.send((start, time.monotonic(), answers))


class Workers:
    def __init__(self, pipes):
        self.pipes = pipes

    def run(self, contender, server, load, callers, processes, calls, passes=1, tasks=0):
        """Have `processes` make `calls` calls in all, going round `callers`; the last caller is used to warm up only.

        Each process begins elsewhere in the list, so that with as many calls as callers each caller has one. Returns
        an outcome for each of the passes, in which every process makes the same calls again. With `tasks`, each
        process has so many calls in flight, by asyncio.
        """
        *measured, spare = callers
        each = calls // processes
        pipes = self.pipes[:processes]
        for number, pipe in enumerate(pipes):
            at = number * each % len(measured)
            chosen = (measured[at:] + measured[:at])[:each]
            pipe.send((contender.name, server.url, load, chosen, spare, each, passes, tasks))
        with server.client() as client:
            return [_together(pipes, client) for _ in range(passes)]


def _together(pipes, client):
    """One pass: all start when the last one is ready."""
    for pipe in pipes:
        pipe.recv()
    cpu = _cpu(client)
    for pipe in pipes:
        pipe.send("go")
    answers = [pipe.recv() for pipe in pipes]
    cpu = _cpu(client) - cpu
    seconds = max(end for _, end, _ in answers) - min(start for start, _, _ in answers)
    totals = [sum(counts[answer] for _, _, counts in answers) for answer in (True, False, None)]
    return Outcome(*totals, seconds, cpu / seconds)


def _cpu(client):
    used = client.info("cpu")
    return used["used_cpu_user"] + used["used_cpu_sys"]


@contextmanager
def workers(most, serve=_serve):
    """Start processes that run `serve` on a pipe. They are new ones, not forks: nothing of this process goes along."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    try:
        for _ in range(most):
            here, there = context.Pipe()
            process = context.Process(target=serve, args=(there,), daemon=True)
            process.start()
            there.close()
            pipes.append(here)
            processes.append(process)
        yield Workers(pipes)
        for pipe in pipes:
            pipe.send(None)
        for process in processes:
            process.join(10)
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
