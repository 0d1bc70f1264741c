"""What the test vectors are written with: bytes packed from the tables of lua/README.md, and nothing of the package."""

import struct

NOW = 1_772_625_600_000_000
"""Wednesday 2026-03-04 12:00:00 UTC: half past day 20516."""
DAY = 86_400_000_000
TODAY = 20_516 * DAY
KEY = "ratelimit:{k1}"
STAMP, EPOCH = b"stamp--1", b"epoch--1"
EXACT = 2**53


def u64(*numbers):
    """Unsigned 64-bit little-endian integers: all that this contract packs, texts of 8 bytes aside."""
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def fence(version, epoch=EPOCH):
    """Field "v" of a key's hash: the newest catalogue that this key was checked under."""
    return epoch + u64(version)


def own(burst, rate, per, field="b:gold"):
    """A bucket in the key's hash."""
    return u64(1, burst, rate, per, 0), field, False


def shared(burst, rate, per, key="ratelimit:account"):
    """A bucket in a Redis key of its own."""
    return u64(2, burst, rate, per, 0), key, True


def quota(limit, first=TODAY, second=TODAY + DAY, third=TODAY + 2 * DAY, field="q:gold"):
    """A quota, with the two windows between which the script chooses."""
    return u64(3, limit, first, second, third), field, False


def meter(field="q:gold"):
    """The count of a plan without a quota."""
    return u64(4, 0, 0, 0, 0), field, False


def bucket(per, level, last=NOW):
    """State of a bucket."""
    return u64(per, level, last)


def count(used, *, start=TODAY, stop=TODAY + DAY, granted=0, day=20_516, day_used=0):
    """State of a count."""
    return u64(start, stop, used, granted, day, day_used)


def case(
    name,
    why,
    limits,
    reply,
    *,
    before=None,
    writes=None,
    now=NOW,
    cost=1,
    valid_until=0,
    flags=1,
    version=7,
    epoch=EPOCH,
    keys=None,
    argv=None,
):
    """One vector. `before` and `writes` map keys to values; fields of the key's hash may stand for themselves.

    The hash starts with the record's stamp and the fence of version 7; None takes a field away. `writes` is what
    changes. `reply` is a list, or a text for an error.
    """
    has_key = flags % 2 == 1
    start = _changed({KEY: {"r": STAMP, "v": fence(7)}} if has_key else {}, before or {})
    request = u64(now, cost, valid_until, flags) + epoch + u64(version) + STAMP
    places = [place for _, place, is_shared in limits if is_shared]
    fields = [place.encode() for _, place, is_shared in limits if not is_shared]
    sent = [request, b"".join(packed for packed, _, _ in limits), *fields] if argv is None else argv
    return {
        "name": name,
        "why": why,
        "keys": ([KEY] if has_key else []) + places if keys is None else keys,
        "argv": [part.hex() for part in sent],
        "before": _hexed(start),
        "error" if isinstance(reply, str) else "reply": reply,
        "after": _hexed(_changed(start, writes or {})),
    }


def _changed(state, changes):
    new = {key: dict(value) if isinstance(value, dict) else value for key, value in state.items()}
    for name, value in changes.items():
        place = new if name.startswith("ratelimit:") else new[KEY]
        if value is None:
            del place[name]
        else:
            place[name] = value
    return {key: value for key, value in new.items() if value != {}}


def _hexed(state):
    return {
        key: {name: part.hex() for name, part in value.items()} if isinstance(value, dict) else value.hex()
        for key, value in state.items()
    }
