"""Stubs and observers behind a real adapter: what users test with, and what they see of real requests."""

import asyncio
import json

import pytest
from fastapi import FastAPI
from helpers.web import ITEM, STAGE, ask, uvicorn_server
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, make_asgi_app

from ratelimit import AsyncLimiter, Limiter
from ratelimit.integrations.asgi import RateLimitMiddleware
from ratelimit.observability import observe
from ratelimit.observability.opentelemetry import SpanAttributes
from ratelimit.observability.prometheus import PrometheusMetrics
from ratelimit.testing import (
    AsyncStubLimiter,
    StubCall,
    StubLimiter,
    invalid_key,
    quota_exceeded,
    throttled,
    unavailable,
)


def application(limiter, **options):
    app = FastAPI()
    app.get("/v1/items/{item_id}")(lambda item_id: item_id)
    app.add_middleware(RateLimitMiddleware, limiter=limiter, stage=STAGE, **options)
    return app


@pytest.mark.parametrize("kind", [StubLimiter, AsyncStubLimiter])
def test_an_application_is_answered_what_the_stub_was_told(kind):
    """Statuses, fields and problems of made-up decisions over a socket; each call with the route's template."""
    stub = kind()
    stub.answer(throttled(2.5, limit="plan:gold"), key="throttled")
    stub.answer(quota_exceeded(60), key="used-up")
    stub.answer(invalid_key("disabled"), key="disabled")
    stub.answer(unavailable(), key="unlucky")
    with uvicorn_server(application(stub)) as port:
        replies = {
            key: ask(port, "GET", "/v1/items/7", {"x-api-key": key})
            for key in ("good", "throttled", "used-up", "disabled", "unlucky")
        }
        unmatched = ask(port, "GET", "/nowhere", {"x-api-key": "good"})
    assert {key: reply.status for key, reply in replies.items()} == {
        "good": 200, "throttled": 429, "used-up": 429, "disabled": 403, "unlucky": 503,
    }  # fmt: skip
    assert replies["throttled"].fields["retry-after"] == "3"
    assert json.loads(replies["throttled"].body)["violated-policies"] == ["plan:gold"]
    assert replies["good"].fields["ratelimit"] == '"plan:test";r=9;t=6'
    assert unmatched.status == 404
    assert stub.calls == [*[StubCall(key, STAGE, ITEM) for key in replies], StubCall("good", STAGE, "*")]


def test_what_matches_no_route_can_be_answered_apart():
    """Also where an adapter spares plan and quota, and so checks in another way."""
    stub = AsyncStubLimiter()
    stub.answer(throttled(limit=f"stage:{STAGE}:*"), method="*")
    with uvicorn_server(application(stub, charge_unmatched=False)) as port:
        statuses = [ask(port, "GET", path, {"x-api-key": "k"}).status for path in ("/v1/items/7", "/nowhere")]
    assert statuses == [200, 429]
    assert [call.method for call in stub.calls] == [ITEM, "*"]


@pytest.mark.parametrize("kind", [AsyncLimiter, Limiter])
def test_requests_are_seen_as_metrics_and_in_their_spans(kind, valkey, clock, gold):
    """By template, also the one that matches nothing; spans are those of the requests, each with its own decision."""
    registry, exporter, provider = CollectorRegistry(), InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("tests")
    limiter = kind.from_url(valkey.url, clock=clock, deadline=5)
    observe(limiter, PrometheusMetrics(registry), SpanAttributes())
    limited, metrics = application(limiter, charge_unmatched=False), make_asgi_app(registry)

    async def traced(scope, receive, send):
        if scope["type"] != "http" or scope["path"].startswith("/metrics"):
            await (limited if scope["type"] != "http" else metrics)(scope, receive, send)
            return
        with tracer.start_as_current_span(scope["path"]):
            await limited(scope, receive, send)

    with uvicorn_server(traced) as port:
        statuses = [ask(port, "GET", f"/v1/items/{number}", gold).status for number in range(4)]
        statuses += [ask(port, "GET", path, gold).status for path in ("/nowhere", "/v1/items/1?key=secret")]
        scraped = ask(port, "GET", "/metrics").body.decode()
    limiter.close() if isinstance(limiter, Limiter) else asyncio.run(limiter.aclose())
    provider.shutdown()

    assert statuses == [200, 200, 200, 429, 404, 429]
    strict = f"plan:gold:{ITEM}"
    value = registry.get_sample_value
    common = {"stage": STAGE, "source": "redis"}
    assert value("ratelimit_checks_total", {**common, "plan": "gold", "limit": "", "result": "allowed"}) == 3
    assert value("ratelimit_checks_total", {**common, "plan": "", "limit": "", "result": "allowed"}) == 1
    assert value("ratelimit_checks_total", {**common, "plan": "gold", "limit": strict, "result": "throttled"}) == 2
    assert f'ratelimit_checks_total{{limit="{strict}",plan="gold",result="throttled"' in scraped
    assert gold["x-api-key"] not in scraped
    assert "secret" not in scraped
    seen = [
        (span.name, span.attributes["ratelimit.result"], span.attributes.get("ratelimit.limit"))
        for span in exporter.get_finished_spans()
    ]
    assert seen == [
        *[(f"/v1/items/{number}", "allowed", None) for number in range(3)],
        ("/v1/items/3", "throttled", strict),
        ("/nowhere", "allowed", None),
        ("/v1/items/1", "throttled", strict),
    ]
