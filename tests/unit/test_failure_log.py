"""Which failures are logged: a line a second and cause, and what the lines leave out is in the counts."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers.clock import MonotonicClock

from ratelimit import StoreError, StoreTimeout, StoreUnavailable
from ratelimit.limiter.failure_log import FailureLog

NOT_SENT, UNKNOWN = StoreUnavailable("no connection"), StoreTimeout("no answer")


@pytest.fixture
def clock():
    return MonotonicClock(100.0)


def test_the_first_failure_is_logged_at_once(clock):
    line = FailureLog(clock).failure(NOT_SENT)
    assert line == "checks are answered 503 (not_sent): StoreUnavailable: no connection"


def test_a_cause_has_a_line_a_second(clock):
    """A thousand failures a second for ten seconds: ten lines, which add up to what there was before each."""
    failures = FailureLog(clock)
    lines = []
    for _ in range(10_000):
        lines.append(failures.failure(NOT_SENT))
        clock.now += 1 / 1024
    logged = [line for line in lines if line]
    assert len(logged) == 10
    more = [int(match[1]) for line in logged if (match := re.search(r"; (\d+) more since the last such line$", line))]
    assert more == [1023] * 9


def test_each_cause_has_its_own(clock):
    failures = FailureLog(clock)
    errors = [NOT_SENT, UNKNOWN, StoreError("?", cause="lost"), StoreError("?"), StoreError("?", cause="deposed")]
    assert all(failures.failure(error) for error in errors)
    assert [failures.failure(error) for error in errors] == [None] * 5


def test_success_is_logged_once_with_totals(clock):
    failures = FailureLog(clock)
    for error in (NOT_SENT, NOT_SENT, UNKNOWN):
        failures.failure(error)
    clock.now += 2.5
    assert failures.is_failing
    assert failures.success() == "Redis answers again; answered 503 within 2.5 s: 3 (2 not_sent, 1 unknown)"
    assert not failures.is_failing
    assert failures.success() is None


def test_failures_among_successes_fill_no_log(clock):
    """One in twenty fails, a thousand a second for four seconds: of either kind a line a second."""
    failures = FailureLog(clock)
    failed, succeeded = [], []
    for number in range(4096):
        if number % 20 == 0:
            failed.append(failures.failure(UNKNOWN))
        else:
            succeeded.append(failures.success())
        clock.now += 1 / 1024
    assert [len([line for line in lines if line]) for lines in (failed, succeeded)] == [4, 4]
    totals = [int(re.search(r" s: (\d+) ", line)[1]) for line in succeeded if line]
    clock.now += 1
    totals.append(int(re.search(r" s: (\d+) ", failures.success())[1]))
    assert sum(totals) == len(failed)


def test_threads_lose_no_failure(clock):
    failures = FailureLog(clock)
    with ThreadPoolExecutor(8) as pool:
        lines = list(pool.map(lambda _: failures.failure(NOT_SENT), range(8_000)))
    assert len([line for line in lines if line]) == 1
    assert failures.success().endswith("8000 (8000 not_sent)")
