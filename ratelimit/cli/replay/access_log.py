"""Reads access logs in common or combined log format, plain or gzip."""

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
# The host is visible ASCII only: it is printed, and must not contain control codes.
_LINE = re.compile(
    r"([!-~]{1,255}) \S++ .+? "
    r"\[(\d\d)/([A-Z][a-z][a-z])/(19[7-9]\d|2\d{3}):(\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)\] "
    r'"([A-Z][A-Z_-]*+) ((?:[^"\\]++|\\.)++)" '
    r"\d{3} (?:\d+|-)(?:\s|$)",
    re.ASCII,
)
_PROTOCOL = re.compile(r"(?<=.) HTTP/[0-9.]+\Z")
MAX_LINE_BYTES = 2**17
"""By default, servers accept requests of at most 32 kB, with headers of at most 8 kB."""
MAX_LINES = 20_000_000
"""About 2 GB of memory."""


class Request(NamedTuple):
    """One line: seconds since 1970, the client's address, and "<VERB> <path>" without the query."""

    second: int
    client: str
    method: str


@dataclass(slots=True)
class Log:
    """A whole log. All requests are in memory, at about 100 bytes each, as logs are not quite in order of time.

    Attributes:
        requests: The requests in order of time.
        lines: Number of lines.
        disordered: Number of lines that are older than the well-formed line before them.
        malformed: Number of lines that are not a request in this format.
        first_malformed: Line number of the first of them.
    """

    requests: list[Request] = field(default_factory=list)
    lines: int = 0
    disordered: int = 0
    malformed: int = 0
    first_malformed: int | None = None


def read(path: str, on_bytes: Callable[[int], None]) -> Log:
    """Read a log.

    Args:
        path: A file, or "-" for standard input.
        on_bytes: Called with the number of bytes read so far.

    Returns:
        The log, with at least one request.

    Raises:
        ConfigError: The log cannot be read, a line or the log is too long, or there is no request in it.
    """
    log = Log()
    try:
        with open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
            is_gzip = file.peek(2)[:2] == _GZIP
            if path.endswith(".gz") and not is_gzip:
                raise ConfigError("is not gzip, although its name ends in .gz", field=path)
            plain: BinaryIO = gzip.GzipFile(fileobj=file) if is_gzip else file  # type: ignore[assignment]
            _fill(log, _lines(plain, path), lambda: on_bytes(file.tell()) if file.seekable() else None)
    except EOFError:
        problem = f"is cut off: its gzip data ends after {log.lines} lines. Copy it again, or unpack what is there"
        raise ConfigError(problem, field=path) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        problem = f"is damaged: its gzip data cannot be unpacked after {log.lines} lines ({error})"
        raise ConfigError(problem, field=path) from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}", field=path) from None
    if not log.requests:
        problem = f"none of its {log.lines} lines is a request in common or combined log format"
        raise ConfigError(problem if log.lines else "is empty", field=path)
    log.requests.sort(key=attrgetter("second"))
    return log


def _lines(file: BinaryIO, path: str) -> Iterator[bytes]:
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            problem = f"is longer than {MAX_LINE_BYTES:,} bytes: not an access log, or its line ends are missing"
            raise ConfigError(problem, field=f"{path}, line {number}")
        if number > MAX_LINES:
            raise ConfigError(f"has more than the {MAX_LINES:,} lines that are accepted: split it", field=path)
        yield line


def _fill(log: Log, lines: Iterable[bytes], on_progress: Callable[[], None]) -> None:
    texts: dict[str, str] = {}  # one copy of each text, however often it occurs
    last_second = 0
    for line in lines:
        log.lines += 1
        request = parse_line(line)
        if request is None:
            log.malformed += 1
            log.first_malformed = log.first_malformed or log.lines
        else:
            second, client, method = request
            log.requests.append(Request(second, texts.setdefault(client, client), texts.setdefault(method, method)))
            log.disordered += second < last_second
            last_second = second
        if log.lines % 1000 == 0:
            on_progress()


def parse_line(line: bytes) -> Request | None:
    """Return the request that a line records, None if it is malformed."""
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
