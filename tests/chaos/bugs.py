"""Bugs put into the processes of a run on purpose, each of which the checker must find, by the claim that it breaks."""

import itertools
import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from unittest.mock import patch

from ratelimit import AsyncLimiter, Decision, Reason, scripts
from ratelimit.local.journal import Journal
from ratelimit.local.replicas import Replicas


@dataclass(frozen=True)
class Bug:
    """What is wrong, in which scenario it is found, and by which claim.

    wrap     given a decision and what checks once more, returns what the limiter says instead
    patch    makes a context in which the library is wrong
    options  keywords of the limiter, in place of the right ones
    without_sentinel  whether processes connect to the first primary by its own address
    """

    name: str
    scenario: str
    claim: str
    wrap: Callable | None = None
    patch: Callable = nullcontext
    options: dict = field(default_factory=dict)
    without_sentinel: bool = False
    policy: str = "closed"


class Wrapped:
    """A limiter whose decisions are those that a bug makes of them."""

    def __init__(self, limiter, wrap):
        self._limiter, self._wrap = limiter, wrap
        is_async = isinstance(limiter, AsyncLimiter)
        self.check = self._check_async if is_async else self._check

    def __getattr__(self, name):
        return getattr(self._limiter, name)

    def _check(self, *request):
        while isinstance(answer := self._wrap(request, self._limiter.check(*request)), Again):
            pass
        return answer

    async def _check_async(self, *request):
        while isinstance(answer := self._wrap(request, await self._limiter.check(*request)), Again):
            pass
        return answer

    def __enter__(self):
        self._limiter.__enter__()
        return self

    def __exit__(self, *error):
        return self._limiter.__exit__(*error)

    async def __aenter__(self):
        await self._limiter.__aenter__()
        return self

    async def __aexit__(self, *error):
        return await self._limiter.__aexit__(*error)


class Again:
    """The check is to be made once more."""


def seeded(name, limiter):
    """Return the limiter with a bug of this name; "" for none."""
    wrap = BUGS[name].wrap if name else None
    return limiter if wrap is None else Wrapped(limiter, wrap())


def patched(name):
    """A context in which the library has a bug of this name."""
    return BUGS[name].patch() if name else nullcontext()


def options(name):
    """The keywords of a limiter that a bug sets."""
    return BUGS[name].options if name else {}


def _retries():
    return lambda _request, decision: Again() if decision.cause == "unknown" else decision


def _admits_when_unavailable():
    opened = Decision(Reason.ALLOWED, source="fail_open")
    return lambda _request, decision: opened if decision.reason is Reason.UNAVAILABLE else decision


def _unknown_where_lost():
    unknown = Decision(Reason.INVALID_KEY, detail="unknown")
    return lambda _request, decision: unknown if decision.cause == "lost" else decision


def _raises():
    def wrap(_request, decision):
        if decision.reason is Reason.UNAVAILABLE:
            raise RuntimeError(decision.error)
        return decision

    return wrap


def _remembers(reason, seconds):
    """For some time a key gets the answer that it got before, if that had this reason."""

    def make():
        remembered = {}

        def wrap(request, decision):
            until_s, before = remembered.get(request, (0, None))
            now_s = time.monotonic()
            if now_s < until_s:
                return before
            if decision.reason is reason:
                remembered[request] = now_s + seconds, decision
            return decision

        return wrap

    return make


def _counts_alone():
    """Takes a hundred admissions of a key in its own process for all that there are."""
    admitted = Counter()
    denied = Decision(Reason.QUOTA_EXCEEDED, limited_by="quota:quota")

    def wrap(request, decision):
        admitted[request] += decision.allowed
        return denied if decision.allowed and admitted[request] > 100 else decision

    return wrap


def _slow_to_recover():
    """Goes on to say that Redis is away, after it is back."""
    until_s = 0

    def wrap(_request, decision):
        nonlocal until_s
        if decision.cause == "not_sent":
            until_s = time.monotonic() + 1.5
        elif time.monotonic() < until_s:
            return Decision(Reason.UNAVAILABLE, source="fail_closed", cause="not_sent")
        return decision

    return wrap


def _leaks():
    """A descriptor for each fiftieth check."""
    leaked, checks = [], itertools.count(1)

    def wrap(_request, decision):
        if next(checks) % 50 == 0:
            leaked.append(os.open(os.devnull, os.O_RDONLY))
        return decision

    return wrap


def _lua(*changes, names=("check", "check_many")):
    """Scripts in which, of each pair, the first text became the second."""

    def make():
        wrongs = {name: scripts.expanded(name) for name in names}
        for right, wrong in changes:
            if not any(right in source for source in wrongs.values()):
                raise ValueError(f"{right!r} is not there: adapt the seeded bug")
            wrongs = {name: source.replace(right, wrong) for name, source in wrongs.items()}
        read = scripts.expanded
        scripts.load.cache_clear()
        return patch.object(scripts, "expanded", lambda name: wrongs.get(name) or read(name))

    return make


def _charges_the_journal_twice():
    """Under a new number, as if the reply to the first time had been lost."""
    remove, charged = Journal._remove, set()

    def charge_again(self, attempt):
        if attempt.entry in charged:
            remove(self, attempt)
        else:
            charged.add(attempt.entry)
            attempt.entry.sequence = 0

    return patch.object(Journal, "_remove", charge_again)


def _counts_no_others():
    return patch.object(Replicas, "count", 1)


BUGS = {
    bug.name: bug
    for bug in (
        Bug("a check without an answer is made again", "lost replies", "extra executions", _retries),
        Bug("a check without an answer admits", "SIGSTOP", "over-admission", _admits_when_unavailable),
        Bug("a check without an answer raises", "SIGSTOP", "raised", _raises),
        Bug("what is lost is called unknown", "crash, nothing kept", "wrong denials", _unknown_where_lost),
        Bug(
            "an admission is good for half a second", "SCRIPT FLUSH", "late admissions", _remembers(Reason.ALLOWED, 0.5)
        ),
        Bug("a denial is good for three seconds", "clock flaps", "drought", _remembers(Reason.THROTTLED, 3.0)),
        Bug("it is slow to see that Redis is back", "CLIENT PAUSE", "recovery", _slow_to_recover),
        Bug("descriptors leak", "soak", "growth of descriptors", _leaks),
        Bug("the deadline is two seconds", "slow replies", "deadline overruns", options={"deadline": 2.0}),
        Bug(
            "an admission is not counted",
            "SIGSTOP",
            "lost charges",
            patch=_lua(("day_used = day_used + cost", "day_used = day_used")),
        ),
        Bug(
            "a quota has a unit more",
            "SCRIPT FLUSH",
            "over quota",
            patch=_lua(("if not (cost <= left) then", "if not (cost <= left + 1) then")),
        ),
        Bug(
            "a journal is charged twice",
            "SIGSTOP",
            "extra executions",
            patch=_charges_the_journal_twice,
            policy="local",
        ),
        Bug(
            "each process takes all for its part",
            "SIGSTOP",
            "over-admission",
            patch=_counts_no_others,
            policy="local",
        ),
        Bug("a process counts alone", "SCRIPT FLUSH", "early denials", _counts_alone),
        Bug(
            "the time is set back with the clock",
            "clock flaps",
            "over-admission",
            patch=_lua(("CLOCK_TOLERANCE_US = 2000000", "CLOCK_TOLERANCE_US = 0"), names=("check",)),
        ),
        Bug(
            "it stays with a deposed primary",
            "split brain",
            "late admissions after 1 s",
            without_sentinel=True,
        ),
    )
}
"""By name. Each claim is broken by one at least."""
