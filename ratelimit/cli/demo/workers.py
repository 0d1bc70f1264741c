"""Gateway replicas for `ratelimit demo`: processes of their own that share nothing but the server."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import NamedTuple, cast

from ratelimit.decision import Decision
from ratelimit.limiter import Limiter, Options

_BATCH = 64
_READY_WITHIN = 30.0
"""Seconds in which replicas must have started: slow machines take long to import."""

_PAUSE_CHANCE, _PAUSE = 0.1, 0.008
"""After one request in ten a replica rests for 8 ms on average: traffic comes in bursts, about 1,000/s each."""


class Shot(NamedTuple):
    """One request and its decision. `key` is the index of the API key."""

    key: int
    method: str
    cost: int
    decision: Decision


@dataclass(frozen=True, slots=True)
class Traffic:
    """What replicas send: random methods and costs under random keys, for `seconds` or until `requests` are sent."""

    url: str
    keys: tuple[str, ...]
    stage: str
    methods: tuple[str, ...]
    seconds: float
    requests: int | None
    deadline: float


class ReplicaLost(Exception):  # noqa: N818 - what happened
    """A replica ended before it had sent everything."""


def drive(traffic: list[Traffic], on_progress: Callable[[int, float], None]) -> list[Shot]:
    """Run one replica per entry at the same time, and return all their shots.

    `on_progress` is called often, with the number of shots so far and the seconds since the start.
    """
    context = multiprocessing.get_context("spawn")
    processes: list[SpawnProcess] = []
    pipes: list[Connection] = []
    try:
        for seed, part in enumerate(traffic):
            ours, theirs = context.Pipe()
            process = context.Process(target=_replica, args=(theirs, part, seed), daemon=True)
            processes.append(process)  # before it starts: an interrupt in the middle must find it
            pipes.append(ours)
            # Born with interrupts blocked: the terminal interrupts all, the parent ends its replicas.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            theirs.close()
        return _collect(pipes, on_progress)
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            if process.pid is not None:
                process.terminate()
                process.join()


def _collect(pipes: list[Connection], on_progress: Callable[[int, float], None]) -> list[Shot]:
    for number, pipe in enumerate(pipes, 1):
        with suppress(EOFError):
            if pipe.poll(_READY_WITHIN) and pipe.recv() is None:
                continue
        raise ReplicaLost(f"replica {number} did not start")
    for pipe in pipes:
        pipe.send(None)
    started, shots, running = time.monotonic(), list[Shot](), list(pipes)
    while running:
        for pipe in cast("list[Connection]", wait(running, timeout=0.05)):
            try:
                batch = pipe.recv()
            except EOFError:
                raise ReplicaLost(f"replica {pipes.index(pipe) + 1} ended in the middle of its work") from None
            if batch is None:
                running.remove(pipe)
            else:
                shots += batch
        on_progress(len(shots), time.monotonic() - started)
    return shots


def _replica(pipe: Connection, traffic: Traffic, seed: int) -> None:
    """Say that we are ready (None), wait for the start, send batches of shots, and say that it was all (None)."""
    chance = random.Random(seed)  # noqa: S311 - traffic, not secrets
    # Every decision is to be Redis', with its time: they are held against the model.
    options = Options(deadline=traffic.deadline, denial_cache=False)
    with suppress(BrokenPipeError, EOFError), Limiter.from_url(traffic.url, **options) as limiter:
        limiter.peek(traffic.keys[0], traffic.stage, traffic.methods[0])
        pipe.send(None)
        pipe.recv()
        batch: list[Shot] = []
        stop, sent = time.monotonic() + traffic.seconds, 0
        while sent < traffic.requests if traffic.requests is not None else time.monotonic() < stop:
            key, method = chance.randrange(len(traffic.keys)), chance.choice(traffic.methods)
            cost = chance.choices((1, 2, 5), (90, 8, 2))[0]
            batch.append(Shot(key, method, cost, limiter.check(traffic.keys[key], traffic.stage, method, cost)))
            sent += 1
            if len(batch) == _BATCH:
                pipe.send(batch)
                batch = []
            if chance.random() < _PAUSE_CHANCE:
                time.sleep(chance.expovariate(1 / _PAUSE))
        pipe.send(batch)
        pipe.send(None)
