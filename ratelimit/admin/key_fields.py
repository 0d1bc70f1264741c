"""What can be said of an API key, checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

from ratelimit import validation
from ratelimit.errors import ConfigError, NotFound
from ratelimit.model import MICROSECONDS

_MOST_DESCRIPTION = 125_000


class About(TypedDict, total=False):
    """What can be said of a key besides its name; see `ApiKey`."""

    expires_at: float | None
    description: str
    owner: str
    tags: Mapping[str, str]


def about_fields(about: About) -> dict[str, Any]:
    """Return the fields of a record for what is given. Raises TypeError for names that are none, as any call does."""
    for name in about:
        if name not in About.__annotations__:
            known = ", ".join(About.__annotations__)
            raise TypeError(f"got an unexpected keyword argument {name!r}: besides enabled and name there are {known}")
    checked: dict[str, Any] = {}
    if "expires_at" in about:
        checked["expires_us"] = _expiry(about["expires_at"])
    if "description" in about:
        checked["description"] = validation.label(about["description"], "description", most=_MOST_DESCRIPTION)
    if "owner" in about:
        checked["owner"] = validation.label(about["owner"], "owner", most=256)
    if "tags" in about:
        checked["tags"] = validation.tags(about["tags"])
    return checked


def plan_ids(plans: object) -> tuple[str, ...]:
    """Return the ids of the plans that a key joins, each once; whether they exist is for the catalogue to say."""
    if isinstance(plans, str) or not isinstance(plans, Iterable):
        text = "the text " if isinstance(plans, str) else ""
        raise ConfigError(f"must be a list of plan ids, not {text}{validation.shown(plans)}", field="plans")
    ids = list(plans)
    for plan_id in ids:
        if not isinstance(plan_id, str):
            raise NotFound(f"there is no plan {validation.shown(plan_id)}", field="plan_id")
    return tuple(dict.fromkeys(ids))


def _expiry(expires_at: float | None) -> int:
    if expires_at is None:
        return 0
    if isinstance(expires_at, bool) or not isinstance(expires_at, int | float) or not 0 < expires_at < 2**33:
        remedy = "seconds since 1970, as time.time() counts them, or None"
        raise ConfigError(f"must be {remedy}, not {validation.shown(expires_at)}", field="expires_at")
    expires_us = round(expires_at * MICROSECONDS)
    if not expires_us:  # which stands for never
        raise ConfigError(
            f"must be at least a microsecond after 1970, not {validation.shown(expires_at)}", field="expires_at"
        )
    return expires_us
