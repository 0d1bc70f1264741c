"""What a caller gives to be read or written: a path, or an open file of text or bytes."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, BinaryIO, cast

from ratelimit import validation
from ratelimit.errors import ConfigError

Source = str | os.PathLike[str] | IO[str] | IO[bytes]

_CHUNK = 2**20
_IN_MEMORY = 2**23


def name_of(source: object) -> str:
    """Return what errors call it."""
    return str(source) if isinstance(source, str | os.PathLike) else "source"


def opened(source: object, stack: ExitStack) -> IO[str] | IO[bytes]:
    """Return the source as an open file; one that is opened here is closed with the stack."""
    if isinstance(source, str | os.PathLike):
        try:
            return stack.enter_context(Path(source).open("rb"))
        except (OSError, ValueError) as error:
            told = getattr(error, "strerror", None) or error
            raise ConfigError(f"cannot be read: {told}", field=name_of(source)) from None
    if not hasattr(source, "read"):
        raise _no_file(source, "source")
    return cast("IO[bytes]", source)


def is_rereadable(stream: IO[str] | IO[bytes]) -> bool:
    """Tell whether a stream gives bytes, and gives them again. Others are copied first."""
    return isinstance(stream, io.BufferedIOBase) and stream.seekable()


def refuse_larger(stream: BinaryIO, name: str, most: int) -> None:
    """Raise ConfigError if more than `most` bytes follow in a seekable stream."""
    start = stream.tell()
    size = stream.seek(0, io.SEEK_END) - start
    stream.seek(start)
    if size > most:
        raise _too_large(name, most)


def copied(source: IO[str] | IO[bytes], copy: SpooledTemporaryFile[bytes], name: str, most: int) -> Iterator[None]:
    """Copy a stream, and come up for air after each part of it."""
    size = 0
    while chunk := _read(source, name):
        size += copy.write(chunk)
        if size > most:
            raise _too_large(name, most)
        yield
    copy.seek(0)


def temporary(stack: ExitStack) -> SpooledTemporaryFile[bytes]:
    """Return a file for a copy: in memory while it is small, else one that has no name and goes when closed."""
    return stack.enter_context(SpooledTemporaryFile(max_size=_IN_MEMORY))


def _read(source: IO[str] | IO[bytes], name: str) -> bytes:
    try:
        chunk: object = source.read(_CHUNK)
        if isinstance(chunk, bytes):
            return chunk
        if isinstance(chunk, str):
            return chunk.encode()
        problem = f"must give text or bytes when read, not {type(chunk).__name__}"
    except UnicodeError:
        problem = "is not UTF-8: save it as UTF-8"
    # Raised here, without a context: the error above holds what was read.
    raise ConfigError(problem, field=name)


def writer(target: object, stack: ExitStack) -> Callable[[str], object]:
    """Return a function that writes text to the target."""
    if isinstance(target, str | os.PathLike):
        try:
            return stack.enter_context(Path(target).open("w", encoding="utf-8", newline="")).write
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot be written: {error}", field=str(target)) from None
    if not hasattr(target, "write"):
        raise _no_file(target, "target")
    if hasattr(target, "encoding"):
        return cast("IO[str]", target).write
    write = cast("IO[bytes]", target).write
    return lambda lines: write(lines.encode())


def _no_file(given: object, field: str) -> ConfigError:
    kind = validation.shown(type(given).__name__)
    return ConfigError(f"must be a path or an open file, not of the type {kind}", field=field)


def _too_large(name: str, most: int) -> ConfigError:
    return ConfigError(f"is larger than {most:,} bytes: split it, or raise max_bytes", field=name)
