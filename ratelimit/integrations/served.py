"""What an application serves, whatever framework it is of: its routes, and the adapters that limit it.

A framework is imported only if an application of it is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ratelimit.errors import ConfigError
from ratelimit.integrations.gate import Gate
from ratelimit.integrations.route_check import Route
from ratelimit.integrations.unwrapping import unwrapped


class ServedApp(NamedTuple):
    """An application, as far as limits go.

    Attributes:
        routes: Verb and template of all its routes.
        gates: Of the adapters that limit it: they name a stage, and perhaps a plan. What is mounted is not looked into.
    """

    routes: frozenset[Route]
    gates: tuple[Gate, ...]


def served_app(app: Any) -> ServedApp:
    """Return what an application of Starlette, FastAPI, Flask or Django serves; it may be wrapped in middlewares.

    Raises:
        ConfigError: It is of another framework, or none.
    """
    gates: list[Gate] = []
    for wrapper in unwrapped(app):
        gates += _gates_of(wrapper)
        if (read := _reader(wrapper)) is not None:
            routes, further = read(wrapper)
            # A middleware may be met twice: around the application, and within it.
            return ServedApp(frozenset(routes), tuple({id(gate): gate for gate in (*gates, *further)}.values()))
    frameworks = "Starlette, FastAPI, Flask and Django"
    raise ConfigError(f"is a {type(app).__name__}: routes are known of applications of {frameworks}", field="app")


def _gates_of(adapter: Any) -> list[Gate]:
    gate = getattr(adapter, "_gate", None)
    return [gate] if isinstance(gate, Gate) else []


_Read = tuple[list[Route], list[Gate]]


def _starlette(app: Any) -> _Read:
    from ratelimit.integrations.starlette_routes import _flattened, routes_of  # noqa: PLC0415 - where it is installed

    dependants = (getattr(route, "dependant", None) for route in _flattened(app.routes))
    gates = [gate for dependant in dependants for gate in _gates_of_dependencies(dependant)]
    if hasattr(app, "build_middleware_stack"):
        for wrapper in unwrapped(app.middleware_stack or app.build_middleware_stack()):
            gates += _gates_of(wrapper)
    return list(routes_of(app)), gates


def _gates_of_dependencies(dependant: Any) -> Iterator[Gate]:
    """Yield the gates among the dependencies of a route of FastAPI, at any depth."""
    for dependency in getattr(dependant, "dependencies", ()):
        yield from _gates_of(dependency.call)
        yield from _gates_of_dependencies(dependency)


def _flask(app: Any) -> _Read:
    from ratelimit.integrations import flask  # noqa: PLC0415

    enforcer = getattr(app.extensions.get("ratelimit"), "_enforcer", None)
    gates = [] if enforcer is None else [enforcer.gate]
    for wrapper in unwrapped(app.wsgi_app):
        gates += _gates_of(wrapper)
    return list(flask.routes(app)), gates


def _django(_app: Any) -> _Read:
    from django.conf import settings  # noqa: PLC0415

    from ratelimit.integrations import django  # noqa: PLC0415

    gates = [django.configuration().gate] if getattr(settings, "RATELIMIT", None) is not None else []
    return list(django.routes()), gates


_READERS: dict[str, Callable[[Any], _Read]] = {
    "starlette": _starlette,
    "fastapi": _starlette,
    "flask": _flask,
    "django": _django,
}
"""By the package that an application's class, or one that it is derived from, is of."""


def _reader(app: Any) -> Callable[[Any], _Read] | None:
    for kind in type(app).__mro__:
        reader = _READERS.get(kind.__module__.partition(".")[0])
        if reader is not None and (reader is not _starlette or isinstance(getattr(app, "routes", None), list)):
            return reader
    return None
