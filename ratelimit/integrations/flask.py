"""Flask: `RateLimit(app, limiter, stage="petstore/prod")` limits an application; `flask.g.ratelimit` has the decision.

Hooks of Flask check each request before the application's own code, and add the fields to whatever it answers.
"""

from __future__ import annotations

import atexit
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple, cast

from flask import Flask, Request, Response, g, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Rule

from ratelimit import validation
from ratelimit.decision import Decision
from ratelimit.errors import ConfigError
from ratelimit.headers import Dialect
from ratelimit.integrations.answers import EXPOSE
from ratelimit.integrations.callers import (
    KeyCallable,
    KeySource,
    address,
    bearer,
    header,
    query,
    validate_blocking_function,
    warn_of_error,
)
from ratelimit.integrations.enforcer import Enforcer
from ratelimit.integrations.gate import EXEMPT, Gate, Preflight, method_of
from ratelimit.integrations.marks import Marks, cost, exempt, marks_of
from ratelimit.integrations.once import OncePerProcess
from ratelimit.integrations.route_check import ANY_VERB
from ratelimit.integrations.wsgi import DECISION, START_TIMEOUT_S, request_data
from ratelimit.limiter import Limiter

__all__ = ["AppRateLimit", "RateLimit", "address", "bearer", "cost", "exempt", "header", "query", "routes"]

log = logging.getLogger("ratelimit")

DenialCallable = Callable[[Request, Decision], Any]
"""Called for each request that is denied; returns what a view may return, or None."""

_ARGUMENT = re.compile(r"<(?:[^<>:]*(?:\([^<>]*\))?:)?([a-zA-Z_][a-zA-Z0-9_]*)>")
"""An argument in a rule: `<id>`, `<int:id>`, `<any(a,b):id>`."""


_MAX_SHOWN = 5


class RateLimit:
    """Limits Flask applications: checks each request first of all, and adds the fields to each response.

    `RateLimit(app, limiter, stage=...)`, or `RateLimit(...)` and later `init_app(app)`. A request is checked before the
    hooks and views of the application, whatever was registered first; what it answers to a request that is denied,
    `after_request` functions see, such as those of Flask-CORS. `flask.g.ratelimit` is the decision.

    The method of a check is verb and template of the rule, such as "GET /pets/{id}" for `/pets/<int:id>`, with the
    prefixes of blueprints. `@cost(5)` and `@exempt` mark views, or blueprints: `exempt(blueprint)`. Marks of a view go
    before those of its blueprint.

    The first request of each process warms the limiter up; `app.extensions["ratelimit"].warm_up()` does so before, as
    from gunicorn's `post_worker_init`.

    Of the configuration it reads RATELIMIT_URL, RATELIMIT_STAGE and RATELIMIT_HEADERS, for what is no argument, and
    RATELIMIT_ENABLED: if that is False, no request is limited.

    Args:
        app: The application; None to call `init_app` later.
        limiter: A `Limiter`, also for asynchronous views; its owner closes it. Or the URL of a server: then each
            application has a limiter of its own, closed when the process ends.
        stage: The stage that the application is, "<api>/<stage>".
        key: Who a request comes from: `header("x-api-key")` by default, `query(...)`, `bearer(...)`, `address(...)`, or
            a function of the request that returns a key's value, an `Identity` or None.
        preflight: "check": a CORS preflight needs no key, and meets the stage's limit for unlisted methods and the
            account. "skip": it is not limited.
        charge_unmatched: Whether a request that matches no rule (404, 405) is charged to its caller's plan. If not, it
            needs a key all the same, and meets the limits that all callers share.
        exempt: Methods that are not limited, such as "GET /static/{filename}".
        headers: The dialect of the fields: "ietf", "legacy", "openai" or "none"; see `Decision.headers`.
        on_denied: Called with the request and the decision when a request is denied. What it returns, as a view may, is
            the response in place of ours, unless it is None. It may call `flask.abort`, for the application's own
            handlers of errors.

    Raises:
        ConfigError: An argument cannot be used.
    """

    def __init__(
        self,
        app: Flask | None = None,
        limiter: Limiter | str | None = None,
        *,
        stage: str | None = None,
        key: KeySource | KeyCallable | None = None,
        preflight: Preflight = "check",
        charge_unmatched: bool = True,
        exempt: Iterable[str] = (),
        headers: Dialect | None = None,
        on_denied: DenialCallable | None = None,
    ) -> None:
        self._limiter, self._stage, self._headers = limiter, stage, headers
        self._on_denied = validate_blocking_function(on_denied, "on_denied")
        self._gate = partial(
            Gate,
            key=key,
            preflight=preflight,
            charge_unmatched=charge_unmatched,
            exempt=exempt,
        )
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask, limiter: Limiter | str | None = None, *, stage: str | None = None) -> None:
        """Limit an application.

        Args:
            app: The application.
            limiter: As for `RateLimit`; None for that one, or for one with the application's RATELIMIT_URL.
            stage: As for `RateLimit`; None for that one, or for the application's RATELIMIT_STAGE.

        Raises:
            ConfigError: An argument or a value of the configuration cannot be used, or the application is limited
                already.
        """
        if "ratelimit" in app.extensions:
            raise ConfigError("has rate limits already: call RateLimit(app) or init_app(app) once", field="app")
        if not validation.flag(app.config.get("RATELIMIT_ENABLED", True), "RATELIMIT_ENABLED"):
            app.extensions["ratelimit"] = _NotLimited(app)
            return
        limiter = _given("limiter", limiter or self._limiter, app, "RATELIMIT_URL")
        gate = self._gate(
            stage=_given("stage", stage or self._stage, app, "RATELIMIT_STAGE"),
            headers=self._headers or app.config.get("RATELIMIT_HEADERS", "ietf"),
        )
        app.extensions["ratelimit"] = AppRateLimit(app, Enforcer(limiter, gate), self._on_denied)


class _NotLimited:
    """In place of `AppRateLimit` where RATELIMIT_ENABLED is False."""

    def __init__(self, app: Flask) -> None:
        app.before_request_funcs.setdefault(None, []).insert(0, self._before_request)

    def warm_up(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    @staticmethod
    def _before_request() -> None:
        g.ratelimit = EXEMPT


class _Route(NamedTuple):
    """What is known of a rule and a verb."""

    view: Any
    method: str | None
    marks: Marks


class AppRateLimit:
    """The limits of one application, `app.extensions["ratelimit"]`. Made by `RateLimit`.

    Attributes:
        limiter: Decides.
    """

    def __init__(self, app: Flask, enforcer: Enforcer, on_denied: DenialCallable | None) -> None:
        self.limiter: Limiter = enforcer.limiter
        self._app, self._enforcer, self._on_denied = app, enforcer, on_denied
        self._routes: dict[tuple[str, str, str], _Route] = {}
        self._start = OncePerProcess(self._start_now)
        # Run first, and last: hooks run in their order before a request, in the reverse order after it.
        app.before_request_funcs.setdefault(None, []).insert(0, self._before_request)
        app.after_request_funcs.setdefault(None, []).insert(0, self._after_request)
        if enforcer.is_owner:
            atexit.register(enforcer.close)

    def warm_up(self) -> None:
        """Warm the limiter up, and log what is wrong; raises nothing. Call it in each process, after its fork."""
        self._start()

    def close(self) -> None:
        """Close the limiter if it was made from a URL. Otherwise it is its owner's."""
        atexit.unregister(self._enforcer.close)
        self._enforcer.close()

    def _start_now(self) -> None:
        self._enforcer.start(START_TIMEOUT_S)
        names = [name for name, view in self._app.view_functions.items() if _has_cross_origin(view)]
        if names:
            shown = ", ".join(names[:_MAX_SHOWN]) + (", ..." if len(names) > _MAX_SHOWN else "")
            log.warning("@cross_origin does not reach a 429, which browsers then cannot read: use CORS(app): %s", shown)

    def _before_request(self) -> Any:
        if not self._start.is_done:
            self._start()
        current = _current_request()
        environ, rule = current.environ, current.url_rule
        data = request_data(environ, current)
        if rule is None:  # 404, 405, a redirect
            decision = self._enforcer.decide(data, None)
        else:
            route = self._route(rule, data.verb, current)
            decision = self._enforcer.decide(data, route.method, route.marks)
        # `g` is of a context that a test may share between requests.
        g.ratelimit = environ[DECISION] = decision
        return None if decision.allowed else self._denial(current, decision)

    def _after_request(self, response: Response) -> Response:
        environ = _current_request().environ
        decision = environ.get(DECISION)
        if decision is None or decision is EXEMPT:
            return response
        gate, headers = self._enforcer.gate, response.headers
        fields = gate.fields(decision)
        present = {name.lower() for name, _ in headers}
        for name, value in fields.items():
            if name.lower() not in present:
                headers.add(name, value)
        if fields and "HTTP_ORIGIN" in environ:
            headers[EXPOSE] = gate.exposed(", ".join(headers.getlist(EXPOSE)))
        return response

    def _route(self, rule: Rule, verb: str, current: Request) -> _Route:
        key = rule.endpoint, rule.rule, verb
        view = self._app.view_functions.get(rule.endpoint)
        route = self._routes.get(key)
        if route is None or route.view is not view:
            view_class = getattr(view, "view_class", None)
            names = ("head", "get") if verb == "HEAD" else (verb.lower(),)
            handlers = (getattr(view_class, name, None) for name in names)
            blueprints = (self._app.blueprints.get(name) for name in current.blueprints)
            marks = marks_of(*handlers, view, view_class, *blueprints)
            route = _Route(view, method_of(verb, template(rule.rule)), marks)
            if rule.methods and verb in rule.methods:  # clients can make up any number of others
                self._routes[key] = route
        return route

    def _denial(self, current: Request, decision: Decision) -> Any:
        if self._on_denied is not None:
            try:
                custom = self._on_denied(current, decision)
                if custom is not None:
                    response = self._app.make_response(custom)
                    if not isinstance(custom, tuple | Response):  # then it says no status
                        response.status_code = decision.status
                    return response
            except HTTPException:  # `flask.abort`
                raise
            except Exception as error:  # noqa: BLE001 - the request is denied all the same
                warn_of_error("on_denied", error, "get the usual answer")
        answer = self._enforcer.gate.denial(decision, "GET")  # the body of a HEAD is left out by Response
        return Response(answer.body, answer.status, answer.fields)


@lru_cache(4096)
def template(rule: str) -> str:
    """Return the template of a rule as plans list it: "/pets/{id}" of "/pets/<int:id>"."""
    return _ARGUMENT.sub(r"{\1}", rule)


def routes(app: Flask) -> Iterator[tuple[str, str]]:
    """Yield verb and template of all that an application answers, as a check gets them; "*" for a rule of all verbs."""
    for rule in app.url_map.iter_rules():
        if not (rule.build_only or rule.websocket):
            for verb in sorted(rule.methods or [ANY_VERB]):
                yield verb, template(rule.rule)


def _current_request() -> Request:
    """Return the request itself: each look at an attribute of Flask's proxy costs as much as all of a route's."""
    current: Request = cast(Any, request)._get_current_object()
    return current


def _given(field: str, argument: Any, app: Flask, name: str) -> Any:
    """Return an argument, or what the configuration has in its place."""
    value = app.config.get(name) if argument is None else argument
    if value is None:
        raise ConfigError(f"is missing: pass {field}=, or set {name} in the application's configuration", field=field)
    return value


def _has_cross_origin(view: Any) -> bool:
    """Return whether a view is wrapped in Flask-CORS's decorator."""
    while view is not None:
        if str(getattr(view, "__globals__", {}).get("__name__")).startswith("flask_cors"):
            return True
        view = getattr(view, "__wrapped__", None)
    return False
