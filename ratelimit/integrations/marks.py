"""Marks on the functions that answer requests: what a request costs, and which are not limited."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from ratelimit import validation
from ratelimit.errors import ConfigError

_T = TypeVar("_T")
_ATTRIBUTE = "__ratelimit__"


class Marks(NamedTuple):
    """What is marked on an endpoint.

    Attributes:
        cost: Units that a request takes.
        exempt: Whether its requests are not limited at all.
    """

    cost: int = 1
    exempt: bool = False


UNMARKED = Marks()


def cost(units: int) -> Callable[[_T], _T]:
    """Return a decorator: each request to the endpoint takes this many units of each limit.

    Works on functions and on classes of views, above or below decorators that keep attributes, as `functools.wraps`
    does. Marks of one method of a class go before those of the class.

    Args:
        units: A whole number, 1 or more.

    Raises:
        ConfigError: It is none.
    """
    validation.whole(units, "cost", least=1)

    def mark(endpoint: _T) -> _T:
        return _put(endpoint, marks_of(endpoint)._replace(cost=units))

    return mark


def exempt(endpoint: _T) -> _T:
    """Mark an endpoint, as a decorator: its requests need no key, are not limited and are not counted."""
    return _put(endpoint, marks_of(endpoint)._replace(exempt=True))


def marks_of(*endpoints: Any) -> Marks:
    """Return the marks of the first of these that has some; of a `functools.partial`, those of its function."""
    for endpoint in endpoints:
        while endpoint is not None:
            marks = getattr(endpoint, _ATTRIBUTE, None)
            if isinstance(marks, Marks):
                return marks
            endpoint = getattr(endpoint, "func", None)  # noqa: PLW2901 - what a partial calls
    return UNMARKED


def _put(endpoint: _T, marks: Marks) -> _T:
    try:
        setattr(endpoint, _ATTRIBUTE, marks)
    except AttributeError:
        what = f"cannot be a {type(endpoint).__name__}, which takes no attributes: mark the function itself"
        raise ConfigError(what, field="endpoint") from None
    return endpoint
