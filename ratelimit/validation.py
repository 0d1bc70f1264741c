"""Checks of input. Each names the field, shows the value and says what would be accepted."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from fractions import Fraction
from math import inf
from typing import Any

from ratelimit.errors import ConfigError, NotFound

EXACT = 2**53
"""Whole numbers below this are exact in Lua, whose numbers are IEEE doubles."""

MIN_LEASE, MAX_LEASE = 0.001, 1.0
"""Seconds. Shorter than a round trip, a lease saves none; longer, its units are missed elsewhere."""

MAX_IDENTITIES = 2**30
"""Of one plan. One of 2^18 is counted then, by so many bits of a digest."""

_MAX_TAGS = 50
_SHORTEST_VALUE = 20
_LONGEST_SUBJECT = 256
_MAX_EXPONENT = 1000
_MAX_DIGITS = 400
_EXPONENT = re.compile(r"[eE]([+-]?[\d_]+)\s*$")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,127}")
_STAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,63}/[A-Za-z0-9][A-Za-z0-9._~-]{0,63}")
_METHOD = re.compile(r"[A-Z]{1,32} /[!-)+-~]{0,255}")
_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,63}")


GENERATED_VALUE = r"rl_live_[0-9A-Za-z]{36}"
"""A key value as it is generated."""


def without_values(text: str) -> str:
    """Return a text in which no generated key value can be read: somebody may have taken one for an id or a name."""
    return re.sub(GENERATED_VALUE, "rl_live_... (an API key's value)", text)


def shown(value: object) -> str:
    """Show `value` in an error message: its repr, cut to a readable length, and no key's value."""
    try:
        text = str(value) if isinstance(value, Decimal) else repr(value)
    except ValueError:
        return "a number of thousands of digits"
    except RecursionError:
        return "something nested too deeply"
    text = without_values(text)
    return text if len(text) <= 60 else f"{text[:57]}..."


def shown_id(key_id: object) -> str:
    """Show the id of a key in an error message, unless it could be a key's value that was taken for one."""
    if isinstance(key_id, str) and len(key_id) >= _SHORTEST_VALUE:
        return f"of {len(key_id)} characters (ids are short: is it the key's value?)"
    return shown(key_id)


def whole(value: object, field: str, *, least: int = 0, below: int = EXACT) -> int:
    """Return `value` if it is a whole number (no bool, no float) in [least, below)."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"must be a whole number, not {shown(value)}", field=field)
    if not least <= value < below:
        raise ConfigError(f"must be from {least} to {below - 1}, not {shown(value)}", field=field)
    return value


def seconds(value: object, field: str, at_most: float = inf) -> float:
    """Return a time above 0, in seconds, as a float."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= at_most or value == inf:
        most = "" if at_most == inf else f", at most {at_most:g}"
        raise ConfigError(f"must be seconds above 0{most}, not {shown(value)}", field=field)
    return float(value)


def above_zero(value: object, field: str) -> int:
    """Return `value` if it is a whole number above 0."""
    if type(value) is not int or value < 1:
        raise ConfigError(f"must be a whole number above 0, not {shown(value)}", field=field)
    return value


def rate(value: object, field: str) -> Fraction:
    """Return tokens per second as an exact fraction; a float counts as the decimal it shows (0.1 is one tenth)."""
    remedy = "write tokens per second as a number >= 0, such as 10, 0.5 or '1/3'"
    if isinstance(value, bool) or not isinstance(value, int | float | str | Fraction | Decimal):
        raise ConfigError(f"must be a rate, not {shown(value)}: {remedy}", field=field)
    _refuse_many_digits(value, field)
    try:
        _refuse_huge_exponent(value)
        exact = Fraction(repr(float(value)) if isinstance(value, float) else value)
    except (ValueError, OverflowError, ZeroDivisionError):
        raise ConfigError(f"must be a finite rate, not {shown(value)}: {remedy}", field=field) from None
    if exact < 0:
        raise ConfigError(f"must not be negative, got {shown(value)}: {remedy}", field=field)
    return exact


def _refuse_many_digits(value: float | str | Fraction | Decimal, field: str) -> None:
    """Raise ConfigError for a number that takes long to compute with: none of so many digits could be counted."""
    if isinstance(value, str):
        digits = len(value)
    elif isinstance(value, Decimal):
        digits = len(value.as_tuple().digits)
    else:
        digits = 0 if isinstance(value, float) else _digits(max(abs(value.numerator), value.denominator))
    if digits > _MAX_DIGITS:
        raise ConfigError(f"must be written with {_MAX_DIGITS} characters at most: give fewer digits", field=field)


def _digits(number: int) -> int:
    return number.bit_length() * 30_103 // 100_000


def _refuse_huge_exponent(value: object) -> None:
    """Raise OverflowError for a decimal such as 1e400000000: as a fraction it would fill the memory."""
    written = _EXPONENT.search(str(value)) if isinstance(value, str | Decimal) else None
    # `Decimal` itself gives up on exponents of twenty digits. Of thousands of digits `int` raises ValueError.
    if written is not None and abs(int(written[1])) > _MAX_EXPONENT:
        raise OverflowError


def one_of(value: object, choices: Iterable[str], field: str) -> str:
    """Return `value` if it is one of the texts in `choices`."""
    accepted = tuple(choices)
    if not isinstance(value, str) or value not in accepted:
        raise ConfigError(f"must be one of {', '.join(accepted)}, not {shown(value)}", field=field)
    return value


def on_unavailable(value: Any, *, or_none: bool = False) -> Any:
    """Return what is to become of checks while Redis is away; with `or_none`, None leaves that to others."""
    if value is None and or_none:
        return None
    return one_of(value, ("local", "open", "closed"), "on_unavailable")


def _matching(value: object, pattern: re.Pattern[str], field: str, remedy: str) -> str:
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise ConfigError(f"cannot be {shown(value)}: {remedy}", field=field)
    _refuse_value(value, field)
    return value


def key_id(value: object) -> str:
    """Return the id of a key; the error shows none that could be a key's value."""
    if not isinstance(value, str) or _NAME.fullmatch(value) is None:
        raise ConfigError(f"cannot be {shown_id(value)}: an id is 10 lower-case letters and digits", field="key_id")
    if len(value) >= _SHORTEST_VALUE:
        # Redis is not asked: a key's value must not reach it.
        raise NotFound(f"there is no key with the id {shown_id(value)}", field="key_id")
    return value


def identifier(value: object, field: str) -> str:
    """Return the id of a plan: it becomes part of names in Redis."""
    return _matching(value, _NAME, field, "use 1 to 128 letters, digits and . _ ~ -, a letter or digit first")


def stage_id(value: object, field: str) -> str:
    """Return the id of a stage, "<api>/<stage>"."""
    remedy = "write '<api>/<stage>', such as 'petstore/prod', of letters, digits and . _ ~ -"
    return _matching(value, _STAGE, field, remedy)


def is_method(text: str) -> bool:
    """Return whether a text is "<VERB> <path>": what a plan or a stage may list."""
    return _METHOD.fullmatch(text) is not None


def method_name(value: object, field: str) -> str:
    """Return the name of a method, "<VERB> <path>"."""
    remedy = "write '<VERB> <path>', such as 'GET /pets/{id}', without wildcards: methods not listed share one bucket"
    return _matching(value, _METHOD, field, remedy)


def namespace(value: object, field: str = "namespace") -> str:
    """Return the prefix of every name in Redis."""
    return _matching(value, _NAMESPACE, field, "use 1 to 64 letters, digits and . _ ~ -, a letter or digit first")


def subject(value: object, field: str) -> str:
    """Return the subject of an identity. The error never shows it."""
    remedy = f"pass text of 1 to {_LONGEST_SUBJECT} characters that identifies the caller, such as 'user:42'"
    if not isinstance(value, str):
        raise ConfigError(f"must be text, not {type(value).__name__}: {remedy}", field=field)
    if not 1 <= len(value) <= _LONGEST_SUBJECT:
        raise ConfigError(f"has {len(value)} characters: {remedy}", field=field)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:  # whose text would show it
            raise ConfigError("holds half a character (a lone surrogate): decode it as UTF-8", field=field) from None
    return value


def printable(text: str) -> str:
    """Return a text that others wrote so that it can be shown: control characters are spelled out."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _refuse_value(text: str, field: str) -> None:
    if re.search(GENERATED_VALUE, text):
        raise ConfigError("holds an API key's value, which is stored nowhere: take it out", field=field)


def label(value: object, field: str, most: int = 1024) -> str:
    """Return a free text for people: printable, at most `most` characters, no key's value in it; may be empty."""
    if not isinstance(value, str):
        raise ConfigError(f"must be text, not {shown(value)}", field=field)
    if len(value) > most:
        raise ConfigError(f"has {len(value)} characters, at most {most} are stored", field=field)
    if any(not char.isprintable() for char in value):
        raise ConfigError(f"holds control characters ({shown(value)}): remove them", field=field)
    _refuse_value(value, field)
    return value


def tags(value: object, field: str = "tags") -> dict[str, str]:
    """Return tags: at most 50, names of 1 to 128 characters, texts of at most 256."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"must be a mapping of texts, not {shown(value)}", field=field)
    if len(value) > _MAX_TAGS:
        raise ConfigError(f"has {len(value)} entries, at most {_MAX_TAGS} are stored", field=field)
    checked = {}
    for name, text in value.items():
        if not name:
            raise ConfigError("has an entry without a name: name it", field=field)
        tag = label(name, field, most=128)
        checked[tag] = label(text, f"{field}.{tag}", most=256)
    return checked


def flag(value: object, field: str) -> bool:
    """Return `value` if it is True or False."""
    if not isinstance(value, bool):
        raise ConfigError(f"must be true or false, not {shown(value)}", field=field)
    return value


def percentages(value: object, *, has_quota: bool) -> tuple[int, ...]:
    """Return the percentages of a quota that are announced when reached, ascending."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ConfigError(f"must be a list of percentages, not {shown(value)}", field="alerts")
    checked = sorted({whole(percent, "alerts", least=1, below=101) for percent in value})
    if checked and not has_quota:
        raise ConfigError("are about a quota, and the plan has none: add one", field="alerts")
    return tuple(checked)


def lease(value: object) -> float:
    """Return the term of a lease in seconds, 0 for none."""
    seconds = -1.0
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError, ValueError):  # as of a whole number beyond all floats
            seconds = float(value)
    if seconds != 0 and not MIN_LEASE <= seconds <= MAX_LEASE:
        raise ConfigError(f"must be 0 (none) or {MIN_LEASE} to {MAX_LEASE} seconds, not {shown(value)}", field="lease")
    return seconds


def max_identities(value: object) -> int | None:
    """Return how many identities a plan may have; None for any number."""
    return None if value is None else whole(value, "max_identities", below=MAX_IDENTITIES + 1)


def cost(value: object) -> int:
    """Return the cost of a request.

    Raises:
        TypeError: It is no whole number.
        ValueError: It is negative.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"cost must be a whole number >= 0, not {shown(value)}")
    if value < 0:
        raise ValueError(f"cost must be a whole number >= 0, not {shown(value)}")
    return value


def texts(key: object, stage: object, method: object) -> None:
    """Raise TypeError for a request whose parts are no texts; a key may be None.

    Identities are not passed here.
    """
    if type(key) is type(stage) is type(method) is str:
        return  # as almost always
    for name, value in (("key", key), ("stage", stage), ("method", method)):
        if not isinstance(value, str) and not (name == "key" and value is None):
            wanted = "text, an Identity or None" if name == "key" else "text"
            raise TypeError(f"{name} must be {wanted}, not {type(value).__name__}")
