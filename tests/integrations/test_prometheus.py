"""Metrics by the real prometheus_client: in a registry, over HTTP from a real server, and of several processes."""

import os
import subprocess
import sys
import urllib.request
from contextlib import contextmanager

import pytest
from helpers.paths import ROOT
from helpers.twins import RunningLimiter
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.parser import text_string_to_metric_families

from ratelimit import ConfigError, UsagePlan
from ratelimit.observability import observe
from ratelimit.observability.instruments import INSTRUMENTS
from ratelimit.observability.prometheus import PrometheusMetrics

STAGE, METHOD = "petstore/prod", "GET /pets"


@contextmanager
def served(registry):
    """The URL of a server of its metrics."""
    httpd, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        yield f"http://127.0.0.1:{httpd.server_port}/metrics"
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def scraped(url):
    """(name, labels) -> value of all samples that a server of metrics has, and the text."""
    with urllib.request.urlopen(url, timeout=10) as response:
        text = response.read().decode()
    return samples_in(text), text


def samples_in(text):
    samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return samples


def of_checks(samples, name="ratelimit_checks_total"):
    """The samples of a metric, by the values of its labels."""
    return {tuple(dict(labels).values()): value for (sample, labels), value in samples.items() if sample == name}


def test_a_scrape_has_what_was_decided(gateway):
    """Exact counts by limit, plan, result, source and stage; the time of each; nothing of keys."""
    registry = CollectorRegistry()
    observe(gateway.limiter, PrometheusMetrics(registry))
    for key in (*[gateway.key] * 3, "made-up-key-of-somebody", None):
        gateway.check(key, STAGE, "GET /pets/secret-17")
    with served(registry) as url:
        samples, text = scraped(url)
    assert of_checks(samples) == {
        ("", "gold", "allowed", "redis", STAGE): 2,
        ("plan:gold", "gold", "throttled", "redis", STAGE): 1,
        ("", "", "invalid_key", "redis", STAGE): 2,
    }
    assert of_checks(samples, "ratelimit_invalid_keys_total") == {("unknown", STAGE): 1, ("missing", STAGE): 1}
    assert of_checks(samples, "ratelimit_check_duration_seconds_count") == {
        ("allowed", "redis"): 2,
        ("throttled", "redis"): 1,
        ("invalid_key", "redis"): 2,
    }
    assert all(0 < seconds < 5 for seconds in of_checks(samples, "ratelimit_check_duration_seconds_sum").values())
    assert samples["ratelimit_breaker_open", ()] == 0
    assert samples["ratelimit_breaker_openings_total", ()] == 0
    assert samples["ratelimit_unmatched_methods_total", ()] == 0
    assert not any(secret in text for secret in (gateway.key, "made-up-key", "secret-17"))


def test_every_metric_is_there_under_its_name_and_labels(gateway):
    registry = CollectorRegistry()
    observe(gateway.limiter, PrometheusMetrics(registry))
    described = {metric.name: metric for metric in registry.collect()}
    for each in INSTRUMENTS:
        metric = described[each.prometheus_name.removesuffix("_total")]
        assert (metric.type, metric.documentation) == (each.kind, each.description)


def test_a_breaker_that_opens_is_scraped(server):
    """1 and one opening while the server stops, 0 afterwards, without a check in between."""
    registry = CollectorRegistry()
    with RunningLimiter(lambda kind: kind.from_url(server.url, deadline=0.5), is_async=False) as made:
        observe(made.limiter, PrometheusMetrics(registry))
        made.limiter.catalog.put_plan(UsagePlan("gold", None, None, [STAGE]))
        made.warm_up()
        read = registry.get_sample_value
        with server.stopped():
            while read("ratelimit_breaker_open") == 0:
                made.check("some-key-of-twenty-characters", STAGE, METHOD)
            assert read("ratelimit_breaker_openings_total") == 1
            made.check("some-key-of-twenty-characters", STAGE, METHOD)
        causes = {label: read("ratelimit_store_errors_total", {"type": label}) for label in ("not_sent", "unknown")}
        assert causes["not_sent"] >= 1
        while read("ratelimit_breaker_open") == 1:
            pass
        assert read("ratelimit_breaker_openings_total") == 1


def test_methods_that_match_nothing_are_counted_once(gateway):
    """A limiter's own count becomes a counter: what is added since the last scrape, and over again in a child."""
    registry = CollectorRegistry()
    observe(gateway.limiter, PrometheusMetrics(registry))
    for count, total in ((3, 3), (3, 3), (10, 10), (4, 14)):
        gateway.limiter._checker.unmatched.count = count
        assert registry.get_sample_value("ratelimit_unmatched_methods_total") == total


def test_several_limiters_share_the_metrics(gateway, server):
    registry = CollectorRegistry()
    metrics = PrometheusMetrics(registry)
    with RunningLimiter(lambda kind: kind.from_url(server.url, deadline=5), is_async=False) as other:
        observe(gateway.limiter, metrics)
        observe(other.limiter, metrics)
        gateway.check(gateway.key, STAGE, METHOD)
        other.check(gateway.key, STAGE, METHOD)
    labels = {"plan": "gold", "stage": STAGE, "limit": "", "result": "allowed", "source": "redis"}
    assert registry.get_sample_value("ratelimit_checks_total", labels) == 2


def test_a_registry_has_the_metrics_once():
    """A second one is refused, and leaves nothing behind."""
    registry = CollectorRegistry()
    PrometheusMetrics(registry)
    collectors = len(registry._collector_to_names)
    with pytest.raises(ConfigError, match="registry: has these metrics already: observe further limiters with"):
        PrometheusMetrics(registry)
    assert len(registry._collector_to_names) == collectors
    assert len(list(registry.collect())) == len(INSTRUMENTS)


WORKERS = """
import os, sys
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
from ratelimit import Limiter
from ratelimit.observability import observe
from ratelimit.observability.prometheus import PrometheusMetrics

url, key = sys.argv[1:]
limiter = Limiter.from_url(url, deadline=5)
observe(limiter, PrometheusMetrics())
limiter.check(key, "petstore/prod", "GET /pets")
for worker in range(3):
    if os.fork() == 0:
        for _ in range(worker + 1):
            limiter.check("unknown-key-of-somebody", "petstore/prod", "GET /pets")
        os._exit(0)
for worker in range(3):
    os.wait()
registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
print(generate_latest(registry).decode())
"""


def test_workers_of_a_forking_server_are_summed_up(gateway, server, tmp_path):
    """prometheus_client's multiprocess mode, as under gunicorn with preload: 1 admission, and 1 + 2 + 3 denials."""
    command = [
        sys.executable,
        "-W",
        "error",
        "-c",
        WORKERS,
        server.url,
        gateway.key,
    ]
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert ran.stderr == ""
    samples = samples_in(ran.stdout)
    assert of_checks(samples) == {
        ("", "gold", "allowed", "redis", STAGE): 1,
        ("", "", "invalid_key", "redis", STAGE): 6,
    }
    assert of_checks(samples, "ratelimit_invalid_keys_total") == {("unknown", STAGE): 6}
    assert samples["ratelimit_breaker_openings_total", ()] == 0
