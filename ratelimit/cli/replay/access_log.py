"""Access logs in common or combined log format, plain or gzip, read line by line."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import attrgetter
from typing import BinaryIO, NamedTuple

from ratelimit.errors import ConfigError

_GZIP = b"\x1f\x8b"
_MONTH_NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTHS = {name: number for number, name in enumerate(_MONTH_NAMES, 1)}
# host ident user [day/month/year:hour:minute:second zone] "request" status bytes; what follows is not needed.
# The host is visible ASCII only: it is printed, and must not bring control codes along.
_LINE = re.compile(
    r"([!-~]{1,255}) \S++ .+? "
    r"\[(\d\d)/([A-Z][a-z][a-z])/(19[7-9]\d|2\d{3}):(\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)\] "
    r'"([A-Z][A-Z_-]*+) ((?:[^"\\]++|\\.)++)" '
    r"\d{3} (?:\d+|-)(?:\s|$)",
    re.ASCII,
)
_PROTOCOL = re.compile(r"(?<=.) HTTP/[0-9.]+\Z")
MOST_LINE_BYTES = 2**17
"""Servers take requests of 32 kB and headers of 8 kB at most, unless they are told otherwise."""
MOST_LINES = 20_000_000
"""About 2 GB of memory, if each is a request."""


class Request(NamedTuple):
    """One line: seconds since 1970, the client's address, and "<VERB> <path>" without the query."""

    second: int
    client: str
    method: str


@dataclass(slots=True)
class Log:
    """A whole log, its requests by time. They are all kept, at about 100 bytes: logs are not quite in order.

    disordered       how many lines are older than the well-formed line before them
    malformed        how many lines are no request in this format; first_malformed is the number of the first
    """

    requests: list[Request] = field(default_factory=list)
    lines: int = 0
    disordered: int = 0
    malformed: int = 0
    first_malformed: int | None = None


def read(path: str, on_bytes: Callable[[int], None]) -> Log:
    """Read the log at `path`, "-" for standard input; calls `on_bytes` with the bytes read so far.

    Raises ConfigError for what cannot be read, for a line or a log that is too long, and for a log without a single
    request.
    """
    log = Log()
    try:
        with open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
            packed = file.peek(2)[:2] == _GZIP
            if path.endswith(".gz") and not packed:
                raise ConfigError("is not gzip, although its name ends in .gz", field=path)
            unpacked: BinaryIO = gzip.GzipFile(fileobj=file) if packed else file  # type: ignore[assignment]
            _fill(log, _lines(unpacked, path), lambda: on_bytes(file.tell()) if file.seekable() else None)
    except EOFError:
        told = f"its gzip data ends after {log.lines} lines: fetch it again, or unpack what is there"
        raise ConfigError(f"is cut off: {told}", field=path) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        told = f"its gzip data cannot be unpacked after {log.lines} lines ({error})"
        raise ConfigError(f"is damaged: {told}", field=path) from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}", field=path) from None
    if not log.requests:
        told = f"none of its {log.lines} lines is a request in common or combined log format"
        raise ConfigError(told if log.lines else "is empty", field=path)
    log.requests.sort(key=attrgetter("second"))
    return log


def _lines(file: BinaryIO, path: str) -> Iterator[bytes]:
    number = 0
    while line := file.readline(MOST_LINE_BYTES + 1):
        number += 1
        if len(line) > MOST_LINE_BYTES:
            told = f"is longer than {MOST_LINE_BYTES:,} bytes: this is no access log, or its line ends are missing"
            raise ConfigError(told, field=f"{path}, line {number}")
        if number > MOST_LINES:
            raise ConfigError(f"has more than {MOST_LINES:,} lines, the most that is read: divide it", field=path)
        yield line


def _fill(log: Log, lines: Iterable[bytes], on_progress: Callable[[], None]) -> None:
    texts: dict[str, str] = {}
    before = 0
    for line in lines:
        log.lines += 1
        request = parsed(line)
        if request is None:
            log.malformed += 1
            log.first_malformed = log.first_malformed or log.lines
        else:
            # One copy of each text, however often it occurs.
            second, client, method = request
            log.requests.append(Request(second, texts.setdefault(client, client), texts.setdefault(method, method)))
            log.disordered += second < before
            before = second
        if log.lines % 1000 == 0:
            on_progress()


def parsed(line: bytes) -> Request | None:
    """Return the request that a line tells of, None if it is malformed."""
    match = _LINE.match(line.decode("latin-1"))
    if match is None:
        return None
    client, day, month, year, hour, minute, second, sign, zone_hours, zone_minutes, verb, target = match.groups()
    try:
        local = datetime(int(year), _MONTHS[month], int(day), int(hour), int(minute), int(second), tzinfo=UTC)
    except (KeyError, ValueError):
        return None
    offset = (int(zone_hours) * 60 + int(zone_minutes)) * 60
    utc = int(local.timestamp()) + (offset if sign == "-" else -offset)
    path = _PROTOCOL.sub("", target).partition("?")[0]
    return Request(utc, client, f"{verb} {path}") if utc > 0 else None
