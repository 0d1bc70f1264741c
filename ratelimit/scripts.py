"""The Lua sources: located, assembled and hashed; and calls of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ratelimit.errors import RateLimitError

Command = tuple[str | bytes | int | float, ...]
"""A command of Redis with its arguments."""

_DIRECTIVE = re.compile(r"^ *-- @(include|inline) (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """One script as it is sent: its source, and the SHA-1 by which servers know it."""

    source: str = field(repr=False)
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", sha)


class ScriptCall:
    """A script with its KEYS and ARGV. Reused where it is called again and again: it is packed once.

    Attributes:
        packet: The call as it goes over the wire, once it was packed.
        slot: The slot of its keys in a cluster, once that was needed; -1 before.
        changes_nothing: Whether it only reads, whatever it replies.
    """

    __slots__ = ("args", "changes_nothing", "keys", "packet", "script", "slot")

    def __init__(
        self, script: Script, keys: Sequence[str], args: Sequence[str | bytes], *, changes_nothing: bool = False
    ) -> None:
        self.script = script
        self.keys = keys
        self.args = args
        self.changes_nothing = changes_nothing
        self.packet: bytes | None = None
        self.slot = -1

    def by_hash(self) -> Command:
        """Return the command that runs the script if the server knows it."""
        return ("EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.args)

    def by_source(self) -> Command:
        """Return the command that runs the script, and makes the server know it."""
        return ("EVAL", self.script.source, len(self.keys), *self.keys, *self.args)

    def with_source(self) -> SourceCall:
        """Return the same call for a server that does not know the script."""
        return SourceCall(self.script, self.keys, self.args, changes_nothing=self.changes_nothing)

    def packed(self, pack: Callable[[Sequence[Command]], bytes]) -> bytes:
        """Return `by_hash` as it goes over the wire, and keep it as `packet`."""
        self.packet = pack([self.by_hash()])
        return self.packet


def folder() -> Path:
    """Return the folder of the Lua sources: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    installed, checkout = package / "lua", package.parent / "lua"
    if (installed / "check.lua").is_file():
        return installed
    # The second condition keeps a foreign site-packages/lua from being taken for ours.
    if (checkout / "check.lua").is_file() and (package.parent / "pyproject.toml").is_file():
        return checkout
    raise RateLimitError(f"the Lua sources are in neither {installed} nor {checkout}: reinstall the package")


def expanded(name: str) -> str:
    """Return the source of script `name` with its parts in place of the lines that name them.

    A line `-- @include lib/<file>` brings functions or constants, once into a script. A line `-- @inline inline/<file>`
    brings a passage wherever it is named: code that uses the locals around it, because a function would cost a call.
    """
    root, included = folder(), set[str]()

    def read(part: str) -> str:
        return _DIRECTIVE.sub(replacement, (root / f"{part}.lua").read_text(encoding="utf-8"))

    def replacement(directive: re.Match[str]) -> str:
        kind, part = directive.groups()
        if kind == "include":
            if part in included:
                return ""
            included.add(part)
        return read(part)

    return read(name)


class LeaseCall(ScriptCall):
    """A call whose reply matters also when its caller has gone.

    Attributes:
        on_late_reply: Called with the reply, be it an error, if it comes to nobody; perhaps never.
    """

    __slots__ = ("on_late_reply",)

    def __init__(
        self, script: Script, keys: Sequence[str], args: Sequence[str | bytes], on_late_reply: Callable[[Any], None]
    ) -> None:
        super().__init__(script, keys, args)
        self.on_late_reply = on_late_reply


class SourceCall(ScriptCall):
    """A call of a script that the server does not know: it goes by its source at once."""

    __slots__ = ()

    def by_hash(self) -> Command:
        """Return the same as `by_source`."""
        return self.by_source()


@cache
def load(name: str) -> Script:
    """Return the script `name`, read once per process."""
    return Script(expanded(name))
