"""Reads that leave together. Many keys that are new at once, as after a restart, would wait for connections else."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from ratelimit.core.scripts import Command
from ratelimit.store.line import packed

_READS = frozenset({"GET", "HGETALL", "HMGET"})
_FEW = 4
"""More commands than this have a connection of their own, and hold nobody up."""

Steps = Generator[list[bytes], list[Any], list[Any]]
"""Asks with packets, is told a reply or an error for each, and returns what to answer to each call."""


class Reads:
    """Commands that change nothing, asked by one caller; their answer is the list of their replies."""

    __slots__ = ("commands",)

    def __init__(self, commands: Sequence[Command]) -> None:
        self.commands = tuple(commands)


def few(commands: Sequence[Command]) -> bool:
    """Tell whether commands may leave together with others."""
    return 0 < len(commands) <= _FEW and all(command[0] in _READS for command in commands)


def asked(reads: Sequence[Reads]) -> Steps:
    """Ask each command once, however many callers want to know."""
    commands = list(dict.fromkeys(command for each in reads for command in each.commands))
    replies = dict(zip(commands, (yield [packed([command]) for command in commands]), strict=True))
    return [
        _first_error(found) or found for found in ([replies[command] for command in each.commands] for each in reads)
    ]


def _first_error(replies: list[Any]) -> Exception | None:
    return next((reply for reply in replies if isinstance(reply, Exception)), None)
