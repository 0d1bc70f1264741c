"""Files that are read whole, as far as they are not too large, or too deep, to be what they should be."""

from __future__ import annotations

import re
from pathlib import Path

from ratelimit.errors import ConfigError

_PART = 2**20
MOST_PARTS = 8
"""Of a name with dots: `plans.gold.stages."a/b".throttles."GET /".rate` has seven."""
MOST_DEPTH = 16

# Strings and comments, within which nothing counts; and what does count outside of them.
_TOKEN = re.compile(
    r"""
    \"{3} (?: [^"\\]++ | \\. | "{1,2}(?!") )*+ \"{3,5} | '{3} .*? '{3,5} |
    " (?: [^"\\\n]++ | \\. )*+ " | ' [^'\n]*+ ' | \# [^\n]*+ | [.=,\[\]{}\n]
    """,
    re.VERBOSE | re.DOTALL,
)


def read_whole(path: str | Path, most: int, *, name: str | None = None) -> bytes:
    """Return what a file holds, `most` bytes at most: no more than that is read. `name` is what errors call it."""
    data = bytearray()
    try:
        with Path(path).open("rb") as file:
            while len(data) <= most and (part := file.read(min(_PART, most + 1 - len(data)))):
                data += part
    except (OSError, ValueError) as error:  # also for a name that can be none
        problem = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    else:
        if len(data) <= most:
            return bytes(data)
        problem = f"is larger than {most:,} bytes, the most that is read: divide it"
    raise ConfigError(problem, field=str(path) if name is None else name)


def refuse_costly(text: str, path: str) -> None:
    """Raise ConfigError for what would cost the parser of TOML many times the size of the file in memory."""
    depth = dots = 0
    line = 1
    for match in _TOKEN.finditer(text):
        mark = match[0]
        if mark == ".":
            dots += 1
        elif mark in "=,[]{}\n":
            dots = 0
            depth += (mark in "[{") - (mark in "]}")
        problem = None
        if dots >= MOST_PARTS:
            problem = f"a name of more than {MOST_PARTS} parts"
        elif depth > MOST_DEPTH:
            problem = f"more than {MOST_DEPTH} open brackets"
        if problem is not None:
            raise ConfigError(f"line {line} has {problem}: no plan file needs that", field=path)
        line += mark.count("\n")
