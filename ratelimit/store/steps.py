"""What is sent for calls that leave together, and what each of them is answered."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from redis.exceptions import NoScriptError

from ratelimit.core.batch import ManyChecks
from ratelimit.core.flow import Reads
from ratelimit.core.scripts import ScriptCall
from ratelimit.store.line import packed

Steps = Generator[list[bytes], list[Any], list[Any]]
"""Asks with packets, is told a reply or an error for each, and returns what to answer to each call."""


def read(reads: Sequence[Reads]) -> Steps:
    """Ask each command once, however many callers want to know: after a restart many keys are new at once."""
    commands = list(dict.fromkeys(command for each in reads for command in each))
    replies = dict(zip(commands, (yield [packed([command]) for command in commands]), strict=True))
    return [_first_error(found) or found for found in ([replies[command] for command in each] for each in reads)]


def _first_error(replies: list[Any]) -> Exception | None:
    return next((reply for reply in replies if isinstance(reply, Exception)), None)


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
