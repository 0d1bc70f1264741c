"""WSGI applications behind one limiter, each under a prefix of its own: what gunicorn serves for the tests."""

import os
import sys

from helpers.web import ITEM, STAGE

from ratelimit import Limiter
from ratelimit.integrations.wsgi import RateLimitMiddleware

limiter = Limiter.from_url(os.environ["RATELIMIT_URL"], deadline=5)
applications = {}
closed = []


def limited(name, application, **options):
    applications[name] = RateLimitMiddleware(application, limiter, stage=STAGE, **options)


def method(environ):
    """As a router would do it."""
    _, _, item = environ["PATH_INFO"].partition("/v1/items/")
    return f"{environ['REQUEST_METHOD']} /v1/items/{{item_id}}" if item.isdigit() else None


def hello(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["ratelimit.decision"].reason.encode()]


class Stream:
    """A body in parts, which has to be closed."""

    def __init__(self):
        self._parts = iter([b"a", b"b"])

    def __iter__(self):
        return self._parts

    def close(self):
        closed.append(True)


def stream(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Closed", str(len(closed)))])
    return Stream()


def written(environ, start_response):
    """As before PEP 3333."""
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    write(b"written")
    return []


def failing(environ, start_response):
    """Begins an answer, and then answers otherwise."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    try:
        environ["absent"]
    except KeyError:
        start_response("500 Oh", [("Content-Type", "text/plain")], sys.exc_info())
    return [b"sorry"]


def own_fields(environ, start_response):
    fields = [("RATELIMIT", '"own";r=1'), ("Access-Control-Expose-Headers", "X-Own"), ("Retry-After", "7")]
    start_response("503 Later", [("Content-Type", "text/plain"), *fields])
    return [b"later"]


def raising(environ, start_response):
    raise RuntimeError


def denied(environ, start_response):
    start_response("420 Own", [("Content-Type", "text/plain")])
    return [b"own"]


def answer(environ, decision):
    """What `on_denied` returns."""
    kind = environ["PATH_INFO"].rpartition("/")[2]
    if kind == "fails":
        raise RuntimeError
    return {"app": denied, "odd": "odd"}.get(kind)


limited("v1", hello, method=method)
limited("text", hello, method=ITEM)
limited("unlisted", hello)
limited("unmatched", hello, charge_unmatched=False)
limited("raises", hello, method=lambda environ: environ["absent"])
limited("odd", hello, method=lambda environ: 42)
limited("skip", hello, preflight="skip")
limited("exempt", hello, method=lambda environ: f"{environ['REQUEST_METHOD']} /docs", exempt=["GET /docs"])
limited("openai", hello, headers="openai")
limited("stream", stream)
limited("written", written)
limited("failing", failing)
limited("own-fields", own_fields)
limited("raising", raising)
limited("own", hello, on_denied=answer)
applications["down"] = RateLimitMiddleware(hello, "unix:///nowhere/redis.sock", stage=STAGE)


def app(environ, start_response):
    """All of them."""
    return applications[environ["PATH_INFO"].split("/")[1]](environ, start_response)
