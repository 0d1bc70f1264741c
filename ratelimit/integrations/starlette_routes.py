"""Which route of a Starlette or FastAPI application a request matches, before the application looks for it itself.

Starlette names the route only when it calls it, too late to deny a request, and FastAPI names a path without
the prefixes of included routers. So a `Resolver` matches by itself: it has all routes compiled into a tree by the
segments of their paths, whose leaves are a regular expression each, in the application's order.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any, NamedTuple

from starlette.convertors import FloatConvertor, IntegerConvertor, StringConvertor, UUIDConvertor
from starlette.routing import Host, Match, Mount, Route, WebSocketRoute

from ratelimit.integrations.marks import UNMARKED, Marks, marks_of
from ratelimit.integrations.route_check import ANY_VERB
from ratelimit.integrations.unwrapping import unwrapped

Scope = MutableMapping[str, Any]


_WEBSOCKET, _OTHERS = "a websocket", "another verb"
"""In the place of verbs; no client can send them, as they have blanks."""

_VERBS = {"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"}
"""What a class that answers requests may have a method for."""

_WITHIN_A_SEGMENT = {FloatConvertor, IntegerConvertor, StringConvertor, UUIDConvertor}
_PARAMETER = re.compile(r"{(\w+)}")
_NAMED_GROUP = re.compile(r"\(\?P<\w+>")
_REFERENCE = re.compile(r"\(\?P=|\\[1-9]|\(\?\(")
_MAX_LEAF = 8
_MAX_DEPTH = 6
_MAX_GROWTH = 4


class MatchedRoute(NamedTuple):
    """The route that a request matches.

    Attributes:
        template: The whole path with its parameters by name, such as "/v1/pets/{id}": prefixes of routers and mounts
            included, converters not.
        marks: Of the function or class that answers it.
    """

    template: str
    marks: Marks = UNMARKED


def routed_app(app: Any) -> Any:
    """Return the application with routes in or behind `app`, which may be wrapped in middlewares; None without one."""
    return next((each for each in unwrapped(app) if isinstance(getattr(each, "routes", None), list)), None)


class Resolver:
    """Finds the route that an application matches: what it answers 404, 405 or with a redirect matches none.

    A route that is added later is found, at the latest when a request matches none of those that were there.

    Args:
        app: An application or router of Starlette or FastAPI, as `routed_app` returns it.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._load()

    def __call__(self, scope: Scope) -> MatchedRoute | None:
        """Return the route that a request or a websocket's handshake matches; None for none."""
        root_path = getattr(self._app, "root_path", "")
        if root_path and scope.get("root_path") != root_path:
            scope = {**scope, "root_path": root_path}  # as FastAPI does when it is called
        route = self._find(scope)
        if route is None and self._state != self._current_state():
            self._load()
            route = self._find(scope)
        return route

    def compile(self) -> None:
        """Compile all routes, which the first request of each kind would do otherwise."""
        for verb in (*self._verbs, _OTHERS):
            self._tree(verb).compile()
        for entry in self._entries:
            if entry.has_app and (below := self._below(entry)) is not None:
                below.compile()

    def _load(self) -> None:
        self._routers = list(_routers(self._app, set()))
        self._state = self._current_state()
        plain = _plain_matches()
        self._entries = [_Entry(route, plain) for route in _flattened(self._app.routes)]
        self._verbs = _VERBS.union({_WEBSOCKET}, *(entry.methods or () for entry in self._entries))
        self._trees: dict[str, _Node] = {}
        self._resolvers: dict[_Entry, Resolver | None] = {}

    def _current_state(self) -> list[tuple[int, int]]:
        """Return what changes when a route is added: length and last route of each list of routes."""
        lists = [router.routes for router in self._routers]
        return [(len(routes), id(routes[-1]) if routes else 0) for routes in lists]

    def _find(self, scope: Scope) -> MatchedRoute | None:
        path = _route_path(scope)
        verb = _WEBSOCKET if scope["type"] == "websocket" else scope["method"]
        # Verbs come from clients: those that no route names share a tree.
        for match, entries in self._tree(verb if verb in self._verbs else _OTHERS).leaf(path).steps():
            if match is None:
                entry = entries[0]
                is_full, child_scope = entry.route.matches(scope)
                if is_full is Match.FULL:
                    return self._within(entry, {**scope, **child_scope})
            elif (matched := match(path)) is not None:
                group = matched.lastindex or 0
                entry = entries[group]
                if entry.answer is not None:
                    return entry.answer
                start, end = matched.span(group + entry.groups)  # of what remains, without its "/"
                root_path = scope.get("root_path", "") + path[: start - end - 1]
                return self._within(entry, {**scope, "root_path": root_path})
        return None

    def _tree(self, verb: str) -> _Node:
        tree = self._trees.get(verb)
        if tree is None:
            entries = [entry.of_verb(verb) for entry in self._entries if entry.takes(verb)]
            tree = self._trees[verb] = _Node(entries)
        return tree

    def _within(self, entry: _Entry, scope: Scope) -> MatchedRoute | None:
        """Return the route in what is mounted, with the mount's prefix."""
        if not entry.has_app:  # a route of a kind that only it knows
            template = getattr(entry.route, "path_format", None)
            return template and MatchedRoute(template, marks_of(getattr(entry.route, "endpoint", None)))
        below = self._below(entry)
        if below is None:  # files, or an application of another kind
            return MatchedRoute(f"{entry.prefix}/{{path}}", marks_of(entry.route.app))
        route = below(scope)
        return route and MatchedRoute(entry.prefix + route.template, route.marks)

    def _below(self, entry: _Entry) -> Resolver | None:
        if entry not in self._resolvers:
            app = routed_app(entry.route.app)
            self._resolvers[entry] = None if app is None else Resolver(app)
        return self._resolvers[entry]


def routes_of(app: Any) -> Iterator[tuple[str, str]]:
    """Yield (verb, template) of all routes of an application, those that are mounted included.

    They are as requests are resolved to them. The verb is "*" for a route that takes all, "GET" for a websocket.
    """
    routed = routed_app(app)
    plain = _plain_matches()
    for route in _flattened(routed.routes) if routed is not None else ():
        entry = _Entry(route, plain)
        if not entry.has_app:
            verbs = ["GET"] if entry.is_websocket else sorted(entry.methods or [ANY_VERB])
            template = getattr(route, "path_format", None)
            yield from ((verb, template) for verb in verbs if template is not None)
        elif routed_app(route.app) is None:
            yield ANY_VERB, f"{entry.prefix}/{{path}}"
        else:
            yield from ((verb, entry.prefix + template) for verb, template in routes_of(route.app))


class _Entry:
    """One route of an application.

    Attributes:
        route: The route, with the prefixes of the routers that include it.
        methods: The verbs that it takes; None for all.
        is_websocket: Whether it takes websockets, and no requests.
        has_app: Whether it is a mount or a host, behind which there is an application.
        prefix: The path of a mount.
        segments: Of its path: texts, or None for one with a parameter; up to one that may match several, if any.
        pattern: Its regular expression, without names, which repeat between routes. None if only the route itself
            knows what it matches.
        groups: How many groups the expression has.
        answer: What is returned where the pattern matches; None if there is more to be asked.
    """

    __slots__ = ("answer", "groups", "has_app", "is_websocket", "methods", "pattern", "prefix", "route", "segments")

    def __init__(self, route: Any, plain: set[Any]) -> None:
        kind = type(getattr(route, "original_route", route))
        self.route = route
        self.methods: frozenset[str] | None = frozenset(getattr(route, "methods", None) or ()) or None
        self.is_websocket = issubclass(kind, WebSocketRoute)
        self.has_app = issubclass(kind, Mount | Host)
        self.prefix: str = route.path_format.removesuffix("/{path}") if issubclass(kind, Mount) else ""
        self.segments: tuple[str | None, ...] = ()
        self.groups = 0
        self.pattern: str | None = None
        self.answer: MatchedRoute | None = None
        is_plain = kind.matches in plain
        if (is_plain or kind.matches is Mount.matches) and not _REFERENCE.search(route.path_regex.pattern):
            self.segments = tuple(_segments(route))
            self.groups = route.path_regex.groups
            self.pattern = _NAMED_GROUP.sub("(", route.path_regex.pattern)
            if is_plain:
                self.answer = MatchedRoute(route.path_format, marks_of(route.endpoint))

    def takes(self, verb: str) -> bool:
        """Return whether a request of this verb can match the route in full."""
        if self.pattern is None or self.has_app:
            return True
        if self.is_websocket or verb == _WEBSOCKET:
            return self.is_websocket and verb == _WEBSOCKET
        return self.methods is None or verb in self.methods

    def of_verb(self, verb: str) -> _Entry:
        """Return the route with the marks for a verb: a class that answers requests has a method for each."""
        endpoint = getattr(self.route, "endpoint", None)
        if self.answer is None or not inspect.isclass(endpoint) or verb in (_WEBSOCKET, _OTHERS):
            return self
        name = "get" if verb == "HEAD" and not hasattr(endpoint, "head") else verb.lower()
        entry = object.__new__(_Entry)
        for slot in self.__slots__:
            setattr(entry, slot, getattr(self, slot))
        entry.answer = self.answer._replace(marks=marks_of(getattr(endpoint, name, None), endpoint))
        return entry


_Step = tuple[Callable[[str], re.Match[str] | None] | None, list[_Entry]]
"""An expression and the routes of its groups, or None and the one route that is to be asked."""


def _segments(route: Any) -> Iterator[str | None]:
    for segment in route.path_format.split("/")[1:]:
        names = _PARAMETER.findall(segment)
        if any(type(route.param_convertors.get(name)) not in _WITHIN_A_SEGMENT for name in names):
            return
        yield None if "{" in segment else segment


class _Node:
    """Routes that may match a path, as far as its first `depth` segments tell. Split further while there are many."""

    __slots__ = ("_children", "_entries", "_others", "_steps")

    def __init__(self, entries: list[_Entry], depth: int = 0) -> None:
        self._entries = entries
        self._steps: list[_Step] | None = None
        self._children: dict[str, _Node] = {}
        self._others: _Node | None = None
        if len(entries) > _MAX_LEAF and depth < _MAX_DEPTH:
            self._split(depth)

    def _split(self, depth: int) -> None:
        pairs = [(entry.segments[depth] if len(entry.segments) > depth else None, entry) for entry in self._entries]
        names = {segment for segment, _ in pairs if segment is not None}
        groups = {name: [entry for segment, entry in pairs if segment in (name, None)] for name in names}
        # Routes with a parameter here are in each group: what would take much room stays together.
        if sum(map(len, groups.values())) <= _MAX_GROWTH * len(pairs):
            self._children = {name: _Node(group, depth + 1) for name, group in groups.items()}
            self._others = _Node([entry for segment, entry in pairs if segment is None], depth + 1)

    def leaf(self, path: str) -> _Node:
        """Return the node whose routes may match a path."""
        node, start = self, 1
        if path.endswith("\n"):
            return node  # "/pets\n" matches "^/pets$" as well, and so it does in the application
        while (others := node._others) is not None:
            if not start:  # it has no further segment
                node = others
                continue
            end = path.find("/", start)
            segment = path[start:] if end < 0 else path[start:end]
            node, start = node._children.get(segment, others), end + 1
        return node

    def steps(self) -> list[_Step]:
        """Return what is to be tried, one after the other."""
        steps = self._steps
        if steps is None:
            steps = self._steps = list(_steps(self._entries))
        return steps

    def compile(self) -> None:
        """Compile this node's leaves."""
        if self._others is None:
            self.steps()
            return
        for node in (*self._children.values(), self._others):
            node.compile()


def _steps(entries: list[_Entry]) -> Iterator[_Step]:
    patterns: list[str] = []
    by_group = entries[:1]  # of group 0, which is never the last
    for entry in entries:
        if entry.pattern is not None:
            # The outer group of what matched is the last to be closed.
            patterns.append(f"({entry.pattern})")
            by_group += [entry] * (1 + entry.groups)
            continue
        if patterns:
            yield re.compile("|".join(patterns)).match, by_group
        yield None, [entry]
        patterns, by_group = [], [entry]
    if patterns:
        yield re.compile("|".join(patterns)).match, by_group


def _route_path(scope: Scope) -> str:
    """Return the path within an application, as Starlette does."""
    path: str = scope["path"]
    root_path: str = scope.get("root_path", "")
    if not root_path or not path.startswith(root_path):
        return path
    rest = path[len(root_path) :]
    return rest if not rest or rest[0] == "/" else path


def _fastapi() -> Any:
    """Return FastAPI's module of routes if an application can be one of FastAPI's: it takes long to import."""
    return sys.modules.get("fastapi.routing")


def _plain_matches() -> set[Any]:
    """Return the functions that match by nothing but path and verb."""
    kinds: list[Any] = [Route, WebSocketRoute]
    if (fastapi := _fastapi()) is not None:
        kinds += [fastapi.APIRoute, fastapi.APIWebSocketRoute]
    return {kind.matches for kind in kinds}


def _flattened(routes: Iterable[Any]) -> Iterable[Any]:
    """Return routes, those of included routers with the prefixes of these."""
    flatten: Callable[[Iterable[Any]], Iterable[Any]] = getattr(_fastapi(), "iter_route_contexts", iter)
    return flatten(routes)


def _routers(app: Any, seen: set[int]) -> Iterator[Any]:
    """Yield an application and the routers that it includes."""
    if id(app) in seen:
        return
    seen.add(id(app))
    yield app
    for route in app.routes:
        if (included := getattr(route, "original_router", None)) is not None:
            yield from _routers(included, seen)
