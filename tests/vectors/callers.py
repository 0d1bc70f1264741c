"""Test vectors of callers that are not up to date, and of what is no state and no request; as buckets.py."""

from vectors.packing import (
    ACCOUNT,
    ARGUMENTS,
    DAILY,
    KEY,
    METHOD,
    NOW,
    PLAN,
    TEN,
    WINDOW,
    bucket,
    case,
    doubles,
    state,
    version_token,
)

ADMITTED = [1, NOW, 4, 100_000]
CHARGED = {PLAN: state(400_000, day_used=1)}
REQUEST = doubles(NOW, 1, 0, 1, *TEN, -1, 0, 0, 0) + version_token()

CALLERS = [
    case(
        "key changed: the hash goes by another stamp",
        "the record was changed after the caller read it",
        [-1, NOW],
        plan=TEN,
        before={"r": version_token(stamp="stamp--2")},
    ),
    case(
        "key changed: the hash is gone",
        "a deleted key has no version token; checking it makes nothing",
        [-1, NOW],
        plan=TEN,
        before={"r": None},
    ),
    case(
        "key changed: what has no version token is no key",
        "a hash with counts alone",
        [-1, NOW],
        plan=TEN,
        before={"r": None, PLAN: state(0)},
    ),
    case(
        "key changed: a version token that is none",
        "8 of its 26 bytes, though they are those of the epoch",
        [-1, NOW],
        plan=TEN,
        before={"r": version_token()[:8], PLAN: state(500_000)},
    ),
    case(
        "key changed: a version token that is empty",
        "no stamp",
        [-1, NOW],
        plan=TEN,
        before={"r": b"", PLAN: state(500_000)},
    ),
    case(
        "key changed: comes before anything else",
        "stamp, version, expiry and windows are all out of date",
        [-1, NOW],
        plan=TEN,
        quota=(100, 1, 2, 3),
        before={"r": version_token(9, stamp="stamp--2")},
        valid_until=1,
    ),
    case(
        "catalogue behind: the key was charged under a newer version",
        "8 > 7 in one epoch",
        [-2, NOW],
        plan=TEN,
        before={"r": version_token(8)},
    ),
    case(
        "catalogue behind: versions are compared as numbers",
        "10 > 9; ten digits with leading zeros sort as they count",
        [-2, NOW],
        plan=TEN,
        version=9,
        before={"r": version_token(10)},
    ),
    case(
        "catalogue behind: but the caller got this reply before and read nothing newer",
        "flags 3: a server lost version 8; admitted, and 7 is noted",
        ADMITTED,
        plan=TEN,
        flags=3,
        before={"r": version_token(8)},
        writes={"r": version_token(7), **CHARGED},
    ),
    case(
        "catalogue behind: comes before the expiry",
        "both are out of date",
        [-2, NOW],
        plan=TEN,
        valid_until=NOW,
        before={"r": version_token(8)},
    ),
    case(
        "version: a newer one is noted when something is charged",
        "8 > 7",
        ADMITTED,
        plan=TEN,
        version=8,
        writes={"r": version_token(8), **CHARGED},
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
        "epoch: of a caller that got this reply before and read nothing newer, the version holds",
        "flags 3: admitted, and the new epoch is noted, though its version is lower",
        ADMITTED,
        plan=TEN,
        flags=3,
        epoch="epoch--2",
        version=1,
        writes={"r": version_token(1, "epoch--2"), **CHARGED},
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
        "key expired: comes before the windows",
        "both are out of date",
        [-4, NOW],
        quota=(100, 1, 2, 3),
        valid_until=NOW,
    ),
]

NAN, INFINITY = float("nan"), float("inf")
UNSOUND = {
    "no number in the level": (PLAN, state(NAN)),
    "an endless level": (PLAN, state(INFINITY)),
    "half a unit": (PLAN, state(100_000.5)),
    "a time that is no number": (PLAN, state(100_000, last=NAN)),
    "an endless grant": (PLAN, state(500_000, window=WINDOW, granted=INFINITY)),
    "a grant out of range": (PLAN, state(500_000, window=WINDOW, granted=1e300)),
    "fewer than no units used": (PLAN, state(500_000, window=WINDOW, used=-1)),
    "no number of units used": (PLAN, state(500_000, window=WINDOW, used=NAN)),
    "a window that is no number": (PLAN, state(500_000, window=NAN)),
    "a negative P": (PLAN, state(500_000, per=-100_000)),
    "no number in a method's bucket": (METHOD, bucket(NAN)),
    "an endless level in a method's bucket": (METHOD, bucket(INFINITY)),
    "no P in a method's bucket": (METHOD, bucket(500_000, per=0)),
    "no number in a shared bucket": (ACCOUNT, bucket(NAN)),
    "half a unit in a shared bucket": (ACCOUNT, bucket(0.5)),
    "a level out of range in a shared bucket": (ACCOUNT, bucket(1e300)),
    "an endless time in a shared bucket": (ACCOUNT, bucket(500_000, last=INFINITY)),
}
"""Numbers that no script writes: what holds them, by what is wrong."""

FAULTS = [
    *(
        case(
            f"corrupt: {what}",
            "numbers of states are whole, and below 2^53: nobody is judged by others",
            f"RATELIMIT CORRUPT {place}",
            plan=TEN,
            quota=DAILY,
            own=[(METHOD, *TEN)],
            shared=[(ACCOUNT, *TEN)],
            before={PLAN: state(500_000, window=WINDOW), place: held},
        )
        for what, (place, held) in UNSOUND.items()
    ),
    *(
        case(
            f"corrupt: {what}, of a request that asks only",
            "flag 64",
            f"RATELIMIT CORRUPT {place}",
            plan=TEN,
            quota=DAILY,
            flags=65,
            before={place: held},
        )
        for what, (place, held) in UNSOUND.items()
        if place == PLAN
    ),
    case(
        "arguments: a flag that is not known",
        "512: who does not know it must not decide",
        ARGUMENTS,
        argv=[doubles(NOW, 1, 0, 513, *TEN, *DAILY) + version_token(), b"p:gold"],
    ),
    case(
        "arguments: a bound on identities, of a key",
        "flag 128 without 32",
        ARGUMENTS,
        argv=[doubles(NOW, 1, 0, 129, *TEN, *DAILY) + version_token(), b"p:gold"],
    ),
    case(
        "corrupt: the plan's state has 64 bytes",
        "56 are due; the account's bucket was not charged",
        "RATELIMIT CORRUPT p:gold",
        plan=TEN,
        shared=[(ACCOUNT, *TEN)],
        before={PLAN: bytes(64)},
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
        argv=[doubles(NOW, 1, 0, 9, *TEN, *DAILY) + version_token() + doubles(80), b"p:gold"],
        keys=[KEY, "ratelimit:alerts"],
    ),
    case(
        "arguments: a shadow without its field",
        "flag 4 needs one more",
        ARGUMENTS,
        argv=[doubles(NOW, 1, 0, 5, *TEN, *DAILY) + version_token() + doubles(*TEN, *DAILY), b"p:gold"],
    ),
    case("arguments: a key without its bucket", "138 bytes are due", ARGUMENTS, plan=TEN, keys=[KEY, ACCOUNT]),
]
