"""Values of API keys: made, recognised, and turned into the digest that is all Redis ever sees."""

from __future__ import annotations

import hmac
import re
import secrets
import string
import zlib
from base64 import urlsafe_b64encode

from ratelimit.core.validate import shown
from ratelimit.errors import ConfigError

_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ID_ALPHABET = string.digits + string.ascii_lowercase
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
    return "".join(secrets.choice(_ID_ALPHABET) for _ in range(10))


def generated_token() -> str:
    """Return 8 random characters: the stamp of a record's revision, or the epoch of a catalogue."""
    return secrets.token_urlsafe(6)


def own_value(value: object) -> str:
    """Return a key value chosen by its owner. The error never shows it."""
    if not isinstance(value, str) or _VALUE.fullmatch(value) is None:
        told = f"{len(value)} characters" if isinstance(value, str) else shown(type(value).__name__)
        raise ConfigError(f"must be 20 to 128 visible ASCII characters without blanks, not {told}", field="value")
    return value


def could_be_value(text: str) -> bool:
    """Tell whether any key could have this value; noise is refused without asking Redis."""
    return _VALUE.fullmatch(text) is not None


class Digester:
    """HMAC-SHA256 of a key value under a pepper, its first 128 bits in base64url: 22 characters."""

    def __init__(self, pepper: str | bytes | None = None) -> None:
        if pepper is not None and not isinstance(pepper, str | bytes):
            raise ConfigError(f"must be text, bytes or None, not {type(pepper).__name__}", field="pepper")
        self._pepper = pepper.encode() if isinstance(pepper, str) else pepper or b""

    def __call__(self, value: str) -> str:
        """Return the digest of a key value."""
        return self._digest(value.encode())

    def _digest(self, message: bytes) -> str:
        whole = hmac.digest(self._pepper, message, "sha256")
        return urlsafe_b64encode(whole[:_DIGEST_BYTES]).decode().rstrip("=")

    @property
    def probe(self) -> str:
        """A digest that tells two peppers apart without telling either."""
        return self._digest(_PEPPER_PROBE)
