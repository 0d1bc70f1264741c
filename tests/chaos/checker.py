"""Holds a history against the exact model. Pure: a history in, numbers and verdicts out.

Where it cannot be known when something happened, or whether, the reading that is best for the limiter counts; so what
is reported did happen. An admission happened at the server's time of the decision, or somewhere between the sending of
a check and its answer. A check of unknown outcome may have been charged, or not.
"""

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

STREAK = 100
"""So many answers of Redis in a row are a recovery."""
SLACK_US = 10_000
"""By how much a check may be late, beside the time in which its thread had no processor."""
STARVED_US, STARVED_SINCE_US = 20_000, 300_000
"""A server that is kept from running for so long, within so long before an answer, excuses that there was none."""
SECOND_US = 1_000_000


class _BestSuffix:
    """Costs at places, and the best of: all costs from a place on, plus what that place is worth.

    A place without costs is no candidate: an interval that begins there is no better than the next shorter one.
    """

    def __init__(self, worth):
        self._worth = worth
        self._size = 1 << max(len(worth) - 1, 0).bit_length()
        self._sums = [0] * (2 * self._size)
        self._best = [-math.inf] * (2 * self._size)

    def add(self, at, cost):
        node = self._size + at
        self._sums[node] += cost
        self._best[node] = self._worth[at] + self._sums[node]
        while node := node // 2:
            left, right = 2 * node, 2 * node + 1
            self._sums[node] = self._sums[left] + self._sums[right]
            self._best[node] = max(self._best[right], self._best[left] + self._sums[right])

    @property
    def best(self):
        return self._best[1]


def worst_excess(spans, rate, burst):
    """Return the worst of what was admitted, less burst + rate x length, over all intervals; exact, a Fraction.

    `spans` are (earliest, latest, cost) in microseconds: an admission counts for an interval that contains all of its
    span. `rate` is in tokens per second. At least -burst: there is always an interval without length.
    """
    if not spans:
        return Fraction(-burst)
    per_us = Fraction(rate) / SECOND_US
    tokens, microseconds = per_us.numerator, per_us.denominator
    first = min(begin for begin, _, _ in spans)
    begins = sorted({begin for begin, _, _ in spans})
    places = {begin: at for at, begin in enumerate(begins)}
    suffixes = _BestSuffix([tokens * (begin - first) for begin in begins])
    worst = 0
    for begin, end, cost in sorted(spans, key=lambda span: span[1]):
        suffixes.add(places[begin], cost * microseconds)
        worst = max(worst, suffixes.best - tokens * (end - first))
    return Fraction(worst, microseconds) - burst


def _span(check, *, server_time):
    if server_time and check.time_us is not None:
        return check.time_us, check.time_us, check.cost
    return check.sent_us, check.received_us, check.cost


def over_admission(history):
    """Whole units that a key's bucket admitted beyond burst + rate x length, of the worst interval and key."""
    server_time = not history.run.get("clock_moves", False)
    worst = 0
    for key, limits in history.run["keys"].items():
        spans = [_span(check, server_time=server_time) for check in history.admitted(key)]
        worst = max(worst, math.ceil(worst_excess(spans, Fraction(limits["rate"]), limits["burst"])))
    return worst


def over_quota(history):
    """Units that a key admitted beyond its quota: the worst key. No window ends within a run."""
    admitted = Counter()
    for check in history.checks:
        admitted[check.key] += check.cost if check.allowed else 0
    return max(max(0, admitted[key] - limits["quota"]) for key, limits in history.run["keys"].items())


def _charged(history):
    """(key, units charged, units that are to be, units that may be or not) of each key that was read."""
    died = {event.about["process"]: event.about["checks"] for event in history.of("died")}
    for event in history.of("charged"):
        key = event.about["key"]
        checks = [check for check in history.checks if check.key == key]
        # A process that died took with it what it had admitted without Redis.
        unsure = [check for check in checks if check.may_be_charged or (check.is_degraded and check.process in died)]
        certain = sum(check.cost for check in checks if check.is_charged) - sum(
            check.cost for check in unsure if check.is_charged
        )
        yield key, event.about["units"], certain, sum(check.cost for check in unsure) + sum(died.values())


def extra_executions(history):
    """Units that Redis counted for no check at all: each is one that was executed more than once. Of all keys."""
    return sum(max(0, charged - certain - unsure) for _, charged, certain, unsure in _charged(history))


def lost_charges(history):
    """Units that Redis admitted, or was to be charged with afterwards, and does not count. Of all keys."""
    return sum(max(0, certain - charged) for _, charged, certain, _ in _charged(history))


def late_admissions(history, later_us=0, ignored=()):
    """Checks of a revoked key that were sent after the revocation was acknowledged, and admitted."""
    revoked = {event.about["key"]: event.at_us + later_us for event in history.of("revoked")}
    return sum(
        check.allowed and check.sent_us > revoked[check.key]
        for check in history.checks
        if check.key in revoked and check.process not in ignored
    )


def overruns(history):
    """Checks that took longer than the deadline, by more than they waited for a processor."""
    deadline_us = history.run["deadline_s"] * SECOND_US
    return sum(check.received_us - check.sent_us - check.waited_us > deadline_us + SLACK_US for check in history.checks)


def longest_us(history):
    """The longest that a check took, less what its thread waited for a processor."""
    return max((check.received_us - check.sent_us - check.waited_us for check in history.checks), default=0)


class _Starvation:
    """When servers, or the proxies before them, were ready to run and had no processor."""

    def __init__(self, history):
        samples = [(event.at_us, event.about["waited_us"]) for event in history.of("waited")]
        self._times = [at_us for at_us, _ in samples]
        self._waited = [waited_us for _, waited_us in samples]

    def excuses(self, check):
        """Whether an answer without Redis may be due to that, or to its own process that did not run."""
        if check.waited_us > STARVED_US:
            return True
        first = max(bisect_right(self._times, check.sent_us - STARVED_SINCE_US) - 1, 0)
        last = min(bisect_left(self._times, check.received_us), len(self._times) - 1)
        return bool(self._times) and self._waited[last] - self._waited[first] > STARVED_US


def recovery_us(history):
    """From the end of the fault to the first of 100 answers in a row that Redis made: the slowest process.

    Infinite if there are none, and 0 if a process never was without Redis. An answer without Redis that a busy machine
    excuses does not count.
    """
    starvation = _Starvation(history)
    if history.fault is None:
        return 0
    _, end = history.fault
    died = {event.about["process"] for event in history.of("died")}
    slowest = 0
    for process in sorted({check.process for check in history.checks} - died):
        since, streak = end, 0
        for check in history.checks:
            if check.process != process or check.received_us <= end:
                continue
            if streak >= STREAK:
                break
            if check.is_degraded:
                if not starvation.excuses(check):
                    since, streak = None, 0
                continue
            if since is None:
                since = check.received_us
            streak += 1
        slowest = max(slowest, since - end) if streak >= STREAK else math.inf
    return slowest


def wrong_denials(history):
    """Denials (429) of keys that are far from any limit, and 403 of keys that are valid.

    Not while an administrator makes keys anew one after the other.
    """
    revoking = {event.about["key"] for event in history.of("revoking")}
    restoring = zip(history.of("restoring"), history.of("restored"), strict=True)
    spans = [(begin.at_us, end.at_us) for begin, end in restoring]
    wrong = 0
    for check in history.checks:
        if check.reason == "INVALID_KEY":
            is_restored = all(check.received_us < begin or end < check.sent_us for begin, end in spans)
            wrong += is_restored and check.key not in revoking
        elif check.reason in {"THROTTLED", "QUOTA_EXCEEDED"}:
            wrong += bool(history.limits(check.key).get("ample"))
    return wrong


def early_denials(history):
    """Denials by a quota that could not be exhausted yet: all that was sent before, and may count, was less.

    Not those of a process on its own, which has a part of the quota.
    """
    wrong = 0
    for key, limits in history.run["keys"].items():
        spent = sorted(
            (check.sent_us, check.cost)
            for check in history.checks
            if check.key == key and (check.allowed or check.may_be_charged)
        )
        denials = sorted(
            (check.received_us, check.cost)
            for check in history.checks
            if check.key == key and check.reason == "QUOTA_EXCEEDED" and not check.is_degraded
        )
        died = sum(event.about["checks"] for event in history.of("died"))
        at, total = 0, died + limits.get("prepaid", 0)
        for received_us, cost in denials:
            while at < len(spent) and spent[at][0] <= received_us:
                total += spent[at][1]
                at += 1
            wrong += total + cost <= limits["quota"]
    return wrong


def raised(history):
    """Checks that raised."""
    return sum(check.reason == "RAISED" for check in history.checks)


def unavailable(history):
    """Checks that were answered 503."""
    return sum(check.reason == "UNAVAILABLE" for check in history.checks)


def refused(history):
    """Checks that were answered 503 for an error that the server sent."""
    return sum(check.reason == "UNAVAILABLE" and check.cause == "refused" for check in history.checks)


def very_late_admissions(history):
    """Of the late admissions those more than a second later, by processes that are not cut off with a primary."""
    return late_admissions(history, SECOND_US, history.run.get("cut_off", ()))


def lost_by_others(history):
    """Checks of keys on nodes that nothing happened to, answered without Redis from the fault until a second after it.

    But for those that a busy machine excuses.
    """
    if history.fault is None:
        return 0
    begin, end = history.fault
    spared = {key for event in history.of("spared") for key in event.about["keys"]}
    starvation = _Starvation(history)
    return sum(
        check.is_degraded and not starvation.excuses(check)
        for check in history.checks
        if check.key in spared and begin <= check.sent_us and check.received_us <= end + SECOND_US
    )


def drought_us(history):
    """The longest time in which the key `bucket`, which is asked for all the time, admitted nothing."""
    times = [check.received_us for check in history.admitted("bucket")]
    if not times:
        return 0
    ends = [check.received_us for check in history.checks if check.key == "bucket"]
    return max(later - earlier for earlier, later in pairwise([*times, max(ends)]))


def admitted_after_loss(history):
    """Checks that were sent after the data were lost, and admitted before anybody began to restore them."""
    lost = [event.at_us for event in history.of("crashed")]
    restoring = [event.at_us for event in history.of("restoring")]
    return sum(
        check.allowed and begin < check.sent_us and check.received_us < end
        for begin, end in zip(lost, restoring, strict=False)
        for check in history.checks
    )


def growth(history):
    """By how much a process grew from the middle of the run to its end, the worst of each kind."""
    by_process = {}
    for event in history.of("sample"):
        by_process.setdefault(event.about["process"], []).append(event.about)
    worst = {"rss_kb": 0, "descriptors": 0, "threads": 0}
    for samples in by_process.values():
        half = samples[len(samples) // 2 :]
        worst = {name: max(most, half[-1][name] - half[0][name]) for name, most in worst.items()}
    return worst


MEASURES = {
    "over-admission": (over_admission, "units"),
    "over quota": (over_quota, "units"),
    "extra executions": (extra_executions, "units"),
    "lost charges": (lost_charges, "units"),
    "late admissions": (late_admissions, "checks"),
    "late admissions after 1 s": (very_late_admissions, "checks"),
    "deadline overruns": (overruns, "checks"),
    "recovery": (lambda history: recovery_us(history) / 1000, "ms"),
    "wrong denials": (wrong_denials, "checks"),
    "early denials": (early_denials, "checks"),
    "raised": (raised, "checks"),
    "503": (unavailable, "checks"),
    "refused": (refused, "checks"),
    "lost by other nodes": (lost_by_others, "checks"),
    "drought": (lambda history: drought_us(history) / 1000, "ms"),
    "admitted without data": (admitted_after_loss, "checks"),
    "growth of memory": (lambda history: growth(history)["rss_kb"], "kB"),
    "growth of descriptors": (lambda history: growth(history)["descriptors"], ""),
    "growth of threads": (lambda history: growth(history)["threads"], ""),
}
"""What can be claimed: name -> (measure, unit)."""


TIMED = {"recovery", "deadline overruns", "drought"}
"""Claims that a busy machine can break, where nothing is wrong with the limiter."""


@dataclass(frozen=True)
class Verdict:
    """One claim of a run: what was measured, and the bound that it is to keep."""

    claim: str
    measured: float
    bound: float
    unit: str

    @property
    def holds(self):
        return self.measured <= self.bound


def verdicts(history, bounds):
    """Return a verdict for each bound: claim -> number, or a function of the history that returns one."""
    return [
        Verdict(claim, MEASURES[claim][0](history), bound(history) if callable(bound) else bound, MEASURES[claim][1])
        for claim, bound in bounds.items()
    ]
