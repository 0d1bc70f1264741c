"""Metrics and attributes of spans by OpenTelemetry's real SDK."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers.twins import RunningLimiter
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ratelimit import Decision, Reason, UsagePlan
from ratelimit.observability import observe
from ratelimit.observability.instruments import DURATION_BUCKETS_S, INSTRUMENTS
from ratelimit.observability.opentelemetry import OpenTelemetryMetrics, SpanAttributes

STAGE, METHOD = "petstore/prod", "GET /pets"


@pytest.fixture
def reader():
    return InMemoryMetricReader()


@pytest.fixture
def metrics(reader):
    """Observers of a provider whose metrics the reader collects."""
    provider = MeterProvider([reader])
    yield OpenTelemetryMetrics(provider)
    provider.shutdown()


def collected(reader):
    """All metrics, by name."""
    resources = reader.get_metrics_data().resource_metrics
    return {metric.name: metric for each in resources for scope in each.scope_metrics for metric in scope.metrics}


def points(metric, value="value"):
    """The value of each point of a metric, by its attributes without "ratelimit."."""
    return {
        frozenset((name.removeprefix("ratelimit."), text) for name, text in point.attributes.items()): getattr(
            point, value
        )
        for point in metric.data.data_points
    }


def labels(**pairs):
    return frozenset(pairs.items())


def test_what_was_decided_is_collected(gateway, metrics, reader):
    """Exact counts, with the attributes that apply; durations in the buckets of redis-py; nothing of keys."""
    observe(gateway.limiter, metrics)
    for key in (*[gateway.key] * 3, "made-up-key-of-somebody", None):
        gateway.check(key, STAGE, "GET /pets/secret-17")
    found = collected(reader)
    assert points(found["ratelimit.checks"]) == {
        labels(plan="gold", stage=STAGE, result="allowed", source="redis"): 2,
        labels(plan="gold", stage=STAGE, limit="plan:gold", result="throttled", source="redis"): 1,
        labels(stage=STAGE, result="invalid_key", source="redis"): 2,
    }
    assert points(found["ratelimit.invalid_keys"]) == {
        labels(stage=STAGE, detail="unknown"): 1,
        labels(stage=STAGE, detail="missing"): 1,
    }
    assert points(found["ratelimit.check.duration"], "count") == {
        labels(result="allowed", source="redis"): 2,
        labels(result="throttled", source="redis"): 1,
        labels(result="invalid_key", source="redis"): 2,
    }
    assert found["ratelimit.check.duration"].data.data_points[0].explicit_bounds == DURATION_BUCKETS_S
    for name in ("ratelimit.breaker.open", "ratelimit.breaker.openings", "ratelimit.unmatched_methods"):
        assert points(found[name]) == {frozenset(): 0}
    assert not any(secret in str(found) for secret in (gateway.key, "made-up-key", "secret-17"))


def test_names_units_and_kinds_are_those_that_are_documented(gateway, metrics, reader):
    observe(gateway.limiter, metrics)
    gateway.check(None, STAGE, METHOD)
    metrics.counter(INSTRUMENTS[2], ("lost",))()  # the only one that needs a fault
    found = collected(reader)
    assert {(name, each.unit, each.description) for name, each in found.items()} == {
        (each.name, each.unit, each.description) for each in INSTRUMENTS
    }
    assert points(found["ratelimit.store.errors"]) == {labels(**{"error.type": "lost"}): 1}
    kinds = {name: type(each.data).__name__.lower() for name, each in found.items()}
    assert kinds == {each.name: {"counter": "sum"}.get(each.kind, each.kind) for each in INSTRUMENTS}


def test_checks_of_several_plans_add_up_where_no_plan_is_named(metrics, reader):
    lost = Decision(Reason.UNAVAILABLE, source="fail_closed", cause="lost")
    for plan in ("gold", "silver", "silver"):
        metrics.record(lost, plan, STAGE, METHOD, 0.1)
    found = collected(reader)
    assert points(found["ratelimit.store.errors"]) == {labels(**{"error.type": "lost"}): 3}
    common = {"stage": STAGE, "result": "unavailable", "source": "fail_closed"}
    assert points(found["ratelimit.checks"]) == {labels(plan="gold", **common): 1, labels(plan="silver", **common): 2}


def test_a_forked_process_counts_from_zero(metrics, reader):
    """What the parent counted, the parent tells."""
    metrics.record(Decision(Reason.ALLOWED), "gold", STAGE, METHOD, 0.1)
    metrics.reset_after_fork()
    metrics.record(Decision(Reason.ALLOWED), "gold", STAGE, METHOD, 0.1)
    assert list(points(collected(reader)["ratelimit.checks"]).values()) == [1]


def test_threads_lose_no_count(metrics, reader):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: metrics.record(Decision(Reason.ALLOWED), "gold", STAGE, METHOD, 0.1), range(8000)))
    found = collected(reader)
    assert list(points(found["ratelimit.checks"]).values()) == [8000]
    assert list(points(found["ratelimit.check.duration"], "count").values()) == [8000]


def test_a_breaker_that_opens_is_collected(server, metrics, reader):
    with RunningLimiter(lambda kind: kind.from_url(server.url, deadline=0.5), is_async=True) as made:
        observe(made.limiter, metrics)
        made.run(lambda: made.limiter.catalog.put_plan(UsagePlan("gold", None, None, [STAGE])))
        made.warm_up()

        def read(name):
            return points(collected(reader)[name])[frozenset()]

        with server.stopped():
            while read("ratelimit.breaker.open") == 0:
                made.check("some-key-of-twenty-characters", STAGE, METHOD)
            assert read("ratelimit.breaker.openings") == 1
        while read("ratelimit.breaker.open") == 1:
            pass
        assert read("ratelimit.breaker.openings") == 1


def test_methods_that_match_nothing_are_collected(gateway, metrics, reader):
    observe(gateway.limiter, metrics)
    gateway.limiter._checker.unmatched.count = 7
    assert points(collected(reader)["ratelimit.unmatched_methods"]) == {frozenset(): 7}


@pytest.fixture
def spans():
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider.get_tracer("tests"), exporter
    provider.shutdown()


def test_the_span_of_a_request_says_how_it_was_decided(gateway, spans):
    """Each request has a span of its own, and gets the attributes of its own decision."""
    tracer, exporter = spans
    observe(gateway.limiter, SpanAttributes())

    async def in_span(key):
        with tracer.start_as_current_span("GET /pets"):
            checked = gateway.limiter.check(key, STAGE, METHOD)
            return await checked if gateway._loop else checked

    for key in (gateway.key, gateway.key, gateway.key, "made-up-key-of-somebody"):
        run_in(gateway, in_span, key)
    first, _, third, fourth = [dict(span.attributes) for span in exporter.get_finished_spans()]
    common = {"ratelimit.stage": STAGE, "ratelimit.source": "redis"}
    assert first == {**common, "ratelimit.result": "allowed", "ratelimit.plan": "gold"}
    wait = third.pop("ratelimit.retry_after")
    assert 3590 < wait <= 3600
    assert third == {
        **common, "ratelimit.result": "throttled", "ratelimit.plan": "gold", "ratelimit.limit": "plan:gold",
    }  # fmt: skip
    assert fourth == {**common, "ratelimit.result": "invalid_key", "ratelimit.detail": "unknown"}


def run_in(gateway, function, *args):
    if gateway._loop:
        return gateway._loop.run(function(*args))
    with pytest.raises(StopIteration):
        function(*args).send(None)
    return None


def test_no_span_no_attributes(gateway):
    """Without tracing, a check does nothing for it."""
    observe(gateway.limiter, SpanAttributes())
    assert not trace.get_current_span().is_recording()
    assert gateway.check(gateway.key, STAGE, METHOD).allowed
