"""Flows: logic that needs Redis, written without it.

A flow is a generator. It yields what it wants to know, is sent the reply, and returns its result; one runner drives
it over a blocking connection, another over asyncio. So the logic exists once, and both twins are thin.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, TypeVar

from ratelimit.core.scripts import Command, ScriptCall
from ratelimit.errors import StoreError, StoreUnavailable

_T = TypeVar("_T")


class Reads(list[Command]):
    """A few commands that change nothing and are answered with little: they may leave with those of others."""

    __slots__ = ()


class LookUps(Reads):
    """Reads that anybody can cause, with any text for a key: may be refused with TooManyLookUpsError, others never.

    What several read by MGET may be asked by one.
    """

    __slots__ = ()


class TooManyLookUpsError(StoreUnavailable):
    """More look-ups are waiting than may wait; nothing is wrong with Redis."""


class Each(list[Command]):
    """Commands whose replies are told each, a StoreError in its place: some may be carried out and others not."""

    __slots__ = ()


Request = ScriptCall | Reads | Sequence[Command]
"""One script, or commands that are sent together and answered by the list of their replies."""

Flow = Generator[Request, Any, _T]


def text(reply: bytes | str | None) -> str | None:
    """Return a bulk reply as text, whether or not the client decodes. All texts that we store are ASCII."""
    try:
        return reply.decode() if isinstance(reply, bytes) else reply
    except UnicodeDecodeError:
        raise StoreError("Redis holds something that is no text where a key's record or id belongs") from None


def texts(replies: Sequence[bytes | str]) -> list[str]:
    """Return bulk replies as texts."""
    return [text(reply) or "" for reply in replies]


def pairs(reply: Mapping[Any, Any] | Sequence[Any]) -> dict[str, str]:
    """Return a reply of HGETALL as a dict: RESP3 sends a map, RESP2 a flat list."""
    if isinstance(reply, Mapping):
        return dict(zip(texts(list(reply.keys())), texts(list(reply.values())), strict=True))
    flat = texts(reply)
    return dict(zip(flat[::2], flat[1::2], strict=True))


def scored(reply: Sequence[Any]) -> list[tuple[str, str]]:
    """Return members with their scores, whole numbers as text: RESP3 sends pairs with doubles, RESP2 a flat list."""
    if reply and isinstance(reply[0], list | tuple):
        return [(text(member) or "", str(int(score))) for member, score in reply]
    flat = texts(reply)
    return list(zip(flat[::2], flat[1::2], strict=True))
