"""Reads that leave together. Many keys that are new at once, as after a restart, would wait for connections else."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from ratelimit.core.flow import Reads
from ratelimit.store.line import packed

Steps = Generator[list[bytes], list[Any], list[Any]]
"""Asks with packets, is told a reply or an error for each, and returns what to answer to each call."""


def asked(reads: Sequence[Reads]) -> Steps:
    """Ask each command once, however many callers want to know."""
    commands = list(dict.fromkeys(command for each in reads for command in each))
    replies = dict(zip(commands, (yield [packed([command]) for command in commands]), strict=True))
    return [_first_error(found) or found for found in ([replies[command] for command in each] for each in reads)]


def _first_error(replies: list[Any]) -> Exception | None:
    return next((reply for reply in replies if isinstance(reply, Exception)), None)
