"""WSGI applications of any framework: a middleware that checks each request before the application sees it.

`app = RateLimitMiddleware(app, limiter, stage="petstore/prod", method=...)`, where `method` says which route a request
matches. Flask and Django have adapters of their own, which know that by themselves.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterable
from functools import partial
from http import HTTPStatus
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from ratelimit import validation
from ratelimit.decision import Decision
from ratelimit.headers import Dialect
from ratelimit.integrations.answers import EXPOSE, Answer
from ratelimit.integrations.callers import (
    KeyCallable,
    KeySource,
    RequestData,
    address,
    bearer,
    header,
    query,
    validate_blocking_function,
    warn_of_error,
)
from ratelimit.integrations.enforcer import Enforcer
from ratelimit.integrations.gate import EXEMPT, Gate, Preflight
from ratelimit.integrations.once import OncePerProcess
from ratelimit.limiter import Limiter

__all__ = ["DECISION", "RateLimitMiddleware", "address", "bearer", "header", "query"]

DECISION = "ratelimit.decision"
"""Where in the environment of a request its decision is."""

START_TIMEOUT_S = 1.0
"""For how long the first request of a process waits at most until Redis can be connected to."""

MethodCallable = Callable[[WSGIEnvironment], str | None]
"""Returns the method of a request, such as "GET /pets/{id}", or None for one that matches no route."""

DenialCallable = Callable[[WSGIEnvironment, Decision], WSGIApplication | None]
"""Called for each request that is denied; returns an application that answers it, or None."""


class RateLimitMiddleware:
    """Checks each request, and adds the fields of the decision to each response of the application.

    A denied request is answered without a call of the application. `environ["ratelimit.decision"]` has the decision.
    What an application raises before it answers is answered by the server, without fields.

    The first request of each process warms the limiter up; `warm_up` does so before, as from gunicorn's
    `post_worker_init`.

    Args:
        app: The application.
        limiter: A `Limiter`, which its owner closes; or the URL of a server: then the middleware makes a limiter, and
            closes it when the process ends.
        stage: The stage that the application is, "<api>/<stage>".
        key: Who a request comes from: `header("x-api-key")` by default, `query(...)`, `bearer(...)`, `address(...)`, or
            a function of the environment that returns a key's value, an `Identity` or None.
        method: A function of the environment that returns the method of a request, "GET /pets/{id}", or None for one
            that matches no route; or the method of all requests. Without it no request matches one, so all meet the
            limits for unlisted methods.
        preflight: "check": a CORS preflight needs no key, and meets the stage's limit for unlisted methods and the
            account. "skip": it is not limited.
        charge_unmatched: Whether a request that matches no route is charged to its caller's plan. If not, it needs a
            key all the same, and meets the limits that all callers share.
        exempt: Methods that are not limited, such as "GET /docs".
        headers: The dialect of the fields: "ietf", "legacy", "openai" or "none"; see `Decision.headers`.
        on_denied: Called with the environment and the decision when a request is denied. The application that it
            returns answers in place of ours, unless it is None.

    Raises:
        ConfigError: An argument cannot be used.
    """

    def __init__(
        self,
        app: WSGIApplication,
        limiter: Limiter | str,
        *,
        stage: str,
        key: KeySource | KeyCallable | None = None,
        method: MethodCallable | str | None = None,
        preflight: Preflight = "check",
        charge_unmatched: bool = True,
        exempt: Iterable[str] = (),
        headers: Dialect = "ietf",
        on_denied: DenialCallable | None = None,
    ) -> None:
        self.app = app
        self._gate = Gate(
            stage=stage,
            key=key,
            preflight=preflight,
            charge_unmatched=charge_unmatched,
            exempt=exempt,
            headers=headers,
        )
        self._fixed_method = validation.method_name(method, "method") if isinstance(method, str) else None
        self._method = None if isinstance(method, str) else validate_blocking_function(method, "method")
        self._on_denied = validate_blocking_function(on_denied, "on_denied")
        self._enforcer = Enforcer(limiter, self._gate)
        self._start = OncePerProcess(partial(self._enforcer.start, START_TIMEOUT_S))
        if self._enforcer.is_owner:
            atexit.register(self._enforcer.close)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve a request."""
        if not self._start.is_done:
            self._start()
        method = self._fixed_method if self._method is None else self._called(self._method, environ)
        request = request_data(environ, environ)
        decision = environ[DECISION] = self._enforcer.decide(request, method)
        if decision is not EXEMPT:
            start_response = self._adding_fields(environ, decision, start_response)
        if decision.allowed:
            return self.app(environ, start_response)
        custom = self._custom_answer(environ, decision)
        if custom is not None:
            return custom(environ, start_response)
        return _send(self._gate.denial(decision, request.verb), start_response)

    def warm_up(self) -> None:
        """Warm the limiter up, and log what is wrong; raises nothing. Call it in each process, after its fork."""
        self._start()

    def close(self) -> None:
        """Close the limiter if it was made from a URL. Otherwise it is its owner's."""
        atexit.unregister(self._enforcer.close)
        self._enforcer.close()

    def _called(self, method: MethodCallable, environ: WSGIEnvironment) -> str | None:
        try:
            text = method(environ)
        except Exception as error:  # noqa: BLE001 - it reads what a client sent
            warn_of_error("method", error, "match no route")
            return None
        return text if isinstance(text, str) else None

    def _adding_fields(
        self, environ: WSGIEnvironment, decision: Decision, start_response: StartResponse
    ) -> StartResponse:
        def start_with_fields(status: str, headers: list[tuple[str, str]], exc_info: Any = None, /) -> Any:
            merged = _merged(self._gate, headers, decision, has_origin="HTTP_ORIGIN" in environ)
            return start_response(status, merged, exc_info) if exc_info else start_response(status, merged)

        return start_with_fields

    def _custom_answer(self, environ: WSGIEnvironment, decision: Decision) -> WSGIApplication | None:
        if self._on_denied is None:
            return None
        try:
            answer = self._on_denied(environ, decision)
        except Exception as error:  # noqa: BLE001 - the request is denied all the same
            warn_of_error("on_denied", error, "get the usual answer")
            return None
        return answer if callable(answer) else None


def request_data(environ: WSGIEnvironment, native: Any) -> RequestData:
    """Return a request in plain values; `native` is what a user's functions are called with."""
    return RequestData(
        environ["REQUEST_METHOD"].upper(),  # as frameworks read it
        partial(_values, environ),
        environ.get("QUERY_STRING", ""),
        environ.get("REMOTE_ADDR"),
        native,
    )


def _values(environ: WSGIEnvironment, name: str) -> tuple[str, ...]:
    """Return a field's value. Of a field that was sent twice, servers make one value with a comma in it."""
    value = environ.get(f"HTTP_{name.upper().replace('-', '_')}")
    return () if value is None else (value,)


def _merged(
    gate: Gate, present: Iterable[tuple[str, str]], decision: Decision, *, has_origin: bool
) -> list[tuple[str, str]]:
    """Return the fields of a response and those of a decision, each once: an application's own go first."""
    fields = gate.fields(decision)
    merged, exposed, names = [], [], set()
    for name, value in present:
        lower = name.lower()
        if has_origin and fields and lower == EXPOSE.lower():
            exposed.append(value)
        else:
            names.add(lower)
            merged.append((name, value))
    merged += [(name, value) for name, value in fields.items() if name.lower() not in names]
    if has_origin and fields:
        merged.append((EXPOSE, gate.exposed(", ".join(exposed))))
    return merged


def _send(answer: Answer, start_response: StartResponse) -> Iterable[bytes]:
    start_response(f"{answer.status} {HTTPStatus(answer.status).phrase}", list(answer.fields.items()))
    return [answer.body]
