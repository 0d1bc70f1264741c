"""The slot of a key, and how commands are divided by slot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from ratelimit.scripts import Command, ScriptCall

SLOTS = REDIS_CLUSTER_HASH_SLOTS

_WITHOUT_KEYS = {"ACL", "CLIENT", "CLUSTER", "COMMAND", "CONFIG", "DBSIZE", "FUNCTION", "INFO", "LATENCY", "PING"}
_WITHOUT_KEYS |= {"PUBLISH", "ROLE", "SCAN", "SCRIPT", "SLOWLOG", "TIME", "WAIT", "WAITAOF"}
_SCRIPTS = {"EVAL", "EVALSHA"}
_KEY_AT = {"EVAL": 3, "EVALSHA": 3, "MEMORY": 2, "OBJECT": 2}
"""Where the first key stands, if it is not the first argument."""
_SUMMED = {"DEL", "EXISTS", "TOUCH", "UNLINK"}
"""Of all keys alike: the reply is a number, to which each key adds."""


def slot_of(key: str | bytes) -> int:
    """Return the slot of a key."""
    return int(key_slot(key.encode() if isinstance(key, str) else key))


def slot_of_call(call: ScriptCall, catalog_slot: int) -> int:
    """Return the slot of a script call, and keep it there; of one without keys, the catalogue's."""
    call.slot = slot_of(call.keys[0]) if call.keys else catalog_slot
    return call.slot


def slot_of_command(command: Command, catalog_slot: int) -> int:
    """Return the slot of a command's first key; of one without keys, the catalogue's."""
    key = _first_key(command)
    return catalog_slot if key is None else slot_of(key)


def slot_of_all(commands: Sequence[Command], catalog_slot: int) -> int:
    """Return the slot of commands that stay together: of the first key that any of them names."""
    keys = (_first_key(command) for command in commands)
    return next((slot_of(key) for key in keys if key is not None), catalog_slot)


_NO_NUMBER_OF_KEYS = ("0", "-")
"""None, and no number: so `doctor` tries whether a user may send scripts, and changes nothing."""


def _first_key(command: Command) -> str | bytes | None:
    name = str(command[0]).upper()
    if name in _WITHOUT_KEYS:
        return None
    if name in _SCRIPTS and str(command[2]) in _NO_NUMBER_OF_KEYS:
        return None
    at = _KEY_AT.get(name, 1)
    key = command[at] if at < len(command) else None
    return key if key is None or isinstance(key, str | bytes) else str(key)


class Part(NamedTuple):
    """A command for one slot."""

    slot: int
    command: Command


class _Split(NamedTuple):
    """One command that became several parts.

    Attributes:
        first: Number of its first part.
        positions: Of each part, where its keys stood in the command.
        is_summed: Whether the replies are numbers to be added; else lists, whose items go to the keys' positions.
    """

    first: int
    positions: Sequence[Sequence[int]]
    is_summed: bool


class Division:
    """Commands, divided by slot: those that name keys of several slots are split.

    Attributes:
        parts: What to send, in the order of the commands.
    """

    def __init__(self, commands: Sequence[Command], catalog_slot: int) -> None:
        self.parts: list[Part] = []
        self._splits: list[_Split] = []
        for command in commands:
            if command[0] == "MGET" or command[0] in _SUMMED:
                self._split(command)
            else:
                self.parts.append(Part(slot_of_command(command, catalog_slot), command))

    def _split(self, command: Command) -> None:
        positions: dict[int, list[int]] = {}
        for number, key in enumerate(command[1:]):
            positions.setdefault(slot_of(key if isinstance(key, bytes) else str(key)), []).append(number)
        if len(positions) > 1:
            self._splits.append(_Split(len(self.parts), [*positions.values()], command[0] != "MGET"))
        for slot, numbers in positions.items():
            self.parts.append(Part(slot, (command[0], *(command[1 + number] for number in numbers))))

    def join(self, replies: Sequence[Any]) -> list[Any]:
        """Return the replies to the commands.

        Args:
            replies: To the parts. If that to one of several parts is an exception, it becomes the command's.
        """
        joined = list[Any]()
        done = 0
        for split in self._splits:
            joined += replies[done : split.first]
            done = split.first + len(split.positions)
            joined.append(_joined(split, replies[split.first : done]))
        return [*joined, *replies[done:]]


def _joined(split: _Split, replies: Sequence[Any]) -> Any:
    for reply in replies:
        if isinstance(reply, Exception):
            return reply
    if split.is_summed:
        return sum(replies)
    items = list[Any]([None] * sum(map(len, split.positions)))
    for positions, reply in zip(split.positions, replies, strict=True):
        for position, item in zip(positions, reply, strict=True):
            items[position] = item
    return items


def divide(commands: Sequence[Command], catalog_slot: int) -> Division:
    """Divide commands by slot; those without keys go to the catalogue's."""
    return Division(commands, catalog_slot)
