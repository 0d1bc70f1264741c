"""API keys as CSV text: the files of AWS API Gateway are parsed, lists for people are written.

A file is read line by line, so that one bad row spoils no other: a cell does not span lines. No message shows what a
cell holds, because in a file whose columns are mixed up any cell may be a key value.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import BinaryIO, NamedTuple

from ratelimit.errors import ConfigError
from ratelimit.model import MICROSECONDS, ApiKey
from ratelimit.registry.key_values import could_be_value
from ratelimit.validation import printable, without_values

MAX_LINE_BYTES = 2**20
MAX_CELL = 2**17
"""Characters of one cell: more than any column holds (a description has 125,000 at most)."""

_MAX_NAME = 1024
_MAX_DESCRIPTION = 125_000
_COLUMNS = ("key", "name", "description", "enabled", "usageplanids")
_FLAGS = {"": None, "true": True, "false": False}
_FORMULAS = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n")  # noqa: RUF001 - full-width ones count as well
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# Possessive: a doubled quote is never taken for a closing one, and a bad line costs one pass.
_CELL = re.compile(
    r"""\s*(?: "(?P<double>(?:[^"]|"")*+)"\s*(?=,|\Z) | '(?P<single>(?:[^']|'')*+)'\s*(?=,|\Z) | (?P<plain>[^,]*) )""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class RowWarning:
    """What is wrong with a line of a CSV file.

    Attributes:
        line: Its number; the first line is 1.
        message: The problem and its remedy. Never shows what a cell holds.
    """

    line: int
    message: str


@dataclass(frozen=True, slots=True)
class Row:
    """A good line of a CSV file: what it says about a key. None where it says nothing.

    Attributes:
        line: Its number; the first line is 1.
        value: The key's value.
        name: The key's name.
        description: The key's description.
        enabled: Whether the key is accepted.
        plans: Ids of the key's plans, as the file lists them.
    """

    line: int
    value: str = field(repr=False)
    name: str
    description: str | None = None
    enabled: bool | None = None
    plans: tuple[str, ...] | None = None


class _Columns(NamedTuple):
    """The number of cells of the header, and the index of each column; None where the file has no such column."""

    width: int
    key: int
    name: int
    description: int | None
    enabled: int | None
    plans: int | None


def read(stream: BinaryIO, source: str) -> Iterator[Row | RowWarning | None]:
    """Yield what each line after the header says; None for a blank one.

    Args:
        stream: The file, read from where it stands.
        source: What errors call the file.

    Raises:
        ConfigError: The file as a whole cannot be read.
    """
    columns = None
    for number, text in _lines(stream, source):
        blank = not text.strip(" \t,")
        if columns is None:
            columns = None if blank else _header(text, f"{source}, line {number}")
        else:
            yield None if blank else _row(columns, number, text, source)
    if columns is None:
        raise ConfigError("is empty: the first line must name the columns, Key and Name among them", field=source)


def _lines(stream: BinaryIO, source: str) -> Iterator[tuple[int, str]]:
    """Yield each line without its end, with its number. Raises ConfigError for one that is not acceptable text."""
    number = 0
    while raw := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if number == 1:
            if raw.startswith(_UTF16):
                raise ConfigError("is UTF-16: save it as UTF-8", field=source)
            raw = raw.removeprefix(codecs.BOM_UTF8)
        text = _decoded(raw)
        problem = None
        if len(raw) > MAX_LINE_BYTES:
            problem = f"is longer than {MAX_LINE_BYTES:,} bytes: this is no list of keys, or its line ends are missing"
        elif text is None:
            problem = "is not UTF-8: save the file as UTF-8"
        elif "\0" in text:
            problem = "holds a NUL: this is no text file, or UTF-16; save it as UTF-8"
        if text is None or problem is not None:
            raise ConfigError(problem or "", field=f"{source}, line {number}")
        yield number, text.rstrip("\r\n")


def _decoded(raw: bytes) -> str | None:
    # The error holds the bytes, so it must not become the context of another.
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def cells(line: str) -> list[str] | None:
    """Split a line into its cells, without the blanks around each, and without one pair of double or single quotes.

    A quote inside such a pair is written twice. A cell that merely begins with a single quote keeps it.

    Returns:
        The cells; None where a double quote is not closed at the end of its cell.
    """
    if '"' not in line and "'" not in line:
        return [cell.strip() for cell in line.split(",")]
    parsed, end = list[str](), -1
    while end < len(line):
        match = _CELL.match(line, end + 1)
        if match is None:
            raise AssertionError("a plain cell may hold anything, so something matches")
        end = match.end()
        double, single, plain = match.groups()
        if double is not None:
            parsed.append(double.replace('""', '"'))
        elif single is not None:
            parsed.append(single.replace("''", "'"))
        elif plain.startswith('"'):
            return None
        else:
            parsed.append(plain.strip())
    return parsed


def _bounded_cells(line: str, where: str) -> list[str] | None:
    parsed = cells(line)
    if len(line) > MAX_CELL and parsed and max(map(len, parsed)) > MAX_CELL:
        raise ConfigError(f"has a cell of more than {MAX_CELL:,} characters: shorten it", field=where)
    return parsed


def _header(line: str, where: str) -> _Columns:
    if "\r" in line:
        raise ConfigError("has a carriage return inside: save the file with the line ends LF or CRLF", field=where)
    titles = _bounded_cells(line, where)
    if titles is None:
        raise ConfigError("has a quote that is not closed: close it", field=where)
    names = [title.strip().casefold() for title in titles]
    missing = [title for title in ("Key", "Name") if title.casefold() not in names]
    if missing:
        raise ConfigError(f"must name the columns, {' and '.join(missing)} among them", field=where)
    if any(names.count(name) > 1 for name in _COLUMNS):
        raise ConfigError("names a column twice: rename or remove one of the two", field=where)
    index = {name: names.index(name) for name in _COLUMNS if name in names}
    optional = (index.get("description"), index.get("enabled"), index.get("usageplanids"))
    return _Columns(len(names), index["key"], index["name"], *optional)


def _row(columns: _Columns, number: int, line: str, source: str) -> Row | RowWarning:
    row = _bounded_cells(line, f"{source}, line {number}")
    if row is None:
        remedy = "close it on the same line, and write a quote inside a quoted cell twice"
        return RowWarning(number, f"a quote is not closed: {remedy}")
    if len(row) > columns.width and any(row[columns.width :]):
        remedy = "put a list of plans, or any text with commas, in one pair of quotes"
        return RowWarning(number, f"has {len(row)} cells where the header has {columns.width}: {remedy}")
    row += [""] * (columns.width - len(row))
    value, name = row[columns.key].strip(), row[columns.name]
    description = "" if columns.description is None else row[columns.description]
    enabled = "" if columns.enabled is None else row[columns.enabled].strip().casefold()
    problems = list(_problems(value, name, description, enabled))
    if problems:
        return RowWarning(number, "; ".join(problems))
    plans = _plan_ids(row[columns.plans]) if columns.plans is not None else ()
    return Row(number, value, name, description or None, _FLAGS[enabled], plans or None)


def _plan_ids(cell: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in cell.split(",") if part.strip()))


def _problems(value: str, name: str, description: str, enabled: str) -> Iterator[str]:
    if not could_be_value(value):
        yield _about_value(value)
    if not name:
        yield "Name is empty: name the key"
    for title, text, max_length in (("Name", name, _MAX_NAME), ("Description", description, _MAX_DESCRIPTION)):
        if len(text) > max_length:
            yield f"{title} has {len(text):,} characters: shorten it to {max_length:,}"
        if not text.isprintable():
            yield f"{title} holds control characters: remove them"
        if without_values(text) != text:
            yield f"{title} holds an API key's value, which is stored nowhere: take it out"
    if enabled not in _FLAGS:
        yield "Enabled must be true or false, or empty: correct it"


def _about_value(value: str) -> str:
    if not value:
        return "Key is empty: give it a value of 20 to 128 characters"
    if not 20 <= len(value) <= 128:
        return f"Key has {len(value):,} characters: give it 20 to 128"
    return "Key holds a blank, or a character that is not visible ASCII: remove it"


_EXPORTED: tuple[tuple[str, Callable[[ApiKey], str]], ...] = (
    ("Id", lambda key: key.id),
    ("Name", lambda key: key.name),
    ("Description", lambda key: key.description),
    ("Enabled", lambda key: str(key.enabled).lower()),
    ("UsagePlanIds", lambda key: ",".join(key.plans)),
    ("Owner", lambda key: key.owner),
    ("Tags", lambda key: json.dumps(dict(key.tags), ensure_ascii=False) if key.tags else ""),
    ("CreatedAt", lambda key: _moment(key.created_at)),
    ("ExpiresAt", lambda key: _moment(key.expires_at)),
)
"""The columns of an exported file. There is no Key: values are stored nowhere."""


def exported_header() -> str:
    """Return the first line of an exported file."""
    return csv_line([title for title, _ in _EXPORTED])


def exported_rows(keys: Iterable[ApiKey]) -> str:
    """Return the lines of an exported file for these keys."""
    return "".join(csv_line([without_formula(cell(key)) for _, cell in _EXPORTED]) for key in keys)


def csv_line(texts: Sequence[str]) -> str:
    """Return a line of CSV, its cells quoted where `cells` (or a spreadsheet) would misread them."""
    return ",".join(map(_quoted, texts)) + "\n"


def _quoted(text: str) -> str:
    if text == text.strip() and not text.startswith("'") and not any(char in text for char in ',"\r\n'):
        return text
    return '"' + text.replace('"', '""') + '"'


def without_formula(text: str) -> str:
    """Return a text that no spreadsheet evaluates as a formula, and no terminal as an escape sequence.

    A single quote before it marks it as text. Control characters, which only garbage in Redis can hold, are escaped.
    """
    return printable(f"'{text}" if text.startswith(_FORMULAS) else text)


def _moment(seconds: float | None) -> str:
    """Return seconds since 1970 as ISO 8601 in UTC, to the microsecond where there are some."""
    if seconds is None:
        return ""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=round(seconds * MICROSECONDS))
    return moment.isoformat().replace("+00:00", "Z")
