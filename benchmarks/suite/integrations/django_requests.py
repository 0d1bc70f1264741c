"""What the middleware adds to a request of Django, under WSGI and ASGI.

`python -m benchmarks.suite.integrations.django_requests`.
In one process, without sockets and without Redis: a stub answers the checks, so that what is left is the adapter's own.
Needs the group `integrations` (`make test-integrations` installs it).
"""

import asyncio
import random
import time

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.test import override_settings
from django.urls import include, path, re_path
from rich.table import Table

from benchmarks.report.progress import console
from benchmarks.suite.integrations.stubs import Admits, AdmitsInLoop, wsgi_environ
from benchmarks.suite.rounds import Sample, rotated, spread

REQUESTS, ROUNDS, ROUTES = 500, 15, 100
OWN = "ratelimit.integrations.django.RateLimitMiddleware"


def view(_request, **_):
    return HttpResponse("ok")


async def view_in_loop(_request, **_):
    return HttpResponse("ok")


urlpatterns = [
    path(
        "v1/",
        include(
            [path(f"items{each}/<int:item_id>", view) for each in range(ROUTES // 2)]
            + [re_path(rf"^parts{each}/(?P<part>[0-9]+)$", view) for each in range(ROUTES // 2)]
            + [path("loop/<int:item_id>", view_in_loop)]
        ),
    )
]


def blocking_only(get_response):
    """A middleware for blocking code alone, as many are."""

    def middleware(request):
        return get_response(request)

    return middleware


def asgi_scope(path_info):
    headers = [(b"host", b"a.example"), (b"accept", b"*/*"), (b"x-api-key", b"k" * 44)]
    return {"type": "http", "method": "GET", "path": path_info, "query_string": b"", "headers": headers}


def applications(make, limiter, *middlewares):
    """The project with these middlewares alone, and with ours above them."""
    contenders = {}
    for name, used in (("alone", middlewares), ("limited", (OWN, *middlewares))):
        with override_settings(MIDDLEWARE=used, RATELIMIT={"LIMITER": limiter, "STAGE": "petstore/prod"}):
            contenders[name] = make()
    return contenders


def serve_blocking(contenders, paths):
    """CPU and wall time of a request, in paired rounds."""
    samples = {name: [] for name in contenders}
    for number in range(ROUNDS + 1):
        for name in rotated(contenders, number):
            wall, cpu = time.perf_counter(), time.process_time()
            for each in paths:
                contenders[name](wsgi_environ(each), lambda _status, _headers: None).close()
            samples[name] += sample_since(wall, cpu) if number else []
    return samples


async def serve_in_loop(contenders, paths):
    """The twin of `serve_blocking`."""
    requests = iter(())

    async def receive():
        for message in requests:
            return message
        return await asyncio.Event().wait()  # the client stays

    async def send(_message):
        pass

    samples = {name: [] for name in contenders}
    for number in range(ROUNDS + 1):
        for name in rotated(contenders, number):
            wall, cpu = time.perf_counter(), time.process_time()
            for each in paths:
                requests = iter([{"type": "http.request", "body": b"", "more_body": False}])
                await contenders[name](asgi_scope(each), receive, send)
            samples[name] += sample_since(wall, cpu) if number else []
    return samples


def sample_since(wall, cpu):
    elapsed = (time.process_time() - cpu, time.perf_counter() - wall)
    return [Sample(*(part / REQUESTS * 1e6 for part in elapsed))]


def main():
    """Measure and print."""
    settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, MIDDLEWARE=[], SECRET_KEY="of a benchmark")
    numbers = [random.randrange(ROUTES // 2) for _ in range(REQUESTS)]
    paths = [f"/v1/items{each}/7" if each % 2 else f"/v1/parts{each}/7" for each in numbers]
    loop_paths = ["/v1/loop/7"] * REQUESTS
    own = f"{__spec__.name}.blocking_only"
    rows = {
        "WSGI": serve_blocking(applications(get_wsgi_application, Admits()), paths),
        "ASGI, asynchronous view": asyncio.run(
            serve_in_loop(applications(get_asgi_application, AdmitsInLoop()), loop_paths)
        ),
        "ASGI, blocking view": asyncio.run(serve_in_loop(applications(get_asgi_application, AdmitsInLoop()), paths)),
        "ASGI, a blocking middleware below": asyncio.run(
            serve_in_loop(applications(get_asgi_application, Admits(), own), loop_paths)
        ),
    }
    table = Table("", "alone", "with the middleware", "more", title="a request to Django (us of CPU, median)")
    for name, samples in rows.items():
        alone, limited = (spread([sample.cpu for sample in samples[each]]).middle for each in ("alone", "limited"))
        paired = (after.cpu - before.cpu for before, after in zip(samples["alone"], samples["limited"], strict=True))
        table.add_row(name, f"{alone:.1f}", f"{limited:.1f}", f"{spread(list(paired)).middle:.1f}")
    console.print(table)


if __name__ == "__main__":
    main()
