"""Values of API keys: generated, recognised, and turned into the digest that is all Redis ever sees."""

from __future__ import annotations

import hmac
import re
import secrets
import string
import zlib
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from typing import Any

from ratelimit import validation
from ratelimit.errors import ConfigError
from ratelimit.validation import shown

_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ID_ALPHABET = string.digits + string.ascii_lowercase
GENERATED_VALUE = rf"\b{validation.GENERATED_VALUE}\b"
"""What secret scanners may look for: a generated key value."""
_VALUE = re.compile(r"[!-~]{20,128}")
_DIGEST_BYTES = 16
_PEPPER_PROBE = b"ratelimit: is this the same pepper?"


def generated_value() -> str:
    """Return a new key value: `rl_live_`, 30 random base62 characters (178 bits) and a CRC-32 in base62."""
    body = "".join(secrets.choice(_BASE62) for _ in range(30))
    return f"rl_live_{body}{_checksum(body)}"


def _checksum(body: str) -> str:
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    return digits


def generated_id() -> str:
    """Return a new key id, 10 lower-case letters and digits, as AWS makes them."""
    number, letters = secrets.randbelow(len(_ID_ALPHABET) ** 10), ""
    for _ in range(10):
        number, letter = divmod(number, len(_ID_ALPHABET))
        letters += _ID_ALPHABET[letter]
    return letters


def generated_token() -> str:
    """Return 8 random characters: the stamp of a record's revision, or the epoch of a catalogue."""
    return secrets.token_urlsafe(6)


class Secret:
    """A key's value in transit. Tracebacks that show local variables show its repr, which hides the value."""

    __slots__ = ("value",)

    def __init__(self, value: str) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "Secret(...)"


def own_value(value: object) -> str:
    """Return a key value chosen by its owner. The error never shows it."""
    if not isinstance(value, str) or _VALUE.fullmatch(value) is None:
        given = f"{len(value)} characters" if isinstance(value, str) else shown(type(value).__name__)
        raise ConfigError(f"must be 20 to 128 visible ASCII characters without blanks, not {given}", field="value")
    return value


def could_be_value(text: str) -> bool:
    """Return whether any key could have this value; noise is denied without asking Redis."""
    return _VALUE.fullmatch(text) is not None


Pepper = str | bytes | None
Peppers = Pepper | Sequence[str | bytes]
"""A secret, or several while one replaces another, the newest first."""


class Digester:
    """HMAC-SHA256 of a key value under a pepper, its first 128 bits in base64url: 22 characters.

    Several peppers, the newest first, are for the time in which one replaces another: keys are stored under the
    newest, and found under any.
    """

    def __init__(self, pepper: Peppers = None) -> None:
        given: list[Any] = list(pepper) if isinstance(pepper, list | tuple) else [pepper]
        if not given or any(not isinstance(item, str | bytes | None) for item in given):
            raise ConfigError(
                "must be text, bytes, None, or a list of texts or bytes, the newest first", field="pepper"
            )
        try:
            peppers = [item.encode() if isinstance(item, str) else item or b"" for item in given]
        except UnicodeEncodeError:  # whose text would show it
            raise ConfigError("holds half a character (a lone surrogate): pass it as bytes", field="pepper") from None
        self._macs = [hmac.new(pepper, digestmod="sha256") for pepper in peppers]

    def __call__(self, value: str) -> str:
        """Return the digest of a key value under the newest pepper."""
        return _digest(self._macs[0], value.encode())

    def all(self, value: str) -> list[str]:
        """Return the digests of a key value under each pepper, the newest first."""
        return [_digest(mac, value.encode()) for mac in self._macs]

    @property
    def probes(self) -> list[str]:
        """Check values that distinguish peppers without revealing them, the newest first."""
        return [_digest(mac, _PEPPER_PROBE) for mac in self._macs]


def _digest(keyed_mac: hmac.HMAC, message: bytes) -> str:
    mac = keyed_mac.copy()  # quicker than `hmac.digest`, which begins with the pepper each time
    mac.update(message)
    return urlsafe_b64encode(mac.digest()[:_DIGEST_BYTES]).decode().rstrip("=")
