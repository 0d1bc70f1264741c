"""The checker, on histories made by hand: each measure is 0 for what is right, and exact for what is not."""

import math
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chaos import checker
from chaos.history import Check, Event, History

SECOND_US = 1_000_000
LIMITS = {
    "ample": {"rate": "1000000", "burst": 1_000_000, "quota": 1_000_000, "ample": True},
    "bucket": {"rate": "2", "burst": 3, "quota": 1_000_000},
    "quota": {"rate": "1000000", "burst": 1_000_000, "quota": 5},
}


def check(at_s, key="bucket", *, took_s=0.001, allowed=True, time_s=None, process="a", waited_s=0.0, **said):
    """A check that was sent at a second; admitted by Redis unless said."""
    reason = said.pop("reason", "ALLOWED" if allowed else "THROTTLED")
    sent_us = round(at_s * SECOND_US)
    return Check(
        process=process,
        key=key,
        cost=said.pop("cost", 1),
        sent_us=sent_us,
        received_us=sent_us + round(took_s * SECOND_US),
        allowed=allowed,
        reason=reason,
        source=said.pop("source", "redis"),
        cause=said.pop("cause", None),
        time_us=None if time_s is None else round(time_s * SECOND_US),
        waited_us=round(waited_s * SECOND_US),
    )


def unavailable(at_s, key="bucket", cause="not_sent", **options):
    options = {"reason": "UNAVAILABLE", "source": "fail_closed"} | options
    return check(at_s, key, allowed=False, cause=cause, **options)


def event(at_s, name, **about):
    return Event(round(at_s * SECOND_US), name, about)


def history(*lines, **run):
    checks = sorted((line for line in lines if isinstance(line, Check)), key=lambda line: line.received_us)
    events = [line for line in lines if isinstance(line, Event)]
    return History({"keys": LIMITS, "deadline_s": 0.05, **run}, checks, events)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10), st.integers(1, 5)), min_size=1, max_size=12),
    st.fractions(Fraction(1, 1000), 3_000_000),
    st.integers(0, 10),
)
@example([(22, 5, 1), (27, 5, 1)], Fraction(3_000_000), 0)
def test_the_worst_interval_is_the_worst_of_all(spans, rate, burst):
    """The quick way is what the slow one says: of intervals from one admission to another, and an empty one."""
    spans = [(begin, begin + length, cost) for begin, length, cost in spans]
    by_hand = [
        sum(cost for begin, end, cost in spans if first <= begin and end <= last)
        - burst
        - rate / SECOND_US * (last - first)
        for first, _, _ in spans
        for _, last, _ in spans
        if first <= last
    ]
    assert checker.worst_excess(spans, rate, burst) == max(-burst, *by_hand)


def test_what_a_bucket_may_admit_is_no_excess():
    """A burst of 3, then one each half second; one more is one too many, by the server's time to the microsecond."""
    right = [check(0, time_s=0) for _ in range(3)] + [check(0.4, took_s=0.2, time_s=0.5), check(1, time_s=1)]
    assert checker.over_admission(history(*right)) == 0
    assert checker.over_admission(history(*right, check(1.2, time_s=1.499_999))) == 1
    assert checker.over_admission(history(*right, check(1.2, time_s=1.5))) == 0


def test_without_the_servers_time_the_best_reading_counts():
    """Somewhere between sending and answer; also where the server's clock is moved."""
    burst = [check(0, took_s=0) for _ in range(3)]
    assert checker.over_admission(history(*burst, check(0.1, took_s=0.4))) == 0
    assert checker.over_admission(history(*burst, check(0.1, took_s=0.3))) == 1
    moved = [check(0, took_s=0, time_s=number) for number in range(5)]
    assert checker.over_admission(history(*moved)) == 0
    assert checker.over_admission(history(*moved, clock_moves=True)) == 2


def test_a_quota():
    admitted = [check(number, "quota") for number in range(5)]
    assert checker.over_quota(history(*admitted)) == 0
    assert checker.over_quota(history(*admitted, check(6, "quota", cost=2))) == 2


def test_executions():
    """Unknown outcomes count both ways, also those of processes that died."""
    lines = [check(0, "ample"), unavailable(1, "ample", "unknown"), unavailable(2, "ample", "not_sent")]
    lines += [check(3, "ample", allowed=False, reason="CANCELLED", source="", cause="TimeoutError")]

    def measured(units, *more):
        made = history(*lines, *more, event(9, "charged", key="ample", units=units))
        return checker.extra_executions(made), checker.lost_charges(made)

    assert [measured(units) for units in range(6)] == [(0, 1), (0, 0), (0, 0), (0, 0), (1, 0), (2, 0)]
    assert measured(5, event(8, "died", process="a", checks=2)) == (0, 0)


def test_executions_without_redis():
    """What was not sent is charged afterwards; of a process that dies nobody knows."""
    local = {"source": "local"}
    lines = [check(0, "ample", cause="not_sent", **local), check(1, "ample", cause="refused", **local)]
    lines += [check(2, "ample", cause="unknown", **local), check(3, "ample", source="fail_open", cause="not_sent")]

    def measured(units, *more):
        made = history(*lines, *more, event(9, "charged", key="ample", units=units))
        return checker.extra_executions(made), checker.lost_charges(made)

    assert [measured(units) for units in range(5)] == [(0, 2), (0, 1), (0, 0), (0, 0), (1, 0)]
    assert measured(0, event(8, "died", process="a", checks=0)) == (0, 0)


def test_a_revocation():
    """What was sent before it was acknowledged may pass."""
    lines = [check(0.5, "ample"), event(1, "revoking", key="ample"), check(1.9, "ample", took_s=0.2)]
    lines += [event(2, "revoked", key="ample"), check(3, "ample", allowed=False, reason="INVALID_KEY"), check(3)]
    assert checker.late_admissions(history(*lines)) == 0
    assert checker.late_admissions(history(*lines, check(2.1, "ample"))) == 1
    assert checker.wrong_denials(history(*lines)) == 0
    assert checker.very_late_admissions(history(*lines, check(2.1, "ample"), check(3, "ample"))) == 0
    late = [*lines, check(3.001, "ample", process="b")]
    assert checker.very_late_admissions(history(*late)) == 1
    assert checker.very_late_admissions(history(*late, cut_off=["b"])) == 0


def test_the_deadline():
    """10 ms more, and the time without a processor."""
    right = [check(0, took_s=0.06), check(1, took_s=1.06, waited_s=1)]
    assert checker.overruns(history(*right)) == 0
    assert checker.overruns(history(*right, check(2, took_s=0.0601))) == 1
    assert checker.longest_us(history(*right)) == 60_000


def answers(begin_s, count, process="a"):
    return [check(begin_s + number / 1000, "ample", process=process) for number in range(count)]


def test_recovery():
    """The first of 100 answers of Redis in a row, of the slowest process that is alive."""
    fault = [event(1, "fault begins", what="x"), event(2, "fault ends", what="x")]
    down = [unavailable(1.5), unavailable(2.2, took_s=0.05)]
    assert checker.recovery_us(history(*answers(0, 200))) == 0
    assert checker.recovery_us(history(*fault, *down, *answers(2.499, 100))) == 500_000
    assert checker.recovery_us(history(*fault, *down, *answers(2.499, 99))) == math.inf
    assert checker.recovery_us(history(*fault, *answers(2.499, 100))) == 0
    interrupted = [*answers(2.299, 50), unavailable(2.5), *answers(2.599, 100)]
    assert checker.recovery_us(history(*fault, *interrupted)) == 600_000
    other = [unavailable(2.9, process="b"), *answers(2.999, 100, "b")]
    assert checker.recovery_us(history(*fault, *down, *answers(2.499, 100), *other)) == 1_000_000
    dead = [unavailable(1.5, process="c"), event(1.6, "died", process="c", checks=3)]
    assert checker.recovery_us(history(*fault, *down, *answers(2.499, 100), *dead)) == 500_000


def test_recovery_on_a_busy_machine():
    """Answers that are missing because servers, or the process itself, did not run are no sign of anything."""
    fault = [event(1, "fault begins", what="x"), event(2, "fault ends", what="x")]
    lines = [*answers(2, 50), unavailable(2.6, took_s=0.05), *answers(2.7, 60)]
    starved = [event(at, "waited", waited_us=waited_us) for at, waited_us in ((2, 0), (2.4, 100), (2.62, 20_101))]
    assert checker.recovery_us(history(*fault, *lines)) == math.inf
    assert checker.recovery_us(history(*fault, *lines, *starved)) == 0
    assert checker.recovery_us(history(*fault, *lines, *starved[:2])) == math.inf
    late = [event(2.3, "waited", waited_us=50_000), event(2.7, "waited", waited_us=60_000)]
    assert checker.recovery_us(history(*fault, *lines, event(2, "waited", waited_us=0), *late)) == math.inf
    own = [*answers(2, 50), unavailable(2.6, took_s=0.05, waited_s=0.03), *answers(2.7, 60)]
    assert checker.recovery_us(history(*fault, *own)) == 0


def test_denials_without_a_reason():
    denied = {"allowed": False}
    right = [check(0, **denied), *(check(0, "quota") for _ in range(5)), check(1, "quota", **denied)]
    assert checker.wrong_denials(history(*right)) == 0
    assert checker.wrong_denials(history(*right, check(1, "ample", **denied))) == 1
    assert checker.wrong_denials(history(*right, check(1, **denied, reason="INVALID_KEY"))) == 1


def test_denials_by_a_quota_that_has_units_left():
    denial = check(2, "quota", allowed=False, reason="QUOTA_EXCEEDED")
    spent = [check(0, "quota") for _ in range(4)]
    assert checker.early_denials(history(*spent, denial)) == 1
    assert checker.early_denials(history(*spent, check(1, "quota"), denial)) == 0
    assert checker.early_denials(history(*spent, unavailable(1, "quota", "unknown"), denial)) == 0
    assert checker.early_denials(history(*spent, unavailable(1, "quota", "not_sent"), denial)) == 1
    assert checker.early_denials(history(*spent, check(3, "quota"), denial)) == 1


def test_what_is_counted():
    lines = [check(0, allowed=False, reason="RAISED", source="", cause="KeyError"), unavailable(1), check(2)]
    assert (checker.raised(history(*lines)), checker.unavailable(history(*lines))) == (1, 1)
    lost = [event(1, "crashed"), event(3, "restoring"), event(4, "restored")]
    assert checker.admitted_after_loss(history(*lines, *lost)) == 1
    assert checker.admitted_after_loss(history(check(0.999), check(2.9995), *lost)) == 0
    refused = [unavailable(1, cause="refused"), unavailable(1, cause="lost"), check(2, allowed=False)]
    assert checker.refused(history(*refused)) == 1


def test_keys_that_are_made_anew():
    """Are unknown until they are made."""
    unknown = [check(at, "ample", allowed=False, reason="INVALID_KEY") for at in (1, 3.5, 5)]
    lost = [event(1, "crashed"), event(3, "restoring"), event(4, "restored")]
    assert checker.wrong_denials(history(*unknown, *lost)) == 2


def test_a_drought():
    """Of the key `bucket` alone, up to its last check."""
    lines = [check(0), check(1, "ample"), check(2), check(5, allowed=False)]
    assert checker.drought_us(history(*lines)) == 3_000_000
    assert checker.drought_us(history(*lines[:2])) == 0


def test_keys_of_other_nodes():
    """Answers without Redis to keys that are spared, unless the machine was busy; not those to others."""
    fault = [event(1, "fault begins", what="x"), event(2, "fault ends", what="x")]
    spared = event(0, "spared", keys=["ample", "quota"])
    busy = unavailable(2, "quota", waited_s=0.5)
    lines = [unavailable(1.5, "ample"), unavailable(1.5, "bucket"), busy, check(2, "quota")]
    outside = [unavailable(0.9, "ample"), unavailable(3.1, "ample")]
    assert checker.lost_by_others(history(*fault, spared, *lines, *outside)) == 1
    assert checker.lost_by_others(history(*fault, *lines)) == 0
    assert checker.lost_by_others(history(spared, *lines)) == 0


def test_growth():
    """From the middle to the end: what a process needs at its start does not count."""

    def samples(*sizes):
        return [
            event(at, "sample", process="a", rss_kb=size, descriptors=size // 10, threads=1)
            for at, size in enumerate(sizes)
        ]

    assert checker.growth(history(*samples(100, 500, 500, 500))) == {"rss_kb": 0, "descriptors": 0, "threads": 0}
    assert checker.growth(history(*samples(100, 500, 500, 600))) == {"rss_kb": 100, "descriptors": 10, "threads": 0}


def test_verdicts():
    """A bound may be a function of the history."""
    made = history(*answers(0, 3), unavailable(1))
    found = checker.verdicts(made, {"503": 0, "raised": lambda of: len(of.checks)})
    assert [(verdict.claim, verdict.measured, verdict.bound, verdict.holds) for verdict in found] == [
        ("503", 1, 0, False),
        ("raised", 0, 4, True),
    ]


@pytest.mark.parametrize("claim", checker.MEASURES)
def test_each_measure_of_nothing_is_nothing(claim):
    assert checker.MEASURES[claim][0](history()) == 0
