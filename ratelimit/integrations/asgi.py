"""Starlette, and what is built on it: a middleware that checks each request before the application sees it.

`app.add_middleware(RateLimitMiddleware, limiter=limiter, stage=...)`; or `install(app, limiter, stage=...)`, which
chooses the place among other middlewares, and covers the 500 of an unhandled error as well.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from functools import lru_cache, partial
from inspect import isawaitable
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection

from ratelimit.decision import Decision
from ratelimit.errors import ConfigError
from ratelimit.headers import Dialect
from ratelimit.integrations import answers
from ratelimit.integrations.callers import (
    KeyCallable,
    KeySource,
    RequestData,
    address,
    bearer,
    header,
    query,
    validate_function,
    warn_of_error,
    warn_once,
)
from ratelimit.integrations.enforcer import AsyncEnforcer
from ratelimit.integrations.gate import EXEMPT, Gate, Preflight, method_of
from ratelimit.integrations.marks import UNMARKED, Marks, cost, exempt
from ratelimit.integrations.starlette_routes import Resolver, Scope, routed_app
from ratelimit.integrations.unwrapping import unwrapped
from ratelimit.limiter import AsyncLimiter, Limiter

__all__ = [
    "RateLimitFields",
    "RateLimitMiddleware",
    "address",
    "bearer",
    "cost",
    "decision",
    "exempt",
    "header",
    "install",
    "query",
]

log = logging.getLogger("ratelimit")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

MethodCallable = Callable[[HTTPConnection], str | None]
"""Returns the method of a request, such as "GET /pets/{id}", or None for one that matches no route."""

DenialCallable = Callable[[HTTPConnection, Decision], Any]
"""Called for each request that is denied; may be asynchronous. Returns a response of Starlette, or None."""

_DECISION = "ratelimit"
_HAS_FIELDS_OUTSIDE = "ratelimit.fields"
_STARTS = {"http.response.start", "websocket.accept", "websocket.http.response.start"}
_EXPOSE = answers.EXPOSE.lower().encode()
POLICY_VIOLATION = 1008  # of RFC 6455


class RateLimitMiddleware:
    """Checks each request and each websocket's handshake, and adds the fields of the decision to each response.

    A denied request is answered before its body is read. `request.state.ratelimit` has the decision. The routes are
    found as Starlette finds them: the method of a check is verb and template, such as "GET /v1/pets/{id}".

    Add CORSMiddleware after it, so that it is outside: the log warns at the start if it is not. What answers outside,
    as ServerErrorMiddleware does for unhandled errors, has no fields; with `install` it has.

    Args:
        app: The application.
        limiter: An `AsyncLimiter`, or a `Limiter`, which then works in threads; its owner closes it. Or the URL of a
            server: then the middleware makes a limiter, and closes it when the application has shut down.
        stage: The stage that the application is, "<api>/<stage>".
        key: Who a request comes from: `header("x-api-key")` by default, `query(...)`, `bearer(...)`, `address(...)`, or
            a function of the request (an `HTTPConnection`) that returns a key's value, an `Identity` or None. It may be
            asynchronous.
        method: A function of the request that returns its method, "GET /pets/{id}", or None for one that matches no
            route: for applications that are not Starlette's.
        preflight: "check": a CORS preflight that arrives here needs no key, and meets the stage's limit for unlisted
            methods and the account. "skip": it is not limited.
        charge_unmatched: Whether a request that matches no route (404, 405) is charged to its caller's plan and quota.
            If not, it needs a key all the same, and meets the limits that all callers share.
        exempt: Methods that are not limited, such as "GET /docs". The decorator `exempt` says so of a function.
        headers: The dialect of the fields: "ietf", "legacy", "openai" or "none"; see `Decision.headers`.
        on_denied: Called with the request and the decision when a request is denied. What it returns is the response
            in place of ours, unless it is None.

    Raises:
        ConfigError: An argument cannot be used.
    """

    def __init__(
        self,
        app: ASGIApp,
        limiter: AsyncLimiter | Limiter | str,
        *,
        stage: str,
        key: KeySource | KeyCallable | None = None,
        method: MethodCallable | None = None,
        preflight: Preflight = "check",
        charge_unmatched: bool = True,
        exempt: Iterable[str] = (),
        headers: Dialect = "ietf",
        on_denied: DenialCallable | None = None,
    ) -> None:
        self.app = app
        self._gate = Gate(
            stage=stage,
            key=of_scope(key),
            preflight=preflight,
            charge_unmatched=charge_unmatched,
            exempt=exempt,
            headers=headers,
        )
        self._method = validate_function(method, "method")
        self._on_denied = validate_function(on_denied, "on_denied")
        self._enforcer = AsyncEnforcer(limiter, self._gate)
        self._resolver: Resolver | None = None
        self._is_prepared = False

    def around(self, app: ASGIApp) -> RateLimitMiddleware:
        """Return this middleware, around another application: for `install`, which makes it before the others."""
        self.app = app
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, a websocket or the lifespan."""
        kind = scope["type"]
        if kind == "lifespan":
            await self._serve_lifespan(scope, receive, send)
        elif kind in {"http", "websocket"}:
            await self._serve(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._is_prepared:
            self._prepare(scope)
        request = request_data(scope)
        method, marks = self._route(scope, request.verb)
        decided = await self._enforcer.decide(request, method, marks)
        put_decision(scope, decided)
        if decided is not EXEMPT and not has_fields_outside(scope):
            send = _adding_fields(scope, send, self._gate.dialect)
        if decided.allowed:
            await self.app(scope, receive, send)
        else:
            await self._deny(decided, scope, receive, send)

    def _route(self, scope: Scope, verb: str) -> tuple[str | None, Marks]:
        route = self._resolver(scope) if self._resolver is not None else None
        marks = UNMARKED if route is None else route.marks
        if self._method is None:
            return (None if route is None else method_of(verb, route.template)), marks
        try:
            method = self._method(HTTPConnection(scope))
        except Exception as error:  # noqa: BLE001 - it reads what a client sent
            warn_of_error("method", error, "match no route")
            return None, marks
        return method if isinstance(method, str) else None, marks

    async def _deny(self, decided: Decision, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._custom_response(decided, scope)
        if scope["type"] == "websocket":
            await receive()  # "websocket.connect"
            if not can_answer_websocket(scope):
                await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": ""})
                return
        if response is not None:
            await response(scope, receive, send)
            return
        answer = self._gate.denial(decided, scope.get("method", "GET"))
        prefix = "websocket.http" if scope["type"] == "websocket" else "http"
        fields = [(_encoded(name), value.encode("latin-1")) for name, value in answer.fields.items()]
        await send({"type": f"{prefix}.response.start", "status": answer.status, "headers": fields})
        await send({"type": f"{prefix}.response.body", "body": answer.body})

    async def _custom_response(self, decided: Decision, scope: Scope) -> Any:
        if self._on_denied is None:
            return None
        try:
            result = self._on_denied(HTTPConnection(scope), decided)
            response = await result if isawaitable(result) else result
        except Exception as error:  # noqa: BLE001 - the request is denied all the same
            warn_of_error("on_denied", error, "get the usual answer")
            return None
        if response is not None and not callable(response):
            kind = type(response).__name__
            warn_once(f"on_denied: returned a {kind}, and no response of Starlette: such requests get the usual answer")
            return None
        return response

    async def _serve_lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Warm up after the application's own start, and close after its own end."""

        async def send_in_turn(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self._prepare(scope)
                await self._enforcer.start()
            else:  # it did not start, or has ended
                await self._enforcer.close()
            await send(message)

        await self.app(scope, receive, send_in_turn)

    def _prepare(self, scope: Scope) -> None:
        """Compile the routes, and log what will not work: once, with all middlewares in place."""
        if self._is_prepared:
            return
        self._is_prepared = True
        app = routed_app(self.app) or routed_app(scope.get("app"))
        if app is not None:
            self._resolver = Resolver(app)
            self._resolver.compile()
        elif self._method is None:
            log.error("no routes are found in the application, so no request matches a method: pass method=")
        if any(map(_is_cors, _middlewares_within(self.app))):
            remedy = "add it after RateLimitMiddleware (what is added last is outside), or use install()"
            log.warning("CORSMiddleware is inside of RateLimitMiddleware: browsers cannot read a 429; %s", remedy)
        elif not has_fields_outside(scope):
            for middleware in getattr(scope.get("app"), "user_middleware", ()):
                names = middleware.kwargs.get("expose_headers") if _is_cors(middleware.cls) else None
                if names and (unexposed := self._gate.unexposed(names)):
                    log.warning("expose_headers of CORSMiddleware lacks what browsers should see: %s", unexposed)


class RateLimitFields:
    """Adds the fields of the decision to all responses of the application that it is around, also to those of errors.

    For applications that are checked by `fastapi.RateLimit`; `install` uses it by itself.

    Args:
        app: The application.
        headers: The dialect of the fields.

    Raises:
        ConfigError: There is no such dialect.
    """

    def __init__(self, app: ASGIApp, headers: Dialect = "ietf") -> None:
        self.app = app
        self._dialect = answers.validate_dialect(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, a websocket or the lifespan."""
        scope[_HAS_FIELDS_OUTSIDE] = True
        if scope["type"] in {"http", "websocket"}:
            scope.setdefault("state", {})
            send = _adding_fields(scope, send, self._dialect)
        await self.app(scope, receive, send)


def install(
    app: Starlette,
    limiter: AsyncLimiter | Limiter | str,
    *,
    stage: str,
    key: KeySource | KeyCallable | None = None,
    method: MethodCallable | None = None,
    preflight: Preflight = "check",
    charge_unmatched: bool = True,
    exempt: Iterable[str] = (),
    headers: Dialect = "ietf",
    on_denied: DenialCallable | None = None,
) -> None:
    """Limit an application: put a `RateLimitMiddleware`, see there, in the right place, in whatever order it is called.

    That is inside of CORSMiddleware, and outside of all other middlewares. The 500 of an unhandled error has the fields
    as well.

    Args:
        app: A Starlette or FastAPI application that has not started.
        limiter: A limiter, or the URL of a server.
        stage: The stage that the application is.
        key: Who a request comes from.
        method: For applications that are not Starlette's.
        preflight: "check" or "skip".
        charge_unmatched: Whether 404 and 405 are charged to their caller's plan.
        exempt: Methods that are not limited.
        headers: The dialect of the fields.
        on_denied: Called when a request is denied.

    Raises:
        ConfigError: An argument cannot be used, or the application has started.
    """
    if app.middleware_stack is not None:
        raise ConfigError("has started: call install() where it is made", field="app")
    limited = RateLimitMiddleware(
        app,
        limiter,
        stage=stage,
        key=key,
        method=method,
        preflight=preflight,
        charge_unmatched=charge_unmatched,
        exempt=exempt,
        headers=headers,
        on_denied=on_denied,
    )
    build = app.build_middleware_stack

    def build_with_limits() -> Any:
        # In a list of its own: the stack may be built again, as by `ratelimit routes check`.
        middlewares, app.user_middleware = app.user_middleware, list(app.user_middleware)
        place = max((number for number, each in enumerate(middlewares, 1) if _is_cors(each.cls)), default=0)
        app.user_middleware.insert(place, Middleware(limited.around))
        try:
            return RateLimitFields(build(), headers)
        finally:
            app.user_middleware = middlewares

    setattr(app, "build_middleware_stack", build_with_limits)  # noqa: B010 - a method, to type checkers


def decision(connection: HTTPConnection) -> Decision:
    """Return the decision about a request; of one that is exempt, one that is allowed and has no limits.

    Raises:
        ConfigError: Nothing has checked it.
    """
    made = connection.scope.get("state", {}).get(_DECISION)
    if not isinstance(made, Decision):
        raise ConfigError(
            "has not been checked: add RateLimitMiddleware or install() to the application", field="request"
        )
    return made


def put_decision(scope: Scope, made: Decision) -> None:
    """Keep a decision as `request.state.ratelimit`."""
    scope.setdefault("state", {})[_DECISION] = made


def has_fields_outside(scope: Scope) -> bool:
    """Return whether `RateLimitFields` is around the application."""
    return _HAS_FIELDS_OUTSIDE in scope


def can_answer_websocket(scope: Scope) -> bool:
    """Return whether the server can answer a websocket that is denied with a response, and not only close it."""
    return "websocket.http.response" in (scope.get("extensions") or {})


def request_data(scope: Scope) -> RequestData:
    """Return a request in plain values."""
    client = scope.get("client")
    return RequestData(
        scope.get("method", "GET"),
        partial(_values, scope["headers"]),
        scope["query_string"].decode("latin-1"),
        client[0] if client else None,
        scope,
    )


def _values(fields: Iterable[tuple[bytes, bytes]], name: str) -> list[str]:
    sought = name.encode("latin-1")
    return [value.decode("latin-1") for field, value in fields if field == sought]


def _adding_fields(scope: Scope, send: Send, dialect: Dialect) -> Send:
    async def send_with_fields(message: Message) -> None:
        if message["type"] in _STARTS:
            made = scope["state"].get(_DECISION)
            fields = made.headers(dialect) if isinstance(made, Decision) else None
            if fields:
                has_origin = bool(_values(scope["headers"], "origin"))
                present = message.get("headers") or ()
                message = {**message, "headers": _merged(present, fields, dialect, has_origin=has_origin)}
        await send(message)

    return send_with_fields


def _merged(
    present: Iterable[tuple[bytes, bytes]], fields: dict[str, str], dialect: Dialect, *, has_origin: bool
) -> list[tuple[bytes, bytes]]:
    """Return the fields of a response and those of a decision, each once."""
    merged = list(present)
    names = {name.lower() for name, _ in merged}
    for field, text in fields.items():
        name = _encoded(field)
        if name not in names:
            merged.append((name, text.encode("latin-1")))
    if has_origin:
        exposed = [value.decode("latin-1") for name, value in merged if name.lower() == _EXPOSE]
        merged = [field for field in merged if field[0].lower() != _EXPOSE]
        merged.append((_EXPOSE, answers.exposed(dialect, ", ".join(exposed)).encode("latin-1")))
    return merged


@lru_cache(maxsize=64)
def _encoded(name: str) -> bytes:
    """Return the name of a field as ASGI has it."""
    return name.lower().encode()


def of_scope(key: Any) -> Any:
    """Return a user's function of a request as one of a scope: most requests need no object for it."""
    if key is None or isinstance(key, KeySource) or not callable(key):
        return key
    return lambda scope: key(HTTPConnection(scope))


def _middlewares_within(app: Any) -> Iterator[Any]:
    """Yield the classes of the middlewares that an application is wrapped in, and of those that it has itself."""
    for each in unwrapped(app):
        yield type(each)
        for middleware in getattr(each, "user_middleware", ()):
            yield middleware.cls


def _is_cors(kind: Any) -> bool:
    return "cors" in getattr(kind, "__name__", "").lower()
