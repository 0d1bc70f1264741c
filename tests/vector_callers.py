"""Test vectors of callers that are not up to date, and of what is no state and no request; as vector_buckets.py."""

from vector_bytes import ACCOUNT, DAILY, KEY, METHOD, NOW, PLAN, TEN, case, doubles, identity, state

ADMITTED = [1, NOW, 4, 100_000]
CHARGED = {PLAN: state(400_000, day_used=1)}
REQUEST = doubles(NOW, 1, 0, 1, *TEN, -1, 0, 0, 0) + identity()
ARGUMENTS = "RATELIMIT ARGUMENTS"

CALLERS = [
    case(
        "key changed: the hash goes by another stamp",
        "the record was changed after the caller read it",
        [-1, NOW],
        plan=TEN,
        before={"r": identity(stamp="stamp--2")},
    ),
    case(
        "key changed: the hash is gone",
        "a deleted key has no identity; checking it makes nothing",
        [-1, NOW],
        plan=TEN,
        before={"r": None},
    ),
    case(
        "key changed: what has no identity is no key",
        "a hash with counts alone",
        [-1, NOW],
        plan=TEN,
        before={"r": None, PLAN: state(0)},
    ),
    case(
        "key changed: told before anything else",
        "stamp, version, expiry and windows are all out of date",
        [-1, NOW],
        plan=TEN,
        quota=(100, 1, 2, 3),
        before={"r": identity(9, stamp="stamp--2")},
        valid_until=1,
    ),
    case(
        "catalogue behind: the key was charged under a newer version",
        "8 > 7 in one epoch",
        [-2, NOW],
        plan=TEN,
        before={"r": identity(8)},
    ),
    case(
        "catalogue behind: versions are compared as numbers",
        "10 > 9; ten digits with leading zeros sort as they count",
        [-2, NOW],
        plan=TEN,
        version=9,
        before={"r": identity(10)},
    ),
    case(
        "catalogue behind: having just loaded it is no excuse within one epoch",
        "flags 3, but 8 > 7",
        [-2, NOW],
        plan=TEN,
        flags=3,
        before={"r": identity(8)},
    ),
    case(
        "catalogue behind: told before the expiry",
        "both are out of date",
        [-2, NOW],
        plan=TEN,
        valid_until=NOW,
        before={"r": identity(8)},
    ),
    case(
        "version: a newer one is noted when something is charged",
        "8 > 7",
        ADMITTED,
        plan=TEN,
        version=8,
        writes={"r": identity(8), **CHARGED},
    ),
    case(
        "version: a newer one is not noted by a denial",
        "a denied check writes nothing",
        [0, NOW, 0, 500_000, 100_000],
        plan=TEN,
        version=8,
        before={PLAN: state(0)},
    ),
    case(
        "epoch: another life of the catalogue sends the caller to look",
        "the catalogue was made anew: no order between the two versions",
        [-2, NOW],
        plan=TEN,
        epoch="epoch--2",
        version=1,
    ),
    case(
        "epoch: a caller that has just looked knows which one holds",
        "flags 3: admitted, and the new epoch is noted, though its version is lower",
        ADMITTED,
        plan=TEN,
        flags=3,
        epoch="epoch--2",
        version=1,
        writes={"r": identity(1, "epoch--2"), **CHARGED},
    ),
    case("key expired: from that microsecond on", "now = valid_until", [-4, NOW], plan=TEN, valid_until=NOW),
    case(
        "key expired: not a microsecond before",
        "now = valid_until - 1",
        ADMITTED,
        plan=TEN,
        valid_until=NOW + 1,
        writes=CHARGED,
    ),
    case(
        "key expired: told before the windows",
        "both are out of date",
        [-4, NOW],
        quota=(100, 1, 2, 3),
        valid_until=NOW,
    ),
]

FAULTS = [
    case(
        "corrupt: the plan's state has 63 bytes",
        "64 are due; the account's bucket was not charged",
        "RATELIMIT CORRUPT p:gold",
        plan=TEN,
        shared=[(ACCOUNT, *TEN)],
        before={PLAN: bytes(63)},
    ),
    case(
        "corrupt: a method's bucket has 32 bytes",
        "24 are due",
        "RATELIMIT CORRUPT b:gold:petstore/prod:GET /pets",
        own=[(METHOD, *TEN)],
        quota=DAILY,
        before={METHOD: bytes(32)},
    ),
    case(
        "corrupt: a shared bucket has 12 bytes",
        "24 are due; named by its key",
        "RATELIMIT CORRUPT ratelimit:account",
        plan=TEN,
        shared=[(ACCOUNT, *TEN)],
        before={ACCOUNT: b"not a bucket"},
    ),
    case("arguments: none", "ARGV[1] is missing", ARGUMENTS, argv=[]),
    case("arguments: a request of 113 bytes", "114 are due", ARGUMENTS, argv=[REQUEST[:113], b"p:gold"]),
    case("arguments: a request of 115 bytes", "114 are due", ARGUMENTS, argv=[REQUEST + b"\0", b"p:gold"]),
    case("arguments: an API key without the plan's field", "flag 1 needs ARGV[2]", ARGUMENTS, argv=[REQUEST]),
    case(
        "arguments: a bucket without its field or key",
        "138 bytes are one further bucket",
        ARGUMENTS,
        argv=[REQUEST + doubles(*TEN), b"p:gold"],
    ),
    case(
        "arguments: a field without its bucket",
        "two fields are one further bucket, 138 bytes",
        ARGUMENTS,
        argv=[REQUEST, b"p:gold", METHOD.encode()],
    ),
    case(
        "arguments: half an alert",
        "pairs of 16 bytes are due",
        ARGUMENTS,
        argv=[doubles(NOW, 1, 0, 9, *TEN, *DAILY) + identity() + doubles(80), b"p:gold"],
        keys=[KEY, "ratelimit:alerts"],
    ),
    case(
        "arguments: a shadow without its field",
        "flag 4 needs one more",
        ARGUMENTS,
        argv=[doubles(NOW, 1, 0, 5, *TEN, *DAILY) + identity() + doubles(*TEN, *DAILY), b"p:gold"],
    ),
    case("arguments: a key without its bucket", "138 bytes are due", ARGUMENTS, plan=TEN, keys=[KEY, ACCOUNT]),
]
