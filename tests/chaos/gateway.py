"""One replica of a gateway, as a process of its own: it checks keys at a steady pace and records every decision."""

import asyncio
import itertools
import logging
import os
import random
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from chaos import bugs
from chaos.history import Check, Recorder, now_us
from ratelimit import AsyncLimiter, Limiter, StoreError

STAGE, METHOD = "petstore/prod", "GET /pets"
CALLERS = 3
PACE_S = 0.015
"""Of each caller, from one check to the next, on average."""
SAMPLE_S = 0.5
NAP_US, NAPS_PER_READING = 2000, 5
QUICK_US = 20_000
WARM_UP_S = 20
CANCELLED_WITHIN_S = 0.03


@dataclass(frozen=True)
class Replica:
    """What a process is to do.

    name      in the history
    is_async  which twin
    url       of the server, as it is to be reached
    keys      label -> value
    history   the file to append to
    seed      of the order of keys and the pauses
    options   keywords of the limiter
    cancels   whether callers go away after 0 to 30 ms (asyncio)
    forks     whether it forks after a second, under load; the child goes on as NAME-child (blocking)
    bug       the name of a seeded bug; "" for none
    """

    name: str
    is_async: bool
    url: str
    keys: dict[str, str]
    history: str
    seed: str
    options: dict = field(default_factory=dict)
    pace_s: float = PACE_S
    callers: int = CALLERS
    cancels: bool = False
    forks: bool = False
    bug: str = ""


def waited_by_thread_us(process="self"):
    """For how long each thread of a process was ready to run and had no processor, by the kernel's account."""
    by_thread_us = {}
    for path in Path(f"/proc/{process}/task").glob("*/schedstat"):
        with suppress(OSError):  # the thread has ended
            by_thread_us[path.parent.name] = int(path.read_text().split()[1]) // 1000
    return by_thread_us


class Processor:
    """For how long this process was kept from running: by the kernel's account of its threads, and by one that naps.

    A thread may wait for another one, which has a lock but no processor; so the two that were kept longest count, and
    the napping one, which needs Python's lock as they do. Where nobody can know which mattered, the limiter has the
    benefit.
    """

    def __init__(self):
        self._late_and_due_us = 0, now_us() + NAP_US
        self._by_thread_us = waited_by_thread_us()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self):
        for nap in itertools.count(1):
            time.sleep(NAP_US / 1_000_000)
            self._late_and_due_us = self._late_us(), now_us() + NAP_US
            if nap % NAPS_PER_READING == 0:
                self._by_thread_us = waited_by_thread_us()

    def _late_us(self):
        late_us, due_us = self._late_and_due_us
        return late_us + max(0, now_us() - due_us)

    def mark(self):
        """What `waited_us` counts from. It may be some milliseconds old, in favour of the limiter."""
        return self._late_us(), self._by_thread_us, now_us()

    def waited_us(self, mark):
        """For how long it was kept from running since then; 0 if all of it took no time to speak of."""
        late_us, before_us, at_us = mark
        if now_us() - at_us < QUICK_US:
            return 0
        by_thread_us = sorted(
            waited_us - before_us.get(thread, 0) for thread, waited_us in waited_by_thread_us().items()
        )
        return self._late_us() - late_us + sum(by_thread_us[-2:])


class Recording:
    """Checks keys and records what comes of it."""

    def __init__(self, replica, limiter, recorder, caller):
        self._replica, self._limiter, self._recorder = replica, limiter, recorder
        self.random = random.Random(f"{replica.seed}:{replica.name}:{caller}")
        self._labels = sorted(replica.keys)

    def _note(self, label, sent_us, waited_us, decision=None, error=None, reason="RAISED"):
        said = (False, reason, "", type(error).__name__, None)
        if decision is not None:
            said = (decision.allowed, decision.reason.value, decision.source, decision.cause, decision.time_us)
        self._recorder.check(Check(self._replica.name, label, 1, sent_us, now_us(), *said, waited_us))

    def check(self, processor):
        """Check a key by the blocking limiter."""
        label = self.random.choice(self._labels)
        mark, sent_us = processor.mark(), now_us()
        try:
            decision = self._limiter.check(self._replica.keys[label], STAGE, METHOD)
        except Exception as error:  # noqa: BLE001 - whatever it is, the history has it
            self._note(label, sent_us, processor.waited_us(mark), error=error)
        else:
            self._note(label, sent_us, processor.waited_us(mark), decision)

    async def check_async(self, processor):
        """Check a key by its twin."""
        label = self.random.choice(self._labels)
        mark, sent_us = processor.mark(), now_us()
        checking = self._limiter.check(self._replica.keys[label], STAGE, METHOD)
        try:
            if self._replica.cancels:
                checking = asyncio.wait_for(checking, self.random.uniform(0, CANCELLED_WITHIN_S))
            decision = await checking
        except TimeoutError as error:
            self._note(label, sent_us, processor.waited_us(mark), error=error, reason="CANCELLED")
        except Exception as error:  # noqa: BLE001 - whatever it is, the history has it
            self._note(label, sent_us, processor.waited_us(mark), error=error)
        else:
            self._note(label, sent_us, processor.waited_us(mark), decision)

    def pause_s(self):
        return self._replica.pace_s * self.random.uniform(0.5, 1.5)


def _sample(replica, recorder):
    """Record the memory, the descriptors and the threads of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    recorder.event(
        "sample",
        process=replica.name,
        rss_kb=pages * os.sysconf("SC_PAGE_SIZE") // 1024,
        descriptors=len([*Path("/proc/self/fd").iterdir()]),
        threads=len([*Path("/proc/self/task").iterdir()]),
    )


def _sampling(replica, recorder, stop):
    while not stop.wait(SAMPLE_S):
        _sample(replica, recorder)


def _load(replica, limiter, recorder, stop):
    """Have callers check, each in a thread, until they are to stop."""

    processor = Processor()

    def caller(number):
        recording = Recording(replica, limiter, recorder, number)
        while not stop.wait(recording.pause_s()):
            recording.check(processor)

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(replica.callers)]
    for thread in threads:
        thread.start()
    return threads


def _stop_at_end_of(connection):
    """Return an event that is set once the other end of a connection is closed, or whoever held it is gone."""
    stop = threading.Event()

    def wait():
        with suppress(EOFError, OSError):
            connection.recv()
        stop.set()

    threading.Thread(target=wait, daemon=True).start()
    return stop


def _blocking(replica, recorder, connection, stop):
    limiter = Limiter.from_url(replica.url, **replica.options)
    limiter = bugs.seeded(replica.bug, limiter)
    with limiter:
        end_s = time.monotonic() + WARM_UP_S
        while True:
            try:
                limiter.warm_up()
                break
            except StoreError:  # the machine may be busy, and a deadline of a check is short
                if time.monotonic() > end_s:
                    raise
        connection.send("ready")
        threads = _load(replica, limiter, recorder, stop)
        child = 0
        if replica.forks and not stop.wait(1):
            child = os.fork()
            if child == 0:
                _be_child(replica, limiter, recorder, connection)
        for thread in threads:
            thread.join()
        if child:
            os.waitpid(child, 0)


def _be_child(replica, limiter, recorder, connection):
    try:
        stop = _stop_at_end_of(connection)  # the parent's event may be locked by a thread that is not here
        renamed = Replica(**(vars(replica) | {"name": f"{replica.name}-child"}))
        for thread in _load(renamed, limiter, recorder, stop):
            thread.join()
        limiter.close()
    finally:
        os._exit(0)


async def _aio(replica, recorder, connection, stop):
    limiter = AsyncLimiter.from_url(replica.url, **replica.options)
    limiter = bugs.seeded(replica.bug, limiter)

    async def caller(number):
        recording = Recording(replica, limiter, recorder, number)
        while not stop.is_set():
            await recording.check_async(processor)
            await asyncio.sleep(recording.pause_s())

    async with limiter:
        end_s = time.monotonic() + WARM_UP_S
        while True:
            try:
                await limiter.warm_up()
                break
            except StoreError:
                if time.monotonic() > end_s:
                    raise
        processor = Processor()
        connection.send("ready")
        await asyncio.gather(*(caller(number) for number in range(replica.callers)))


def serve(replica, connection):
    """Be the process until the other end of `connection` is closed. Says "ready" there when it checks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: who started this process ends it
    logging.basicConfig(filename=Path(replica.history).with_suffix(".log"), format=f"{replica.name}: %(message)s")
    recorder = Recorder(replica.history)
    stop = _stop_at_end_of(connection)
    sampling = threading.Thread(target=_sampling, args=(replica, recorder, stop), daemon=True)
    sampling.start()
    with bugs.patched(replica.bug):
        if replica.is_async:
            asyncio.run(_aio(replica, recorder, connection, stop))
        else:
            _blocking(replica, recorder, connection, stop)
    sampling.join()
    recorder.close()
