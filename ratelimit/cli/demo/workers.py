"""Gateway replicas for `ratelimit demo`: separate processes that share nothing but the server."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import NamedTuple, cast

from ratelimit.decision import Decision
from ratelimit.limiter import Limiter, Options

_BATCH = 64
_START_TIMEOUT = 30.0
"""Seconds. Slow machines take long to import."""

_PAUSE_CHANCE, _PAUSE = 0.1, 0.008
"""After one request in ten a replica pauses for 8 ms on average: bursty traffic of about 1,000/s per replica."""


class SentRequest(NamedTuple):
    """One request and its decision. `key` is the index of the API key."""

    key: int
    method: str
    cost: int
    decision: Decision


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one replica sends: random keys, methods and costs.

    Attributes:
        url: The server's URL.
        keys: Values of API keys.
        stage: The stage that is called.
        methods: Methods of the stage.
        seconds: How long to send, unless `requests` is given.
        requests: How many requests to send.
        deadline: Seconds to wait for the server.
    """

    url: str
    keys: tuple[str, ...]
    stage: str
    methods: tuple[str, ...]
    seconds: float
    requests: int | None
    deadline: float


class ReplicaLostError(Exception):
    """A replica ended before it had sent all its requests."""


def run_replicas(traffic: list[Traffic], on_progress: Callable[[int, float], None]) -> list[SentRequest]:
    """Run one replica per entry of `traffic`, all at the same time.

    Args:
        traffic: What each replica sends.
        on_progress: Called often, with the number of requests so far and the seconds since the start.

    Returns:
        The requests of all replicas with their decisions.

    Raises:
        ReplicaLostError: A replica did not start, or ended early.
    """
    context = multiprocessing.get_context("spawn")
    resource_tracker.ensure_running()  # started with the first process, it would unblock interrupts again before that
    processes: list[SpawnProcess] = []
    pipes: list[Connection] = []
    try:
        for seed, part in enumerate(traffic):
            ours, theirs = context.Pipe()
            process = context.Process(target=_replica, args=(theirs, part, seed), daemon=True)
            processes.append(process)  # before it starts, so that an interrupt meanwhile ends it, too
            pipes.append(ours)
            with _interrupted_later():
                process.start()
            theirs.close()
        return _collect(pipes, on_progress)
    finally:
        # The pipes afterwards: their end is an error to replicas that still run.
        for process in processes:
            if process.pid is not None:
                process.terminate()
                process.join()
        for pipe in pipes:
            pipe.close()


@contextmanager
def _interrupted_later() -> Iterator[None]:
    """Hold an interrupt back, and have processes that start meanwhile block it.

    The terminal interrupts the whole group, and the parent ends them. It is not enough that its main thread blocks the
    signal: if another thread is sent it, Python interrupts the main one, and the new process lacks what it was to read.
    """
    interrupts = list[int]()
    former = signal.signal(signal.SIGINT, lambda number, _: interrupts.append(number))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, former)
    if interrupts:
        raise KeyboardInterrupt


def _collect(pipes: list[Connection], on_progress: Callable[[int, float], None]) -> list[SentRequest]:
    for number, pipe in enumerate(pipes, 1):
        with suppress(EOFError):
            if pipe.poll(_START_TIMEOUT) and pipe.recv() is None:
                continue
        raise ReplicaLostError(f"replica {number} did not start")
    for pipe in pipes:
        pipe.send(None)
    started, requests, running = time.monotonic(), list[SentRequest](), list(pipes)
    while running:
        for pipe in cast("list[Connection]", wait(running, timeout=0.05)):
            try:
                batch = pipe.recv()
            except EOFError:
                raise ReplicaLostError(
                    f"replica {pipes.index(pipe) + 1} ended before it had sent all its requests"
                ) from None
            if batch is None:
                running.remove(pipe)
            else:
                requests += batch
        on_progress(len(requests), time.monotonic() - started)
    return requests


def _replica(pipe: Connection, traffic: Traffic, seed: int) -> None:
    """Send None when ready, wait for the start, send batches of requests, then None again at the end."""
    chance = random.Random(seed)  # noqa: S311 - traffic, not secrets
    # Every decision is made by Redis and has its time: they are compared in that order.
    options = Options(deadline=traffic.deadline, denial_cache=False, on_unavailable="closed")
    with suppress(BrokenPipeError, EOFError), Limiter.from_url(traffic.url, **options) as limiter:
        limiter.peek(traffic.keys[0], traffic.stage, traffic.methods[0])
        pipe.send(None)
        pipe.recv()
        batch: list[SentRequest] = []
        stop, sent = time.monotonic() + traffic.seconds, 0
        while sent < traffic.requests if traffic.requests is not None else time.monotonic() < stop:
            key, method = chance.randrange(len(traffic.keys)), chance.choice(traffic.methods)
            cost = chance.choices((1, 2, 5), (90, 8, 2))[0]
            batch.append(SentRequest(key, method, cost, limiter.check(traffic.keys[key], traffic.stage, method, cost)))
            sent += 1
            if len(batch) == _BATCH:
                pipe.send(batch)
                batch = []
            if chance.random() < _PAUSE_CHANCE:
                time.sleep(chance.expovariate(1 / _PAUSE))
        pipe.send(batch)
        pipe.send(None)
