"""What the extension adds to a request of Flask, and the middleware to one of WSGI.

Run `python -m benchmarks.suite.integrations.flask_requests` after `make test-integrations`, which installs Flask.

In one process, without sockets and without Redis: a stub answers the checks, so that what is left is the adapter's own.
"""

import random
import time

from flask import Flask
from rich.table import Table

from benchmarks.report.progress import console
from benchmarks.suite.integrations.stubs import Admits, wsgi_environ
from benchmarks.suite.rounds import Sample, rotated, spread
from ratelimit import Decision, Reason
from ratelimit.integrations.flask import RateLimit
from ratelimit.integrations.wsgi import RateLimitMiddleware

REQUESTS, ROUNDS, RULES, STAGE = 250, 60, 100, "petstore/prod"


class AdmitsWithoutLimits(Admits):
    """What is left is the adapter without the text of the fields."""

    decision = Decision(Reason.ALLOWED)


def flask_app(limit=lambda _app: None):
    app = Flask(__name__)
    for number in range(RULES):
        app.add_url_rule(f"/v1/items{number}/<int:item_id>", f"items{number}", lambda **_: "ok")
    limit(app)
    return app


def empty_hooks(app):
    """What any extension pays that has both hooks."""
    app.before_request(lambda: None)
    app.after_request(lambda response: response)


def wsgi_app(_environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]


def start_response(_status, _fields, _error=None):
    pass


def serving(contenders):
    """A sample of each round, for each application."""
    samples = {name: [] for name in contenders}
    for number in range(ROUNDS + 1):
        paths = [f"/v1/items{random.randrange(RULES)}/{random.randrange(1000)}" for _ in range(REQUESTS)]
        for name in rotated(contenders, number):
            app, environs = contenders[name], [wsgi_environ(each) for each in paths]
            wall, cpu = time.perf_counter(), time.process_time()
            for each in environs:
                for _part in (body := app(each, start_response)):
                    pass
                getattr(body, "close", int)()
            if number:
                elapsed = (time.process_time() - cpu, time.perf_counter() - wall)
                samples[name].append(Sample(*(part / REQUESTS * 1e6 for part in elapsed)))
    return samples


def main():
    """Measure and print."""
    of_wsgi = {"method": lambda _environ: "GET /v1/items/{item_id}", "stage": STAGE}
    kinds = {
        "Flask": {
            "alone": flask_app(),
            "two empty hooks": flask_app(empty_hooks),
            "RateLimit, without fields": flask_app(lambda app: RateLimit(app, AdmitsWithoutLimits(), stage=STAGE)),
            "RateLimit": flask_app(lambda app: RateLimit(app, Admits(), stage=STAGE)),
        },
        "WSGI": {
            "alone": wsgi_app,
            "RateLimitMiddleware, without fields": RateLimitMiddleware(wsgi_app, AdmitsWithoutLimits(), **of_wsgi),
            "RateLimitMiddleware": RateLimitMiddleware(wsgi_app, Admits(), **of_wsgi),
        },
    }
    table = Table("", "a request", "more than alone", title=f"us of CPU, median of {ROUNDS} paired rounds")
    for kind, contenders in kinds.items():
        samples = serving(contenders)
        for name, each in samples.items():
            more = spread([after.cpu - before.cpu for before, after in zip(samples["alone"], each, strict=True)])
            middle = spread([sample.cpu for sample in each]).middle
            table.add_row(
                f"{kind}: {name}", f"{middle:.1f}", f"{more.middle:+.1f} ({more.low:+.1f} to {more.high:+.1f})"
            )
    console.print(table)


if __name__ == "__main__":
    main()
