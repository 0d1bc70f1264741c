"""What is sent for calls that leave together, and which reply each of them gets."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from itertools import chain
from typing import Any

from ratelimit.effects import BatchableReads, IndependentReads, KeyLookUps
from ratelimit.engine.batch import RETRY_INDIVIDUALLY, CheckCall, ManyChecks
from ratelimit.errors import StoreError
from ratelimit.scripts import Command, ScriptCall
from ratelimit.store import error_mapping, redis_compat
from ratelimit.store.cluster.routing import ASKING, with_asking, without_asking
from ratelimit.store.cluster.slots import divide
from ratelimit.store.resp import pack

Exchange = Generator[list[bytes], list[Any], list[Any]]
"""Yields packets, is sent a reply or an error for each, and returns what each call gets."""

_ASKING = pack([ASKING])


def reads(calls: Sequence[BatchableReads]) -> Exchange:
    """Send each command once, however many callers want its reply: after a restart many keys are new at once."""
    commands = list(dict.fromkeys(chain.from_iterable(calls)))
    replies = dict(zip(commands, (yield [pack([command]) for command in commands]), strict=True))
    return _replies_by_call(calls, replies)


def look_ups(calls: Sequence[KeyLookUps]) -> Exchange:
    """As `reads`, with all MGET commands joined into one."""
    commands = list(dict.fromkeys(chain.from_iterable(calls)))
    others = [command for command in commands if command[0] != "MGET"]
    names = list(dict.fromkeys([name for command in commands if command[0] == "MGET" for name in command[1:]]))
    joined: list[Command] = [*others, ("MGET", *names)] if names else others
    replies = dict(zip(joined, (yield [pack([command]) for command in joined]), strict=True))
    if names:
        values = replies[joined[-1]]
        if error_mapping.is_of_several_slots(values):
            return (yield from of_slots(calls))
        if isinstance(values, list):
            value_of = dict(zip(names, values, strict=True))
            values = None
        for command in commands:
            if command[0] == "MGET":
                replies[command] = [value_of[name] for name in command[1:]] if values is None else values
    return _replies_by_call(calls, replies)


def _replies_by_call(calls: Sequence[BatchableReads], replies: dict[Command, Any]) -> list[Any]:
    """Return what each call gets: the replies to its commands, or the first error among them."""
    by_call: list[Any] = [[replies[command] for command in call] for call in calls]
    if not any(isinstance(reply, Exception) for reply in replies.values()):
        return by_call
    return [_reply_to(call, each) for call, each in zip(calls, by_call, strict=True)]


def _reply_to(call: BatchableReads, replies: list[Any]) -> Any:
    """Return the replies to one call, some of which may be errors; or the error with which it failed."""
    errors = [reply for reply in replies if isinstance(reply, Exception)]
    no_answer = next((error for error in errors if isinstance(error, StoreError)), None)  # of the connection
    if isinstance(call, IndependentReads) and no_answer is None:
        return error_mapping.replies_to(call, replies)
    return no_answer or (errors[0] if errors else replies)


def checks(calls: Sequence[Any], on_left_out: Callable[[int | None], None]) -> Exchange:
    """Send several checks as one script call, then individually those that it left out.

    Args:
        calls: Calls of one type; those that are no CheckCall are sent individually.
        on_left_out: Called with how many were left out, once that is known; with None if the server takes no call
            over keys of several slots: then nothing was carried out, and all are sent individually.

    Returns:
        The reply to each call, or its error.
    """
    if len(calls) < 2 or type(calls[0]) is not CheckCall:
        return (yield from script_calls(calls))
    many = ManyChecks(calls)
    (replies,) = yield from _scripts([many.packet], [many])
    if error_mapping.is_of_several_slots(replies):
        on_left_out(None)
        return (yield from script_calls(calls))
    if isinstance(replies, Exception):
        return [replies] * len(calls)
    if not isinstance(replies, list) or len(replies) != len(calls):
        return [StoreError("Redis answered to many checks with something else")] * len(calls)
    left_out = []
    if RETRY_INDIVIDUALLY in replies:
        left_out = [at for at, reply in enumerate(replies) if reply == RETRY_INDIVIDUALLY]
    on_left_out(len(left_out))
    if left_out:
        for at, reply in zip(left_out, (yield from script_calls([calls[at] for at in left_out])), strict=True):
            replies[at] = reply
    return list(replies)


def of_slots(calls: Sequence[Any]) -> Exchange:
    """Send calls of one type where a command may only name keys of one slot: nothing is joined."""
    if type(calls[0]) is Redirected:
        return redirected(calls)
    return _divided_reads(calls) if isinstance(calls[0], BatchableReads) else script_calls(calls)


def _divided_reads(calls: Sequence[BatchableReads]) -> Exchange:
    commands = list(dict.fromkeys(chain.from_iterable(calls)))
    division = divide(commands, 0)
    replies = division.join((yield [pack([part.command]) for part in division.parts]))
    return _replies_by_call(calls, dict(zip(commands, replies, strict=True)))


def script_calls(calls: Sequence[ScriptCall]) -> Exchange:
    """Send each script call individually."""
    return _scripts([call.packet or call.packed(pack) for call in calls], calls)


def _scripts(packets: list[bytes], calls: Sequence[ScriptCall | ManyChecks]) -> Exchange:
    """Send packets of script calls, and those whose script the server does not know once more, by their source."""
    replies = yield packets
    unknown = [
        at for at, reply in enumerate(replies) if isinstance(reply, Exception) and redis_compat.is_unknown_script(reply)
    ]
    if unknown:
        # EVAL runs the script and teaches it at once. Whatever becomes of it, the others have their replies.
        retried = yield [pack([calls[at].by_source()]) for at in unknown]
        for at, reply in zip(unknown, retried, strict=True):
            replies[at] = reply
    return replies


class Redirected:
    """A call that a node redirected to another one.

    Attributes:
        call: The call. Of reads, one command.
        is_asking: Whether its slot is still being moved there: ASKING goes before it.
        times: How often it was sent before, redirected or not.
    """

    __slots__ = ("call", "is_asking", "times")

    def __init__(self, call: ScriptCall | BatchableReads, times: int, *, is_asking: bool) -> None:
        self.call = call
        self.times = times
        self.is_asking = is_asking


def redirected(calls: Sequence[Redirected]) -> Exchange:
    """Send each call individually, after ASKING where that is needed."""
    originals = [each.call for each in calls]
    commands = [call.by_hash() if isinstance(call, ScriptCall) else call[0] for call in originals]
    replies = yield from _asking(calls, commands)
    unknown = [at for at, reply in enumerate(replies) if redis_compat.is_unknown_script(reply)]
    scripts = {at: call for at in unknown if isinstance(call := originals[at], ScriptCall)}
    if scripts:
        retried = yield from _asking([calls[at] for at in scripts], [call.by_source() for call in scripts.values()])
        for at, reply in zip(scripts, retried, strict=True):
            replies[at] = reply
    is_plain = [isinstance(call, ScriptCall) for call in originals]
    return [
        reply if plain or isinstance(reply, Exception) else [reply]
        for plain, reply in zip(is_plain, replies, strict=True)
    ]


def _asking(calls: Sequence[Redirected], commands: Sequence[Command]) -> Generator[list[bytes], list[Any], list[Any]]:
    """Send a command of each call, and return the reply to each."""
    packets = [(pack([command]), call.is_asking) for call, command in zip(calls, commands, strict=True)]
    replies = yield with_asking(packets, _ASKING)
    return without_asking(replies, [call.is_asking for call in calls])
