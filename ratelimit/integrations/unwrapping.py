"""Applications that are wrapped in middlewares. No framework: a middleware has what it is around as `app`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_MAX_WRAPPERS = 20
"""Something that is around itself has no end."""


def unwrapped(app: Any) -> Iterator[Any]:
    """Yield an application and what it is wrapped around, from the outside."""
    for _ in range(_MAX_WRAPPERS):
        if app is None:
            return
        yield app
        app = getattr(app, "app", None)
