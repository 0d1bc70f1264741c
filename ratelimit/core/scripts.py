"""The Lua sources, found, joined and hashed."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from ratelimit.errors import RateLimitError

_INCLUDE = re.compile(r"^ *-- @include (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """One script as it is sent: its source, and the SHA-1 by which servers know it."""

    source: str = field(repr=False)
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", sha)


def folder() -> Path:
    """Return the folder of the Lua sources: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    installed, checkout = package / "lua", package.parent / "lua"
    if (installed / "check.lua").is_file():
        return installed
    # The second condition keeps a foreign site-packages/lua from being taken for ours.
    if (checkout / "check.lua").is_file() and (package.parent / "pyproject.toml").is_file():
        return checkout
    raise RateLimitError(f"the Lua sources are in neither {installed} nor {checkout}: reinstall the package")


def expanded(name: str) -> str:
    """Return the source of script `name` with each `-- @include <file>` line replaced by that file, once."""
    root, seen = folder(), set[str]()

    def read(part: str) -> str:
        if part in seen:
            return ""
        seen.add(part)
        text = (root / f"{part}.lua").read_text(encoding="utf-8")
        return _INCLUDE.sub(lambda match: read(match[1]), text)

    return read(name)


@cache
def load(name: str) -> Script:
    """Return the script `name`, read once per process."""
    return Script(expanded(name))
