"""Checks that are asked together: one call of lua/check_many.lua for several of lua/check.lua."""

from __future__ import annotations

from collections.abc import Sequence

from ratelimit.core.scripts import Command, Script, ScriptCall, load

ASK_ALONE = -5

_Parts = tuple[bytes, bytes, bytes, int, int]
"""Keys and arguments of a check as they go over the wire, its layout, and how many keys and arguments there are."""


class CheckCall(ScriptCall):
    """A call of check.lua that may be asked together with others: it has no shadow, no alerts and a cost.

    layout  how many further buckets its key's hash has, and how many shared ones it meets: two bytes
    """

    __slots__ = ("layout", "parts")

    def __init__(self, script: Script, keys: Sequence[str], args: Sequence[str | bytes], layout: bytes) -> None:
        super().__init__(script, keys, args)
        self.layout = layout
        self.parts: _Parts | None = None

    def packed_parts(self) -> _Parts:
        """Return what `ManyChecks` puts together, and keep it as `parts`."""
        keys, args = b"".join(map(_bulk, self.keys)), b"".join(map(_bulk, self.args))
        self.parts = keys, args, self.layout, len(self.keys), len(self.args)
        return self.parts


class ManyChecks:
    """The one call that asks several checks, in order. Its reply is the list of theirs, or ASK_ALONE in a place.

    Who is left out was not carried out, and nobody who meets one of the same limits later in the list was either.

    packet  the call as it goes over the wire, put together from what its checks keep of themselves
    """

    __slots__ = ("_calls", "packet")

    def __init__(self, calls: Sequence[CheckCall]) -> None:
        self._calls = calls
        keys, args, layouts, many_keys, many_args = zip(
            *[call.parts or call.packed_parts() for call in calls], strict=True
        )
        head = (b"EVALSHA", load("check_many").sha.encode(), b"%d" % sum(many_keys))
        size = b"*%d\r\n" % (len(head) + sum(many_keys) + 1 + sum(many_args))
        self.packet = b"".join((size, *map(_bulk, head), *keys, _bulk(b"".join(layouts)), *args))

    def by_source(self) -> Command:
        """Return the command that runs the script and teaches it to the server."""
        keys = [key for call in self._calls for key in call.keys]
        args = [b"".join([call.layout for call in self._calls]), *(arg for call in self._calls for arg in call.args)]
        return ScriptCall(load("check_many"), keys, args).by_source()


def _bulk(value: str | bytes) -> bytes:
    """Return an argument as RESP has it: a bulk string."""
    raw = value.encode() if isinstance(value, str) else value
    return b"$%d\r\n%b\r\n" % (len(raw), raw)
