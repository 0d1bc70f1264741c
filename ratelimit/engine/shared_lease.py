"""The wire contract of lua/shared_lease.lua: what is asked of a shared bucket, and what it replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct
from struct import error as struct_error
from typing import Any, NamedTuple

from ratelimit.engine import protocol
from ratelimit.errors import StoreError
from ratelimit.model import Throttle
from ratelimit.scripts import LeaseCall, ScriptCall, load

EPOCH_US = 125_000
"""The script counts demand, and keeps the least debt, in epochs of so many microseconds of the server's time."""

_CARRIED_OUT = 1
_REQUEST = Struct("<11d")
_RETURN = Struct("<3d")
_REPLY = Struct("<6d")


class ReturnedUnits(NamedTuple):
    """Units that are given back to a bucket.

    Attributes:
        units: How many.
        charged_us: When they were charged, by the bucket's own time.
        waited_us: How long ago they were requested, by this process' clock.
    """

    units: int
    charged_us: int
    waited_us: int


class LeaseRequest(NamedTuple):
    """What is asked of a bucket.

    Attributes:
        waiting: Units that callers wait for.
        multiple: Fewer are granted in multiples of this.
        ahead: Units that are wanted beyond.
        demand: What is asked of this process in an epoch.
        recent: What was asked of it since its last request.
        epoch: The epoch of the last reply.
    """

    waiting: int = 0
    multiple: int = 1
    ahead: int = 0
    demand: int = 0
    recent: int = 0
    epoch: int = 0


class LeaseReply(NamedTuple):
    """What a bucket replied.

    Attributes:
        granted: Units that were charged.
        level: The bucket's level after that, in units of 1/P token.
        last_us: The bucket's time: the server's, or up to 2 s later.
        epoch: The epoch.
        pace_us: For how long not to ask again, unless somebody waits, in microseconds.
        credited: What was credited for units that were given back, in units of 1/P token.
        server_us: The server's time.
    """

    granted: int
    level: int
    last_us: int
    epoch: int
    pace_us: int
    credited: int
    server_us: int


_PEEK = LeaseRequest()


def lease_call(
    key: str,
    throttle: Throttle,
    version: str,
    request: LeaseRequest,
    returned: Sequence[ReturnedUnits],
    on_late_reply: Callable[[Any], None],
    *,
    now_us: int,
    nothing_newer: bool,
) -> ScriptCall:
    """Return the call that asks a bucket.

    Args:
        key: Its name in Redis.
        throttle: Its limit.
        version: Epoch and version of the catalogue that says so, 18 characters.
        request: What is asked.
        returned: What is given back. All of it was charged under that version.
        on_late_reply: As of `LeaseCall`.
        now_us: 0 for the server's clock.
        nothing_newer: Whether no newer catalogue was found, though the bucket was charged under another one.
    """
    flags = protocol.NOTHING_NEWER if nothing_newer else 0
    packed = b"".join((_packed(throttle, version, request, now_us, flags), *(_RETURN.pack(*each) for each in returned)))
    return LeaseCall(load("shared_lease"), (key,), (packed,), on_late_reply)


def peek_call(key: str, throttle: Throttle, version: str, *, now_us: int) -> ScriptCall:
    """Return the call that says how a bucket stands, and changes nothing."""
    packed = _packed(throttle, version, _PEEK, now_us, protocol.PEEK)
    return ScriptCall(load("shared_lease"), (key,), (packed,), changes_nothing=True)


def _packed(throttle: Throttle, version: str, request: LeaseRequest, now_us: int, flags: int) -> bytes:
    return _REQUEST.pack(now_us, flags, throttle.burst, *throttle.ratio, *request) + version.encode()


def lease_reply(reply: Any) -> LeaseReply | None:
    """Return what a bucket replied; None if it was charged under a newer catalogue, and nothing was done.

    Raises:
        StoreError: It is something else.
    """
    status = protocol.status(reply)
    if status == protocol.CATALOG_BEHIND:
        return None
    try:
        numbers = _REPLY.unpack(reply[2])
    except (IndexError, TypeError, struct_error):
        numbers = None
    if status != _CARRIED_OUT or numbers is None:
        raise StoreError("Redis answered to a lease of a shared limit with something else")
    granted, level, last_us, epoch, pace_us, credited = map(int, numbers)
    return LeaseReply(granted, level, last_us, epoch, pace_us, credited, reply[1])
