"""What an observed check costs more than one that is not: `python -m benchmarks.suite.integrations.observers`.

In pairs on one embedded server, by the thread's CPU time, of a denial that the process makes itself: no check is
shorter. Needs the group `integrations`.
"""

import asyncio
import logging
from statistics import median
from time import thread_time_ns

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry

from ratelimit import AsyncLimiter, Limiter, Throttle, UsagePlan
from ratelimit.observability import DenialLog, Observer, observe
from ratelimit.observability.opentelemetry import OpenTelemetryMetrics, SpanAttributes
from ratelimit.observability.prometheus import PrometheusMetrics

STAGE, METHOD = "petstore/prod", "GET /pets"
CHECKS, ROUNDS = 2000, 60


class _Nothing(Observer):
    def record(self, *_):
        pass


def _observers():
    log = logging.getLogger("benchmarks.observers")
    log.propagate, log.level = False, logging.INFO
    log.addHandler(logging.NullHandler())
    return {
        "not observed": None,
        "an observer that does nothing": _Nothing(),
        "PrometheusMetrics": PrometheusMetrics(CollectorRegistry()),
        "OpenTelemetryMetrics": OpenTelemetryMetrics(MeterProvider([InMemoryMetricReader()])),
        "DenialLog, left out": DenialLog(per_second=1, logger=log),
        "SpanAttributes, no span": SpanAttributes(),
    }


def _us_of_a_check(limiter, key):
    check = limiter.check
    check(key, STAGE, METHOD)
    began = thread_time_ns()
    for _ in range(CHECKS):
        check(key, STAGE, METHOD)
    return (thread_time_ns() - began) / CHECKS / 1000


async def _us_of_an_awaited_check(limiter, key):
    check = limiter.check
    await check(key, STAGE, METHOD)
    began = thread_time_ns()
    for _ in range(CHECKS):
        await check(key, STAGE, METHOD)
    return (thread_time_ns() - began) / CHECKS / 1000


def _medians(rounds):
    """Return (name, microseconds, microseconds more than the unobserved check of the same round), all medians."""
    return [
        (name, median(each[name] for each in rounds), median(each[name] - each["not observed"] for each in rounds))
        for name in rounds[0]
    ]


def measure(url, key):
    """Return the medians of the blocking limiter."""
    limiters = {}
    for name, observer in _observers().items():
        limiter = limiters[name] = Limiter.from_url(url, deadline=1)
        if observer is not None:
            observe(limiter, observer)
        while limiter.check(key, STAGE, METHOD).source != "denial_cache":
            pass
    rounds = [{name: _us_of_a_check(limiter, key) for name, limiter in limiters.items()} for _ in range(ROUNDS)]
    for limiter in limiters.values():
        limiter.close()
    return _medians(rounds)


async def measure_awaited(url, key):
    """Return the medians of its twin."""
    limiters = {}
    for name, observer in _observers().items():
        limiter = limiters[name] = AsyncLimiter.from_url(url, deadline=1)
        if observer is not None:
            observe(limiter, observer)
        while (await limiter.check(key, STAGE, METHOD)).source != "denial_cache":
            pass
    rounds = [
        {name: await _us_of_an_awaited_check(limiter, key) for name, limiter in limiters.items()} for _ in range(ROUNDS)
    ]
    for limiter in limiters.values():
        await limiter.aclose()
    return _medians(rounds)


def main():
    """Print what each observer costs each twin."""
    with Limiter.embedded() as server:
        server.catalog.put_plan(UsagePlan("gold", Throttle("1/36000", 1), stages=[STAGE]))
        key = server.catalog.create_key(plans=["gold"]).value
        rows = [("blocking", measure(server.url, key)), ("asyncio", asyncio.run(measure_awaited(server.url, key)))]
    for twin, medians in rows:
        for name, us, more_us in medians:
            print(f"{twin:10} {name:32} {us:7.2f} us  {more_us:+7.2f} us")


if __name__ == "__main__":
    main()
