"""Django: `RateLimitMiddleware` limits a project, as the setting RATELIMIT says; `request.ratelimit` is the decision.

    MIDDLEWARE = ["ratelimit.integrations.django.RateLimitMiddleware", ...]
    RATELIMIT = {"LIMITER": "redis://localhost:6379/0", "STAGE": "petstore/prod"}

Works under WSGI and ASGI, with views of functions and of classes, and those of Django REST framework.
"""

from __future__ import annotations

import asyncio
import atexit
import difflib
import logging
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, cached_property, lru_cache, partial
from inspect import isawaitable
from typing import Any, NamedTuple

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import URLResolver, get_resolver
from django.urls.resolvers import RegexPattern
from django.utils.http import escape_leading_slashes
from django.utils.module_loading import import_string
from django.views import View

from ratelimit import validation
from ratelimit.decision import Decision
from ratelimit.errors import ConfigError
from ratelimit.integrations.answers import EXPOSE
from ratelimit.integrations.callers import (
    address,
    bearer,
    header,
    query,
    validate_blocking_function,
    validate_function,
    warn_of_error,
    warn_once,
)
from ratelimit.integrations.enforcer import AsyncEnforcer, Enforcer
from ratelimit.integrations.gate import EXEMPT, Gate, method_of
from ratelimit.integrations.marks import UNMARKED, Marks, cost, exempt, marks_of
from ratelimit.integrations.once import OncePerProcess
from ratelimit.integrations.route_check import ANY_VERB
from ratelimit.integrations.wsgi import START_TIMEOUT_S, request_data
from ratelimit.limiter import AsyncLimiter, Limiter
from ratelimit.local import fork_safety
from ratelimit.validation import shown

__all__ = ["RateLimitMiddleware", "address", "bearer", "cost", "exempt", "header", "query", "routes"]

log = logging.getLogger("ratelimit")


_NAMES = ("LIMITER", "STAGE", "KEY", "PREFLIGHT", "CHARGE_UNMATCHED", "EXEMPT", "HEADERS", "ON_DENIED", "ENABLED")
_DOTTED = {
    "LIMITER": "write the dotted path of a Limiter, or the URL of a server, such as redis://localhost:6379/0",
    "KEY": "write the dotted path of a function of the request, or header('x-api-key'), bearer() and so on",
    "ON_DENIED": "write the dotted path of a function of a request and a decision",
}
"""What may be given as a dotted path, and what to do if it is none."""

_CORS = "corsheaders.middleware.CorsMiddleware"
_ARGUMENT = re.compile(r"<(?:[^<>:]*:)?([A-Za-z_][A-Za-z0-9_]*)>")
_REGEX_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\((?:\?P<(?P<name>\w+)>|\?)?|\{\d*,?\d*\}|.", re.DOTALL)
_ANCHORS_AND_QUANTIFIERS = {"^", "$", "?", "*", "+", r"\A", r"\Z", r"\b", r"\B"}
_REDIRECTS = {301, 302, 307, 308}


class RateLimitMiddleware:
    """Checks each request before its view is called, and adds the fields of the decision to each response.

    Put it first in MIDDLEWARE. A check comes after all middlewares have seen the request and before its body is read,
    so that functions of the request may look at `request.user`. What a middleware answers itself before a view is
    chosen, such as a redirect to https, is not limited. A request that matches no route is checked when that is known,
    and then answered as a denied one if it is.

    The method of a check is verb and template of the route, such as "GET /pets/{id}/" for `path("pets/<int:id>/")`;
    `routes` lists them. `@cost(5)` and `@exempt` mark views: functions, classes, methods of classes, actions.

    RATELIMIT is a dict. LIMITER, KEY and ON_DENIED may be given as dotted paths.

    Settings:
        LIMITER: The URL of a server: then each process makes a limiter of the kind that it needs, and closes a blocking
            one when it ends; an event loop has no hook for its end. Or a `Limiter`, which works everywhere, or an
            `AsyncLimiter`, which works under ASGI where all middlewares below are asynchronous. Their owner closes
            them.
        STAGE: The stage that the project is, "<api>/<stage>".
        KEY: Who a request comes from: `header("x-api-key")` by default, `query(...)`, `bearer(...)`, `address(...)`, or
            a function of the request that returns a key's value, an `Identity` or None. It may be asynchronous under
            ASGI.
        PREFLIGHT: "check": a CORS preflight that arrives here needs no key, and meets the stage's limit for unlisted
            methods and the account. "skip": it is not limited.
        CHARGE_UNMATCHED: Whether a request that matches no route is charged to its caller's plan. If not, it needs a
            key all the same, and meets the limits that all callers share.
        EXEMPT: Methods that are not limited, such as ["GET /health/"].
        HEADERS: The dialect of the fields: "ietf", "legacy", "openai" or "none"; see `Decision.headers`.
        ON_DENIED: Called with the request and the decision when a request is denied. The response that it returns is
            sent in place of ours, unless it is None. It may be asynchronous under ASGI.
        ENABLED: False: nothing is limited, as in tests.

    Raises:
        ImproperlyConfigured: A setting cannot be used. Neither a Redis that does not answer nor a stage that nobody has
            configured is one: the log says so at ERROR.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self._configuration = configuration()
        self._gate = self._configuration.gate
        self._is_async = iscoroutinefunction(get_response)
        self.process_view: Callable[..., Any]
        if self._is_async:
            markcoroutinefunction(self)
            self.process_view = self._check_view_async
            self._decide_async = self._configuration.decide_async
        else:
            self.process_view = self._check_view
            self._decide = self._configuration.decide
        self._warn_of_order()

    def __call__(self, request: HttpRequest) -> Any:
        """Serve a request; in an event loop, return an awaitable."""
        if self._is_async:
            return self._serve_async(request)
        response = self.get_response(request)
        if _matches_no_route(request, response):
            decision = request.ratelimit = self._decide(request, None)
            if not decision.allowed:
                response = self._denial(request, decision, self._custom(request, decision), response)
        return self._with_fields(request, response)

    async def _serve_async(self, request: HttpRequest) -> Any:
        response = await self.get_response(request)
        if _matches_no_route(request, response):
            decision = request.ratelimit = await self._decide_async(request, None)
            if not decision.allowed:
                response = self._denial(request, decision, await self._custom_async(request, decision), response)
        return self._with_fields(request, response)

    def _check_view(self, request: HttpRequest, *_: Any) -> Any:
        decision = request.ratelimit = self._decide(request, *route_of(request))
        return None if decision.allowed else self._denial(request, decision, self._custom(request, decision))

    async def _check_view_async(self, request: HttpRequest, *_: Any) -> Any:
        decision = request.ratelimit = await self._decide_async(request, *route_of(request))
        if decision.allowed:
            return None
        return self._denial(request, decision, await self._custom_async(request, decision))

    def _custom(self, request: HttpRequest, decision: Decision) -> Any:
        if self._configuration.on_denied is None:
            return None
        try:
            custom = self._configuration.on_denied(request, decision)
        except Exception as error:  # noqa: BLE001 - the request is denied all the same
            return _failed_on_denied(error)
        return custom if self._is_async else _response(custom)

    async def _custom_async(self, request: HttpRequest, decision: Decision) -> Any:
        custom = self._custom(request, decision)
        try:
            return _response(await custom if isawaitable(custom) else custom)
        except Exception as error:  # noqa: BLE001 - the request is denied all the same
            return _failed_on_denied(error)

    def _denial(self, request: HttpRequest, decision: Decision, custom: Any, replaced: Any = None) -> Any:
        response = custom
        if response is None:
            status, fields, body = self._gate.denial(decision, request.method)
            response = HttpResponse(body, status=status, headers=fields)
        if replaced is not None:  # what other middlewares have said about it holds for this one
            for name, value in replaced.items():
                if name.lower() == "vary" or name.lower().startswith("access-control-"):
                    response.setdefault(name, value)
        return response

    def _with_fields(self, request: HttpRequest, response: Any) -> Any:
        fields = self._gate.fields(getattr(request, "ratelimit", EXEMPT))
        for name, value in fields.items():
            response.setdefault(name, value)
        if fields and "HTTP_ORIGIN" in request.META:
            response[EXPOSE] = self._gate.exposed(response.get(EXPOSE, ""))
        return response

    def _warn_of_order(self) -> None:
        """Log what will not work as it should, in the order of the middlewares."""
        own = f"{type(self).__module__}.{type(self).__qualname__}"
        outside = settings.MIDDLEWARE[: settings.MIDDLEWARE.index(own)] if own in settings.MIDDLEWARE else []
        answering = [path for path in outside if hasattr(import_string(path), "process_view")]
        if answering:
            log.warning("what these middlewares deny is not limited, so put %s above them: %s", own, answering)
        names = getattr(settings, "CORS_EXPOSE_HEADERS", ())
        unexposed = self._gate.unexposed(names) if names and _CORS in outside else []
        if unexposed:
            log.warning("CORS_EXPOSE_HEADERS lacks what browsers should see: %s", unexposed)


class Configuration:
    """What the setting RATELIMIT says, and the limiter that does it.

    Attributes:
        gate: Says which check a request needs, and what is replied.
        on_denied: A user's function for requests that are denied, or None.
    """

    def __init__(self, setting: object) -> None:
        values = _validated(setting)
        names = ("STAGE", "KEY", "PREFLIGHT", "CHARGE_UNMATCHED", "EXEMPT", "HEADERS")
        arguments = {name.lower(): _imported(values, name) for name in names if name in values}
        with _naming_settings():
            self._is_on = validation.flag(values.get("ENABLED", True), "ENABLED")
            self.gate = Gate(**arguments)
            self.on_denied = validate_function(_imported(values, "ON_DENIED"), "ON_DENIED")
        self._limiter = _imported(values, "LIMITER")

    @cached_property
    def decide(self) -> Callable[..., Decision]:
        """A function for blocking code: decides a request, by its method and the marks on its view."""
        if not self._is_on:
            return lambda *_: EXEMPT
        with _naming_settings():
            validate_blocking_function(self.on_denied, "ON_DENIED")
            enforcer = Enforcer(self._limiter_of(Limiter.from_url), self.gate)
        start = OncePerProcess(partial(enforcer.start, START_TIMEOUT_S))

        def decide(request: HttpRequest, method: str | None, marks: Marks = UNMARKED) -> Decision:
            if not start.is_done:
                start()
            return enforcer.decide(request_data(request.META, request), method, marks)

        return decide

    @cached_property
    def decide_async(self) -> Callable[..., Awaitable[Decision]]:
        """The twin of `decide` for event loops."""
        if not self._is_on:

            async def let_through(*_: Any) -> Decision:
                return EXEMPT

            return let_through
        with _naming_settings():
            enforcer = AsyncEnforcer(self._limiter_of(AsyncLimiter.from_url), self.gate)
        start = _OncePerLoop(partial(enforcer.start, START_TIMEOUT_S))

        async def decide(request: HttpRequest, method: str | None, marks: Marks = UNMARKED) -> Decision:
            if not start.is_done:
                await start()
            return await enforcer.decide(request_data(request.META, request), method, marks)

        return decide

    def _limiter_of(self, from_url: Callable[[str], Any]) -> Any:
        return _limiter_of_url(self._limiter, from_url) if isinstance(self._limiter, str) else self._limiter


@cache
def configuration() -> Configuration:
    """Return what the settings say.

    Raises:
        ImproperlyConfigured: They cannot be used.
    """
    return Configuration(getattr(settings, "RATELIMIT", None))


def _forget_setting(*, setting: str, **_: Any) -> None:
    if setting == "RATELIMIT":
        configuration.cache_clear()


setting_changed.connect(_forget_setting)  # by tests, with `override_settings`


@cache
def _limiter_of_url(url: str, from_url: Callable[[str], Any]) -> Any:
    """Return the one limiter of a server in this process: each `Client` of a test has middlewares of its own."""
    try:
        limiter = from_url(url)
    except ConfigError as error:
        raise ConfigError(f"cannot be used: {error}", field="LIMITER") from None
    if isinstance(limiter, Limiter):
        atexit.register(limiter.close)
    return limiter


class _OncePerLoop:
    """Calls an asynchronous function once in each event loop; whoever comes meanwhile waits for it.

    Attributes:
        is_done: Whether that has been done in a loop of this process.
    """

    def __init__(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._function = function
        self.reset_after_fork()
        fork_safety.register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Call it again: a child has the parent's memory, but none of its connections."""
        self.is_done = False
        self._task: asyncio.Task[None] | None = None

    async def __call__(self) -> None:
        """Call the function if that has not been done."""
        loop = asyncio.get_running_loop()
        task = self._task
        if task is None or task.get_loop() is not loop:
            task = self._task = loop.create_task(self._function())
        await asyncio.shield(task)  # whose caller goes away does not end it for the others
        self.is_done = True


def route_of(request: HttpRequest) -> tuple[str | None, Marks]:
    """Return the method of a request and the marks on its view; see `Gate.plan`."""
    match, verb = request.resolver_match, request.method
    if match is None:  # of a test that calls a view by itself
        return None, UNMARKED
    try:
        endpoint = _endpoint(match.func, verb)
    except TypeError:  # a view that cannot be hashed
        endpoint = _endpoint.__wrapped__(match.func, verb)
    if not endpoint.takes_verb:
        return None, endpoint.marks
    urlconf = getattr(request, "urlconf", None) or settings.ROOT_URLCONF
    return method_of(verb, template(match.route, urlconf)), endpoint.marks


@lru_cache(4096)
def template(route: str, urlconf: Any) -> str:
    """Return the template of a route as plans list it: "/pets/{id}/" of "pets/<int:id>/" or of a regex.

    A group without a name is "{var}", and a group that captures nothing is left out.

    Args:
        route: As a match has it: all parts in one text, which does not say which of them are regexes.
        urlconf: Where it is from.
    """
    return _templates(urlconf).get(route) or _guessed(route)


@lru_cache(64)
def _templates(urlconf: Any) -> dict[str, str]:
    return {route: path_template for route, path_template, _ in _routes_below(get_resolver(urlconf))}


def _guessed(route: str) -> str:
    """Return the template of a route that is not found, as of one whose parts are translated."""
    if any(character in route for character in "(^$\\"):
        route = _without_regex(route)
    return "/" + _ARGUMENT.sub(r"{\1}", route).lstrip("/")


def _without_regex(route: str) -> str:
    """Return a route without what makes it a regex.

    Django has `simplify_regex` for its documentation, which is wrong about two groups without a name.
    """
    parts, depth = [], 0
    for token in _REGEX_TOKEN.finditer(route):
        text = token[0]
        if text == ")":
            depth -= 1
        elif text.startswith("("):
            if not depth and text != "(?":
                parts.append(f"{{{token['name'] or 'var'}}}")
            depth += 1
        elif depth or text in _ANCHORS_AND_QUANTIFIERS or (text[0] == "{" and text != "{"):
            continue
        else:
            is_escaped = text[0] == "\\" and not text[1].isalnum()
            parts.append(text[1] if is_escaped else text)
    return "".join(parts)


class _Endpoint(NamedTuple):
    """What is known of a view and a verb."""

    takes_verb: bool
    marks: Marks


@lru_cache(1024)
def _endpoint(view: Any, verb: str) -> _Endpoint:
    view_class = _class_of(view)
    if view_class is None:
        return _Endpoint(takes_verb=True, marks=marks_of(view))
    handler = _handler(view, view_class, verb)
    return _Endpoint(
        takes_verb=handler is not None or _dispatches_itself(view_class),
        marks=marks_of(handler, *_within_api_view(handler), view, view_class),
    )


def _class_of(view: Any) -> Any:
    """Return the class that a view was made of; None for a function."""
    view_class = getattr(view, "view_class", None) or getattr(view, "cls", None)  # the latter of REST framework
    return view_class if isinstance(view_class, type) and issubclass(view_class, View) else None


def _handler(view: Any, view_class: Any, verb: str) -> Any:
    """Return the function of a view's class that answers a verb; None if there is none."""
    keywords = getattr(view, "view_initkwargs", None) or getattr(view, "initkwargs", None) or {}
    name = verb.lower()
    if name not in keywords.get("http_method_names", view_class.http_method_names):
        return None
    actions = getattr(view, "actions", None)  # of a viewset: the names of its functions, by verb
    if actions and name != "options":
        name = actions.get(name) or actions.get("get" if name == "head" else "", "")
    handler = getattr(view_class, name, None) if name else None
    return getattr(view_class, "get", None) if handler is None and name == "head" else handler


def _dispatches_itself(view_class: Any) -> bool:
    """Return whether a class has its own way from a verb to a function, so that nobody else knows which it takes."""
    return view_class.dispatch.__module__ not in {"django.views.generic.base", "rest_framework.views"}


def _within_api_view(handler: Any) -> Iterator[Any]:
    """Yield the function below `@api_view`, which keeps none of its attributes."""
    if getattr(handler, "__qualname__", "").startswith("api_view.<locals>"):
        yield from (cell.cell_contents for cell in handler.__closure__ or ())


def routes(urlconf: str | None = None) -> Iterator[tuple[str, str]]:
    """Yield verb and template of all that a project answers, as a check gets them.

    Args:
        urlconf: A module with `urlpatterns`; ROOT_URLCONF by default.
    """
    for _, path_template, view in _routes_below(get_resolver(urlconf)):
        yield from ((verb, path_template) for verb in _verbs(view))


def _routes_below(
    resolver: URLResolver, route: str = "", path_template: str = "", above: tuple[Any, ...] = ()
) -> Iterator[tuple[str, str, Any]]:
    """Yield route, template and view of all that is below a resolver; one that includes itself is not entered again."""
    above = (*above, resolver.urlconf_module)
    for entry in resolver.url_patterns:
        part = str(entry.pattern)
        is_regex = isinstance(entry.pattern, RegexPattern)
        joined = route + part.removeprefix("^") if route else part  # as Django joins them
        shown_part = _without_regex(part) if is_regex else _ARGUMENT.sub(r"{\1}", part)
        if not isinstance(entry, URLResolver):
            yield joined, "/" + (path_template + shown_part).lstrip("/"), entry.callback
        elif not any(entry.urlconf_module is each for each in above):
            yield from _routes_below(entry, joined, path_template + shown_part, above)


def _verbs(view: Any) -> Iterator[str]:
    view_class = _class_of(view)
    if view_class is None or _dispatches_itself(view_class):
        yield ANY_VERB
        return
    verbs = (name.upper() for name in View.http_method_names)
    yield from (verb for verb in verbs if _handler(view, view_class, verb) is not None)


def _matches_no_route(request: HttpRequest, response: Any) -> bool:
    """Return whether a response says that a request matches no route: 404, or a redirect that adds a slash."""
    if request.resolver_match is not None:
        return False
    if response.status_code in _REDIRECTS and not request.path_info.endswith("/"):
        with_slash = escape_leading_slashes(request.get_full_path(force_append_slash=True))
        return bool(response.get("Location") == with_slash)
    return bool(response.status_code == 404)


def _response(custom: Any) -> Any:
    """Return what ON_DENIED has returned, if it is a response."""
    if custom is None or isinstance(custom, HttpResponseBase):
        return custom
    kind = type(custom).__name__
    warn_once(f"ON_DENIED: returned a {kind}, and no response of Django: such requests get the usual answer")
    return None


def _failed_on_denied(error: Exception) -> None:
    warn_of_error("ON_DENIED", error, "get the usual answer")


def _validated(setting: object) -> Mapping[str, Any]:
    example = 'RATELIMIT = {"LIMITER": "redis://localhost:6379/0", "STAGE": "petstore/prod"}'
    if setting is None:
        raise ImproperlyConfigured(f"the setting RATELIMIT is missing: write {example}")
    if not isinstance(setting, Mapping):
        raise ImproperlyConfigured(f"RATELIMIT must be a dict, not {type(setting).__name__}: write {example}")
    for name in setting:
        if name not in _NAMES:
            close = difflib.get_close_matches(str(name).upper(), _NAMES, 1)
            remedy = f"did you mean {close[0]}?" if close else f"there are {', '.join(_NAMES)}"
            raise ImproperlyConfigured(f"RATELIMIT[{shown(name)}] is no setting: {remedy}")
    for name in ("LIMITER", "STAGE"):
        if setting.get(name) is None:
            raise ImproperlyConfigured(f'RATELIMIT["{name}"] is missing: write {example}')
    return setting


def _imported(values: Mapping[str, Any], name: str) -> Any:
    """Return a setting, imported where it is a dotted path."""
    value = values.get(name)
    if name not in _DOTTED or not isinstance(value, str) or "://" in value:
        return value
    try:
        return import_string(value)
    except ImportError as error:
        problem = f'RATELIMIT["{name}"] cannot be imported: {validation.without_values(str(error))}'
        raise ImproperlyConfigured(f"{problem}: {_DOTTED[name]}") from error


@contextmanager
def _naming_settings() -> Iterator[None]:
    """Say of an argument that cannot be used in which setting it is."""
    try:
        yield
    except ConfigError as error:
        raise ImproperlyConfigured(f'RATELIMIT["{error.field.upper()}"] {error.problem}') from None
