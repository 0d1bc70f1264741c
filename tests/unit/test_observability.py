"""What is counted of checks and logged of denials: labels, bounds, samples; no server, no exporter."""

import logging
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers.clock import MonotonicClock

from ratelimit import ConfigError, Decision, Reason
from ratelimit.observability import DenialLog
from ratelimit.observability.instruments import CHECKS, DURATION, INSTRUMENTS, INVALID_KEYS, STORE_ERRORS
from ratelimit.observability.metrics import MetricsObserver
from ratelimit.observability.observer import LimiterState

ALLOWED = Decision(Reason.ALLOWED)


class Counts(MetricsObserver):
    """Counts in a dict."""

    def __init__(self, **options):
        super().__init__(**options)
        self.counts, self.times = Counter(), Counter()

    def counter(self, instrument, values):
        def add():
            self.counts[instrument.name, values] += 1

        return add

    def timer(self, result, source):
        def record(seconds):
            self.times[result, source] += seconds

        return record


def counted(*decisions, plan="gold", stage="petstore/prod", **options):
    metrics = Counts(**options)
    for decision in decisions:
        metrics.record(decision, plan, stage, "GET /pets", 0.25)
    return metrics


def test_a_check_is_counted_under_its_labels():
    """Reason and source, and the limit that denied; each in its own series, with its seconds."""
    throttled = Decision(Reason.THROTTLED, "plan:gold", 1.0, source="denial_cache")
    metrics = counted(ALLOWED, ALLOWED, throttled, Decision(Reason.QUOTA_EXCEEDED, "quota:gold", 9.0))
    assert metrics.counts == {
        (CHECKS.name, ("gold", "petstore/prod", "", "allowed", "redis")): 2,
        (CHECKS.name, ("gold", "petstore/prod", "plan:gold", "throttled", "denial_cache")): 1,
        (CHECKS.name, ("gold", "petstore/prod", "quota:gold", "quota_exceeded", "redis")): 1,
    }
    assert metrics.times == {
        ("allowed", "redis"): 0.5,
        ("throttled", "denial_cache"): 0.25,
        ("quota_exceeded", "redis"): 0.25,
    }


@pytest.mark.parametrize("detail", ["missing", "unknown", "disabled", "no_plan_for_stage"])
def test_an_invalid_key_is_counted_by_its_detail_too(detail):
    metrics = counted(Decision(Reason.INVALID_KEY, detail=detail), plan="")
    assert metrics.counts == {
        (CHECKS.name, ("", "petstore/prod", "", "invalid_key", "redis")): 1,
        (INVALID_KEYS.name, ("petstore/prod", detail)): 1,
    }


@pytest.mark.parametrize("cause", ["not_sent", "refused", "unknown", "lost", "deposed"])
def test_a_failure_of_redis_is_counted_by_its_cause_too(cause):
    metrics = counted(Decision(Reason.UNAVAILABLE, source="fail_closed", cause=cause, error="it has a text"))
    assert metrics.counts == {
        (CHECKS.name, ("gold", "petstore/prod", "", "unavailable", "fail_closed")): 1,
        (STORE_ERRORS.name, (cause,)): 1,
    }


def test_labels_are_bounded_in_number():
    """Of 50 plans, ten have series of their own; the rest are counted as "other", under what was decided."""
    metrics = Counts(max_series=10)
    for _ in range(3):
        for number in range(50):
            metrics.record(ALLOWED, f"plan-{number}", f"api/{number}", "*", 0.1)
            metrics.record(Decision(Reason.THROTTLED, f"plan:plan-{number}", 1.0), f"plan-{number}", "*", "*", 0.1)
    series = {values for _, values in metrics.counts}
    assert len(series) == 12
    assert metrics.counts[CHECKS.name, ("other", "other", "", "allowed", "redis")] == 3 * 45
    assert metrics.counts[CHECKS.name, ("other", "other", "other", "throttled", "redis")] == 3 * 45
    assert metrics.counts.total() == 300
    assert len(metrics._series) == 12


@pytest.mark.parametrize("max_series", [0, -1, 1.5, True, None, "10"])
def test_a_bound_is_a_whole_number(max_series):
    with pytest.raises(ConfigError, match="max_series: must be a whole number above 0"):
        Counts(max_series=max_series)


def test_threads_make_one_series_of_one_kind():
    metrics = Counts()
    made = []
    original = metrics.counter
    metrics.counter = lambda *args: made.append(args) or original(*args)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: metrics.record(ALLOWED, "gold", "a/b", "*", 0.1), range(1000)))
    assert len(made) == 1


def test_the_state_is_that_of_all_limiters():
    metrics = Counts()
    assert metrics.state() == (False, 0, 0, False, 1, 0)
    metrics.attach(lambda: LimiterState(is_breaker_open=False, breaker_openings=2, unmatched=5))
    metrics.attach(
        lambda: LimiterState(
            is_breaker_open=True, breaker_openings=1, unmatched=1, is_degraded=True, replicas=4, journal_entries=3
        )
    )
    assert metrics.state() == (True, 3, 6, True, 4, 3)


def test_names_follow_the_conventions():
    """Dotted for OpenTelemetry; base units and `_total` for Prometheus; labels that stand for few values."""
    assert [each.prometheus_name for each in INSTRUMENTS] == [
        "ratelimit_checks_total",
        "ratelimit_invalid_keys_total",
        "ratelimit_store_errors_total",
        "ratelimit_check_duration_seconds",
        "ratelimit_unmatched_methods_total",
        "ratelimit_breaker_open",
        "ratelimit_breaker_openings_total",
        "ratelimit_degraded",
        "ratelimit_replicas",
        "ratelimit_journal_entries",
    ]
    assert all(each.name.startswith("ratelimit.") and each.name.islower() for each in INSTRUMENTS)
    assert {label for each in INSTRUMENTS for label in each.labels} == {
        "plan", "stage", "limit", "result", "source", "detail", "type",
    }  # fmt: skip
    assert STORE_ERRORS.attributes("lost") == {"error.type": "lost"}
    assert DURATION.attributes("allowed", "lease") == {"ratelimit.result": "allowed", "ratelimit.source": "lease"}
    assert CHECKS.attributes("", "*", "", "allowed", "redis") == {
        "ratelimit.stage": "*",
        "ratelimit.result": "allowed",
        "ratelimit.source": "redis",
    }


@pytest.fixture
def clock():
    return MonotonicClock(100.0)


DENIED = Decision(Reason.THROTTLED, "plan:gold", 1.0)


def skipped(caplog):
    return [record.ratelimit_skipped for record in caplog.records]


def test_denials_are_sampled_and_none_is_lost_from_the_sums(caplog, clock):
    """A thousand a second for three seconds: five lines each; lines and what they left out add up."""
    denials = DenialLog(per_second=5, clock=clock)
    with caplog.at_level(logging.INFO, "ratelimit.denials"):
        for _ in range(3072):
            denials.record(DENIED, "gold", "a/b", "*", 0.1)
            clock.now += 1 / 1024
        denials.record(DENIED, "gold", "a/b", "*", 0.1)
    assert skipped(caplog) == [0] * 5 + [1019, 0, 0, 0, 0] * 2 + [1019]
    assert len(caplog.records) + sum(skipped(caplog)) == 3073


def test_an_admission_is_no_denial(caplog, clock):
    with caplog.at_level(logging.INFO, "ratelimit.denials"):
        DenialLog(clock=clock).record(ALLOWED, "gold", "a/b", "*", 0.1)
    assert caplog.records == []


def test_a_level_that_nobody_listens_to_is_not_counted_as_logged(caplog, clock):
    denials = DenialLog(per_second=1, level=logging.DEBUG, clock=clock)
    with caplog.at_level(logging.INFO, "ratelimit.denials"):
        denials.record(DENIED, "gold", "a/b", "*", 0.1)
    with caplog.at_level(logging.DEBUG, "ratelimit.denials"):
        denials.record(DENIED, "gold", "a/b", "*", 0.1)
    assert [(record.levelname, record.ratelimit_skipped) for record in caplog.records] == [("DEBUG", 0)]


def test_a_logger_of_ones_own(caplog, clock):
    with caplog.at_level(logging.WARNING, "gateway"):
        log = DenialLog(logger=logging.getLogger("gateway"), level=logging.WARNING, clock=clock)
        log.record(DENIED, "gold", "a/b", "GET /pets", 0.1)
    assert [(record.name, record.message) for record in caplog.records] == [
        ("gateway", "429 THROTTLED: a/b GET /pets: plan:gold")
    ]


@pytest.mark.parametrize("per_second", [0, -1, 0.5, True, None, "10"])
def test_a_rate_is_a_whole_number(per_second):
    with pytest.raises(ConfigError, match="per_second: must be a whole number above 0"):
        DenialLog(per_second=per_second)


def test_threads_log_no_more_than_one(caplog, clock):
    denials = DenialLog(per_second=7, clock=clock)
    with caplog.at_level(logging.INFO, "ratelimit.denials"), ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: denials.record(DENIED, "gold", "a/b", "*", 0.1), range(4000)))
    assert len(caplog.records) == 7
    assert denials._skipped == 3993
