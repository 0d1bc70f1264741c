"""FastAPI: `install(app, limiter, stage=...)` limits an application; `RateLimit` is a dependency for some routes.

What is not a dependency is the same as for Starlette, in asgi.py.
"""

from typing import Any

from fastapi import Response
from starlette.exceptions import HTTPException, WebSocketException
from starlette.requests import HTTPConnection

from ratelimit.decision import Decision
from ratelimit.errors import ConfigError
from ratelimit.headers import Dialect
from ratelimit.integrations import asgi
from ratelimit.integrations.answers import EXPOSE, Answer
from ratelimit.integrations.asgi import RateLimitFields, RateLimitMiddleware, decision, install
from ratelimit.integrations.callers import KeyCallable, KeySource, address, bearer, header, query
from ratelimit.integrations.enforcer import AsyncEnforcer
from ratelimit.integrations.gate import Gate, method_of
from ratelimit.integrations.marks import cost, exempt
from ratelimit.integrations.starlette_routes import Resolver
from ratelimit.limiter import AsyncLimiter, Limiter

__all__ = [
    "DeniedRequest",
    "RateLimit",
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


class DeniedRequest(HTTPException):
    """A request that the dependency denied. Answered with problem+json, unless the application handles it otherwise.

    Attributes:
        decision: Why.
        answer: The response.
    """

    def __init__(self, made: Decision, answer: Answer) -> None:
        fields = {name: value for name, value in answer.fields.items() if not name.startswith("Content-")}
        super().__init__(answer.status, headers=fields)
        self.decision, self.answer = made, answer


class RateLimit:
    """A dependency that checks a request, and returns its decision: `Depends(RateLimit(limiter, stage=...))`.

    For applications of which some routes are limited: `install` limits all of them, and sees more. A dependency runs
    after the body was read and parsed, and not at all for 404, 405, malformed JSON, and what is mounted. Its fields are
    lost on responses that a route returns itself, unless `RateLimitFields` is around the application. In a mounted
    application, methods are as it knows them, without the mount's path.

    Args:
        limiter: An `AsyncLimiter`, or a `Limiter`, which then works in threads; its owner closes it.
        stage: The stage that these routes are, "<api>/<stage>".
        key: Who a request comes from; see `RateLimitMiddleware`.
        headers: The dialect of the fields.

    Raises:
        ConfigError: An argument cannot be used.
    """

    def __init__(
        self,
        limiter: AsyncLimiter | Limiter,
        *,
        stage: str,
        key: KeySource | KeyCallable | None = None,
        headers: Dialect = "ietf",
    ) -> None:
        if isinstance(limiter, str):
            raise ConfigError("cannot be a URL here: make a limiter, and close it in the lifespan", field="limiter")
        self._gate = Gate(stage=stage, key=asgi.of_scope(key), headers=headers)
        self._enforcer = AsyncEnforcer(limiter, self._gate)
        self._resolvers: dict[Any, Resolver] = {}

    async def __call__(self, connection: HTTPConnection, response: Response) -> Decision:
        """Return the decision about a request.

        Raises:
            DeniedRequest: It is denied.
            WebSocketException: So is a websocket, and the server has no response for it but to close it.
        """
        scope = connection.scope
        app = scope["app"]
        if app not in self._resolvers:
            self._resolvers[app] = Resolver(app)
        route = self._resolvers[app](scope)
        request = asgi.request_data(scope)
        if route is None:  # it is called, so there is one: of a kind that only it knows
            made = await self._enforcer.decide(request, None)
        else:
            made = await self._enforcer.decide(request, method_of(request.verb, route.template), route.marks)
        asgi.put_decision(scope, made)
        if not made.allowed:
            raise self._denial(made, scope)
        if not asgi.has_fields_outside(scope) and (fields := self._gate.fields(made)):
            response.headers.update(fields)
            if request.header("origin"):
                response.headers[EXPOSE] = self._gate.exposed()
        return made

    def _denial(self, made: Decision, scope: Any) -> Exception:
        is_websocket = scope["type"] == "websocket"
        if is_websocket and not asgi.can_answer_websocket(scope):
            closed: Exception = WebSocketException(asgi.POLICY_VIOLATION)
            return closed
        handlers = scope.get("starlette.exception_handlers")
        if handlers:
            handlers[0].setdefault(DeniedRequest, _answer)
        return DeniedRequest(made, self._gate.denial(made, "GET" if is_websocket else scope["method"]))


def _answer(_connection: HTTPConnection, error: Exception) -> Response:
    """Answer a request that was denied, as Starlette's handlers of exceptions do."""
    assert isinstance(error, DeniedRequest)  # noqa: S101 - it is registered for that
    status, fields, body = error.answer
    return Response(body, status, fields)
