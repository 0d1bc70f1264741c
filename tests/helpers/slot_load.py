"""Counters in many slots, raised without a pause by threads of one process: what was said of each, and how fast."""

import threading
import time
from collections import Counter
from contextlib import closing
from typing import NamedTuple

from helpers.background import Background
from ratelimit import StoreError
from ratelimit.scripts import Script, ScriptCall
from ratelimit.store.blocking.executor import executor_for

COUNT = Script("return redis.call('INCR', KEYS[1])")
CATALOG_KEY = "{ratelimit}:catalog"


def count_call(key):
    """A call that raises a counter."""
    return ScriptCall(COUNT, [key], [])


def blocking_executor(client, deadline=5):
    """To be closed by `with closing(...)`."""
    return executor_for(client, deadline, catalog_key=CATALOG_KEY)


def commands(*all_commands, kind=list):
    """An operation that sends commands in one request, and returns their replies."""
    return (yield kind(all_commands))


def request(effect):
    """An operation of one request."""
    return (yield effect)


class Attempt(NamedTuple):
    """One call: of which key, when it began, how long it took, and its error, None if it was carried out."""

    key: str
    at_s: float
    took_s: float
    error: StoreError | None


class SlotLoad(Background):
    """Raises counters one after the other, in so many threads, until it is left.

    Attributes:
        attempts: All calls.
        counted: How many of each key were carried out.
    """

    def __init__(self, client, keys, deadline=5, threads=4, pause_s=0.0):
        super().__init__()
        self._client, self._keys, self._deadline = client, keys, deadline
        self._threads, self._pause_s = threads, pause_s
        self._calls = [count_call(key) for key in keys]
        self._ready = threading.Barrier(threads + 1)
        self.attempts = []

    def __enter__(self):
        super().__enter__()
        self._ready.wait(20)
        return self

    def _run(self):
        with closing(blocking_executor(self._client, self._deadline)) as executor:
            executor.connect(10)
            others = [threading.Thread(target=self._count, args=(executor, number)) for number in range(self._threads)]
            for other in others:
                other.start()
            for other in others:
                other.join()

    def _count(self, executor, number):
        calls = self._calls[number :: self._threads]
        self._ready.wait(20)
        while not self._stopped:
            for call in calls:
                started_s = time.monotonic()
                try:
                    executor.call(call, started_s)
                    error = None
                except StoreError as caught:
                    error = caught
                self.attempts.append(Attempt(call.keys[0], started_s, time.monotonic() - started_s, error))
                time.sleep(self._pause_s)

    @property
    def counted(self):
        return Counter(attempt.key for attempt in self.attempts if attempt.error is None)

    @property
    def errors(self):
        return [attempt.error for attempt in self.attempts if attempt.error is not None]
