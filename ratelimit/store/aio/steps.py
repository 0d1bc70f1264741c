"""What is sent for calls that leave together, and what each of them is answered."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from itertools import chain
from typing import Any

from redis.exceptions import NoScriptError

from ratelimit.effects import BatchableReads, KeyLookUps
from ratelimit.engine.batch import RETRY_INDIVIDUALLY, CheckCall, ManyChecks
from ratelimit.errors import StoreError
from ratelimit.scripts import Command, ScriptCall
from ratelimit.store.blocking.connection import packed

Steps = Generator[list[bytes], list[Any], list[Any]]
"""Asks with packets, is told a reply or an error for each, and returns what to answer to each call."""


def read(reads: Sequence[BatchableReads]) -> Steps:
    """Ask each command once, however many callers want to know: after a restart many keys are new at once."""
    commands = list(dict.fromkeys(command for each in reads for command in each))
    replies = dict(zip(commands, (yield [packed([command]) for command in commands]), strict=True))
    return _of_each(reads, replies)


def look_up(lookups: Sequence[KeyLookUps]) -> Steps:
    """As `read`, and all that is to be read by MGET by a single one."""
    commands = list(dict.fromkeys(chain.from_iterable(lookups)))
    others = [command for command in commands if command[0] != "MGET"]
    wanted = list(dict.fromkeys([name for command in commands if command[0] == "MGET" for name in command[1:]]))
    together: list[Command] = [*others, ("MGET", *wanted)] if wanted else others
    replies = dict(zip(together, (yield [packed([command]) for command in together]), strict=True))
    if wanted:
        values = replies[together[-1]]
        if isinstance(values, list):
            value_of = dict(zip(wanted, values, strict=True))
            values = None
        for command in commands:
            if command[0] == "MGET":
                replies[command] = [value_of[name] for name in command[1:]] if values is None else values
    return _of_each(lookups, replies)


def _of_each(reads: Sequence[BatchableReads], replies: dict[Command, Any]) -> list[Any]:
    """Return what each of them is answered: its replies, or the first error among them."""
    found: list[Any] = [[replies[command] for command in each] for each in reads]
    if not any(isinstance(reply, Exception) for reply in replies.values()):
        return found
    return [next((reply for reply in each if isinstance(reply, Exception)), each) for each in found]


def check(calls: Sequence[Any], all_usual: Callable[[bool], None]) -> Steps:
    """Ask several checks as one, and alone which that leaves out; `all_usual` is told whether there were none."""
    if len(calls) < 2 or type(calls[0]) is not CheckCall:
        return (yield from asked(calls))
    many = ManyChecks(calls)
    (found,) = yield from sent([many.packet], [many])
    if isinstance(found, Exception):
        return [found] * len(calls)
    if not isinstance(found, list) or len(found) != len(calls):
        return [StoreError("Redis answered to many checks with something else")] * len(calls)
    alone = [at for at, reply in enumerate(found) if reply == RETRY_INDIVIDUALLY] if RETRY_INDIVIDUALLY in found else []
    all_usual(not alone)
    if alone:
        for at, reply in zip(alone, (yield from asked([calls[at] for at in alone])), strict=True):
            found[at] = reply
    return list(found)


def asked(calls: Sequence[ScriptCall]) -> Steps:
    """Ask each script for itself."""
    return sent([call.packet or call.packed(packed) for call in calls], calls)


def sent(packets: list[bytes], calls: Sequence[ScriptCall | ManyChecks]) -> Steps:
    """Send packets of scripts, and those that the server does not know once more, by their source."""
    replies = yield packets
    unknown = [at for at, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
    if unknown:
        # EVAL runs the script and teaches it at once. Whatever becomes of it, the others are answered.
        again = yield [packed([calls[at].by_source()]) for at in unknown]
        for at, reply in zip(unknown, again, strict=True):
            replies[at] = reply
    return replies
