"""What finding the route of a request costs, and the middleware around it.

Run `python -m benchmarks.suite.integrations.resolver` after `make test-integrations`, which installs the frameworks.

In one process, without sockets and without Redis: a stub answers the checks, so that what is left is the adapter's own.
The target is 5 us for finding a route among 100.
"""

import asyncio
import random
import time

from fastapi import APIRouter, FastAPI
from rich.table import Table
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from benchmarks.report.progress import console
from benchmarks.suite.integrations.stubs import AdmitsInLoop
from benchmarks.suite.rounds import Sample, rotated, spread
from ratelimit.integrations.asgi import RateLimitMiddleware
from ratelimit.integrations.starlette_routes import Resolver

REQUESTS, ROUNDS = 2000, 15


async def endpoint(_request):
    return PlainTextResponse("ok")


def flat(number):
    """A first segment for each route."""
    return Starlette(routes=[Route(f"/items{each}/{{x}}", endpoint) for each in range(number)])


def versioned(number):
    """Under one prefix, five routes for each resource."""
    return Starlette(
        routes=[Route(f"/api/v1/items{each // 5}/{{x}}/part{each % 5}", endpoint) for each in range(number)]
    )


def by_tenant(number):
    """Each path begins with a parameter."""
    return Starlette(routes=[Route(f"/{{tenant}}/items{each}/{{x}}", endpoint) for each in range(number)])


def included(number):
    """FastAPI, routers included twice over."""
    app, outer, inner = FastAPI(), APIRouter(prefix="/v1"), APIRouter(prefix="/items")
    for each in range(number):
        inner.get(f"/items{each}/{{x}}")(endpoint)
    outer.include_router(inner)
    app.include_router(outer)
    return app


def mounted(number):
    """In two mounts, one of them with a parameter."""
    return Starlette(routes=[Mount("/v1", routes=[Mount("/{tenant}", app=flat(number))])])


KINDS = {
    flat: lambda each: f"/items{each}/7",
    versioned: lambda each: f"/api/v1/items{each // 5}/7/part{each % 5}",
    by_tenant: lambda each: f"/acme/items{each}/7",
    included: lambda each: f"/v1/items/items{each}/7",
    mounted: lambda each: f"/v1/acme/items{each}/7",
}


def http(path):
    return {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"a.example"), (b"user-agent", b"bench"), (b"accept", b"*/*"), (b"x-api-key", b"k" * 44)],
        "client": ("127.0.0.1", 1),
        "state": {},
    }


def resolving_us(app, paths):
    """Microseconds to find a route, of each round."""
    resolver = Resolver(app)
    resolver.compile()
    scopes = [http(path) for path in paths]
    samples = []
    for number in range(ROUNDS + 1):
        began = time.process_time()
        for scope in scopes:
            resolver(scope)
        if number:
            samples.append((time.process_time() - began) / len(scopes) * 1e6)
    return spread(samples)


async def serving_us(contenders, paths):
    """CPU time of a request to each application, in paired rounds."""
    body = {"type": "http.request", "body": b"", "more_body": False}

    async def receive():
        return body

    async def send(message):
        pass

    samples = {name: [] for name in contenders}
    for number in range(ROUNDS + 1):
        for name in rotated(contenders, number):
            app = contenders[name]
            scopes = [http(path) for path in paths]
            wall, cpu = time.perf_counter(), time.process_time()
            for scope in scopes:
                await app(scope, receive, send)
            if number:
                elapsed = (time.process_time() - cpu, time.perf_counter() - wall)
                samples[name].append(Sample(*(each / len(scopes) * 1e6 for each in elapsed)))
    return {name: spread([sample.cpu for sample in each]) for name, each in samples.items()}


def table_of_resolving():
    table = Table("routes", "10", "100", "400", "no route, at 100", title="finding a route (us, median)")
    for kind, path in KINDS.items():
        cells = []
        for number in (10, 100, 400):
            paths = [path(random.randrange(number)) for _ in range(REQUESTS)]
            cells.append(f"{resolving_us(kind(number), paths).middle:.1f}")
        missing = resolving_us(kind(100), ["/nowhere/at/all"] * REQUESTS)
        table.add_row(kind.__name__, *cells, f"{missing.middle:.1f}")
    return table


def table_of_serving():
    table = Table(
        "application, 100 routes", "alone", "with the middleware", "more", title="a request (us of CPU, median)"
    )
    for kind, path in KINDS.items():
        limited = RateLimitMiddleware(kind(100), AdmitsInLoop(), stage="petstore/prod")
        paths = [path(random.randrange(100)) for _ in range(REQUESTS)]
        medians = asyncio.run(serving_us({"alone": kind(100), "limited": limited}, paths))
        alone, both = medians["alone"].middle, medians["limited"].middle
        table.add_row(kind.__name__, f"{alone:.1f}", f"{both:.1f}", f"{both - alone:.1f}")
    return table


def main():
    """Measure and print."""
    console.print(table_of_resolving())
    console.print(table_of_serving())


if __name__ == "__main__":
    main()
