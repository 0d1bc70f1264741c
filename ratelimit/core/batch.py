"""Checks that are asked together: one call of lua/check_many.lua for several of lua/check.lua."""

from __future__ import annotations

from collections.abc import Sequence

from ratelimit.core.scripts import Script, ScriptCall, load

ASK_ALONE = -5


class CheckCall(ScriptCall):
    """A call of check.lua that may be asked together with others: it has no shadow, no alerts and a cost.

    layout  how many further buckets its key's hash has, and how many shared ones it meets: two bytes
    """

    __slots__ = ("layout",)

    def __init__(self, script: Script, keys: Sequence[str], args: Sequence[str | bytes], layout: bytes) -> None:
        super().__init__(script, keys, args)
        self.layout = layout


def joined(calls: Sequence[CheckCall]) -> ScriptCall:
    """Return the one call that asks all of them, in order. Its reply is the list of theirs, or ASK_ALONE in a place.

    Who is left out was not carried out, and nobody who meets one of the same limits later in the list was either.
    """
    keys = [key for call in calls for key in call.keys]
    args: list[str | bytes] = [b"".join([call.layout for call in calls])]
    for call in calls:
        args += call.args
    return ScriptCall(load("check_many"), keys, args)
