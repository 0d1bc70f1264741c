"""The files that a catalogue reads and writes: plan files, and API keys as CSV. All others get text and streams.

What is read has an upper bound, and no more than that is read.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, BinaryIO, cast

from ratelimit import validation
from ratelimit.admin.csv import transfer
from ratelimit.admin.csv.transfer import ImportReport, ProgressCallback
from ratelimit.admin.keys import KeyAdmin
from ratelimit.admin.listing import KeyListing
from ratelimit.effects import Operation, pause
from ratelimit.errors import ConfigError
from ratelimit.registry import plan_documents
from ratelimit.registry.plan_documents import Document

FileSource = str | os.PathLike[str] | IO[str] | IO[bytes]
"""A path, or an open file of text or bytes."""

MAX_PLAN_FILE_BYTES = 2**21
"""Enough for thousands of plans."""

MAX_CSV_BYTES = 2**28
"""Unless the caller says otherwise: enough for a million rows and more."""

_CHUNK_BYTES = 2**20
_MAX_BYTES_IN_MEMORY = 2**23


def read_whole(path: str | os.PathLike[str], max_bytes: int, *, name: str | None = None) -> bytes:
    """Return the content of a file.

    Args:
        path: The file.
        max_bytes: No more is read.
        name: What errors call the file; its path unless given.

    Raises:
        ConfigError: The file is larger, or cannot be read.
    """
    data = bytearray()
    try:
        with Path(path).open("rb") as file:
            while len(data) <= max_bytes and (chunk := file.read(min(_CHUNK_BYTES, max_bytes + 1 - len(data)))):
                data += chunk
    except (OSError, ValueError) as error:  # ValueError: the name holds a NUL
        problem = f"cannot be read: {_reason(error)}"
    else:
        if len(data) <= max_bytes:
            return bytes(data)
        problem = f"is larger than {max_bytes:,} bytes, the most that is read: divide it"
    raise ConfigError(problem, field=str(path) if name is None else name)


def read_plan_file(path: str | os.PathLike[str]) -> Document:
    """Return what a plan file (TOML) says.

    Raises:
        ConfigError: With the path of the file, and of the field inside it.
    """
    return plan_documents.document_from_toml(read_whole(path, MAX_PLAN_FILE_BYTES), str(path))


def import_keys(
    admin: KeyAdmin,
    source: FileSource,
    fail_on_warnings: bool,
    progress: ProgressCallback | None,
    max_bytes: int,
) -> Operation[ImportReport]:
    """Import a CSV file; see `Catalog.import_keys`."""
    validation.flag(fail_on_warnings, "fail_on_warnings")
    validation.whole(max_bytes, "max_bytes", least=1)
    name = str(source) if isinstance(source, str | os.PathLike) else "source"
    with ExitStack() as stack:
        stream = _opened(source, name, stack)
        if not _is_rereadable(stream):
            copy = stack.enter_context(SpooledTemporaryFile(max_size=_MAX_BYTES_IN_MEMORY))
            for _ in _copy(stream, copy, name, max_bytes):
                yield pause()
            stream = cast("IO[bytes]", copy)
        _check_size(stream, name, max_bytes)
        return (
            yield from transfer.import_keys(
                admin, cast("BinaryIO", stream), name, fail_on_warnings=fail_on_warnings, progress=progress
            )
        )


def export_keys(listing: KeyListing, target: FileSource) -> Operation[int]:
    """Export all keys to a CSV file; see `Catalog.export_keys`."""
    with ExitStack() as stack:
        return (yield from transfer.export_keys(listing, _writer(target, stack)))


def _opened(source: object, name: str, stack: ExitStack) -> IO[str] | IO[bytes]:
    """Return the source as an open file; one that is opened here is closed with the stack."""
    if isinstance(source, str | os.PathLike):
        try:
            return stack.enter_context(Path(source).open("rb"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot be read: {_reason(error)}", field=name) from None
    if not hasattr(source, "read"):
        raise _not_a_file(source, "source")
    return cast("IO[bytes]", source)


def _is_rereadable(stream: IO[str] | IO[bytes]) -> bool:
    """Return whether a stream gives bytes, and can be read twice. Others are copied first."""
    return isinstance(stream, io.BufferedIOBase) and stream.seekable()


def _check_size(stream: IO[str] | IO[bytes], name: str, max_bytes: int) -> None:
    """Raise ConfigError if more than `max_bytes` follow in a seekable stream."""
    start = stream.tell()
    size = stream.seek(0, io.SEEK_END) - start
    stream.seek(start)
    if size > max_bytes:
        raise _too_large(name, max_bytes)


def _copy(source: IO[str] | IO[bytes], copy: SpooledTemporaryFile[bytes], name: str, max_bytes: int) -> Iterator[None]:
    """Copy a stream, and yield after each chunk, so that an event loop can run other tasks."""
    size = 0
    while chunk := _read_chunk(source, name):
        size += copy.write(chunk)
        if size > max_bytes:
            raise _too_large(name, max_bytes)
        yield
    copy.seek(0)


def _read_chunk(source: IO[str] | IO[bytes], name: str) -> bytes:
    try:
        chunk: object = source.read(_CHUNK_BYTES)
        if isinstance(chunk, bytes):
            return chunk
        if isinstance(chunk, str):
            return chunk.encode()
        problem = f"must give text or bytes when read, not {type(chunk).__name__}"
    except UnicodeError:
        problem = "is not UTF-8: save it as UTF-8"
    # Raised here, without a context: the error above holds what was read.
    raise ConfigError(problem, field=name)


def _writer(target: object, stack: ExitStack) -> Callable[[str], object]:
    """Return a function that writes text to the target."""
    if isinstance(target, str | os.PathLike):
        try:
            return stack.enter_context(Path(target).open("w", encoding="utf-8", newline="")).write
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot be written: {_reason(error)}", field=str(target)) from None
    if not hasattr(target, "write"):
        raise _not_a_file(target, "target")
    if hasattr(target, "encoding"):
        return cast("IO[str]", target).write
    write = cast("IO[bytes]", target).write
    return lambda text: write(text.encode())


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)


def _not_a_file(given: object, field: str) -> ConfigError:
    kind = validation.shown(type(given).__name__)
    return ConfigError(f"must be a path or an open file, not of the type {kind}", field=field)


def _too_large(name: str, max_bytes: int) -> ConfigError:
    return ConfigError(f"is larger than {max_bytes:,} bytes: split it, or raise max_bytes", field=name)
