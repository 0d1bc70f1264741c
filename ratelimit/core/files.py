"""Files that are read whole, as far as they are not too large to be what they should be."""

from __future__ import annotations

from pathlib import Path

from ratelimit.errors import ConfigError

_PART = 2**20


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
