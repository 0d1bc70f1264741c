"""Values of API keys and their digests."""

import hashlib
import re
import string
import zlib
from base64 import urlsafe_b64decode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit import ConfigError
from ratelimit.registry import key_values
from ratelimit.registry.key_values import Digester, could_be_value, own_value

BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
MANY = 300


def hmac_by_hand(pepper, message):
    """HMAC-SHA256 as RFC 2104 defines it, of hashlib's SHA-256 alone."""
    block = (hashlib.sha256(pepper).digest() if len(pepper) > 64 else pepper).ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block) + message).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in block) + inner).digest()


def test_generated_values_have_their_shape_and_no_two_are_alike():
    """`rl_live_`, 30 characters and 6 more, base62 all: 44 characters that pass for a value."""
    values = [key_values.generated_value() for _ in range(MANY)]
    assert [value for value in values if not re.fullmatch(r"rl_live_[0-9A-Za-z]{36}", value)] == []
    assert len(set(values)) == MANY
    assert all(map(could_be_value, values))


def test_the_end_of_a_generated_value_is_its_checksum():
    """The last six characters are the CRC-32 of the thirty before them, in base62."""
    for _ in range(MANY):
        body, check = (value := key_values.generated_value())[8:38], value[38:]
        number = 0
        for char in check:
            number = number * 62 + BASE62.index(char)
        assert number == zlib.crc32(body.encode())


def test_the_checksum_fills_its_six_places():
    """A small CRC has leading zeros: 62^6 is above 2^32, so six places always do."""
    assert 62**6 > 2**32
    assert key_values._checksum("0123456789ABCDEFGHIJabcdefghij") == "4Us3aw"
    small = next(text for text in map(str, range(100_000)) if zlib.crc32(text.encode()) < 62**4)
    assert key_values._checksum(small).startswith("00")


def test_ids_and_tokens_have_their_shape():
    """Ids are 10 lower-case letters and digits; stamps and epochs are 8 bytes, as the scripts need them."""
    ids, tokens = {key_values.generated_id() for _ in range(MANY)}, {key_values.generated_token() for _ in range(MANY)}
    assert len(ids) == len(tokens) == MANY
    assert [one for one in ids if not re.fullmatch(r"[0-9a-z]{10}", one)] == []
    assert [one for one in tokens if len(one.encode()) != 8] == []


@pytest.mark.parametrize("length", [20, 21, 127, 128])
def test_values_of_20_to_128_characters_are_accepted(length):
    """Every visible ASCII character may be part of a value."""
    value = "".join(chr(33 + i % 94) for i in range(length))
    assert own_value(value) is value
    assert could_be_value(value)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x" * 19,
        "x" * 129,
        "contains a blank here",
        "ends-with-a-newline--\n",
        "tab\tinside-this-value",
        "non-ascii-välue-of-20",
        "delete-\x7f-character-in",
        "nul-\x00-character-in-it",
    ],
)
def test_other_values_are_refused_and_never_shown(value):
    """The error tells the length, not the value."""
    assert not could_be_value(value)
    with pytest.raises(ConfigError) as caught:
        own_value(value)
    assert caught.value.field == "value"
    assert str(caught.value).endswith(f"not {len(value)} characters")
    assert not value or value not in repr(caught.value)


@pytest.mark.parametrize("value", [b"x" * 20, 12345678901234567890, ["x" * 20]])
def test_a_value_that_is_no_text_is_refused_by_its_type(value):
    """The error names the type alone."""
    with pytest.raises(ConfigError, match=f"^value: must be .*, not '{type(value).__name__}'$"):
        own_value(value)


@given(st.binary(max_size=200), st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=20, max_size=128))
def test_a_digest_is_half_an_hmac(pepper, value):
    """The first 128 bits of HMAC-SHA256, in 22 characters of base64url."""
    made = Digester(pepper)(value)
    assert re.fullmatch(r"[\w-]{22}", made, re.ASCII)
    assert urlsafe_b64decode(f"{made}==") == hmac_by_hand(pepper, value.encode())[:16]


@pytest.mark.parametrize(
    ("pepper", "expected"), [("pepper", "QAns9bnVpolzuK5ISnUJWg"), (None, "M9lS07KAh4aDJku9A5QEsQ")]
)
def test_a_digest_is_what_openssl_says(pepper, expected):
    """openssl dgst -sha256 -hmac PEPPER -binary | head -c 16 | base64, with + and / replaced and = dropped."""
    assert Digester(pepper)("my-own-key-value-0001") == expected


def test_a_pepper_is_text_or_bytes_or_none():
    """Text is its UTF-8; None is the empty pepper."""
    value = "my-own-key-value-0001"
    assert Digester("pfeffer-ü")(value) == Digester("pfeffer-ü".encode())(value)
    assert Digester()(value) == Digester("")(value) == Digester(b"")(value)


@pytest.mark.parametrize("pepper", [4711, [], ["fine", 4711], [["nested"]], {4711: 1}])
def test_any_other_pepper_is_refused_and_not_shown(pepper):
    """The error says what would do, not what was given."""
    with pytest.raises(ConfigError, match=r"^pepper: must be text, bytes, None, or a list") as caught:
        Digester(pepper)
    assert "4711" not in str(caught.value)


def test_several_peppers_store_under_the_newest_and_find_under_any():
    """A list is the time in which one replaces another, the newest first."""
    value = "my-own-key-value-0001"
    both = Digester(["new", b"old"])
    assert both(value) == Digester("new")(value)
    assert both.all(value) == [Digester("new")(value), Digester("old")(value)]
    assert Digester("new").all(value) == [Digester("new")(value)]
    assert both.probes == [Digester("new").probes[0], Digester("old").probes[0]]


def test_a_probe_tells_peppers_apart():
    """Equal for equal peppers, different for others, and made like any digest of a text that no key can have."""
    probe = "ratelimit: is this the same pepper?"
    assert Digester("a").probes == Digester(b"a").probes == [Digester("a")(probe)]
    assert Digester("a").probes != Digester("b").probes
    assert not could_be_value(probe)


def test_a_digester_shows_no_pepper():
    """Its repr is that of any object."""
    assert "secret" not in repr(Digester("secret"))


def test_what_scanners_look_for_is_what_is_generated():
    """The pattern finds a generated value in a text, whole, and nothing shorter or longer."""
    value = key_values.generated_value()
    assert re.findall(key_values.GENERATED_VALUE, f"key={value}, {value[:-1]} {value}x x{value}") == [value]
