"""Test vectors of callers that are not up to date, and of what is no state and no request; as vector_buckets.py."""

from vector_bytes import KEY, NOW, STAMP, bucket, case, fence, own, quota, shared, u64

TEN = own(5, 1, 100_000)
ACCOUNT = shared(5, 1, 100_000)
ADMITTED = [1, NOW, 0, 0, 0, 4, 100_000, 0]
CHARGED = {"b:gold": bucket(100_000, 400_000)}
FULL_REQUEST = u64(NOW, 1, 0, 1) + b"epoch--1" + u64(7) + STAMP

CALLERS = [
    case(
        "key changed: the hash holds another stamp",
        "the record was changed after the caller read it",
        [TEN],
        [-1, NOW],
        before={"r": b"stamp--2"},
    ),
    case(
        "key changed: the hash is gone",
        "a deleted key has no stamp; checking it makes nothing",
        [TEN],
        [-1, NOW],
        before={"r": None, "v": None},
    ),
    case(
        "key changed: told before anything else",
        "stamp, expiry and version are all out of date",
        [TEN],
        [-1, NOW],
        before={"r": b"stamp--2", "v": fence(9)},
        valid_until=1,
    ),
    case("key expired: from that microsecond on", "now = valid_until", [TEN], [-4, NOW], valid_until=NOW),
    case(
        "key expired: not a microsecond before",
        "now = valid_until - 1",
        [TEN],
        ADMITTED,
        valid_until=NOW + 1,
        writes=CHARGED,
    ),
    case(
        "key expired: told before the version",
        "both are out of date",
        [TEN],
        [-4, NOW],
        valid_until=NOW,
        before={"v": fence(9)},
    ),
    case(
        "catalogue behind: the key was checked under a newer version",
        "8 > 7 in one epoch",
        [TEN],
        [-2, NOW],
        before={"v": fence(8)},
    ),
    case(
        "catalogue behind: versions are compared as numbers",
        "256 > 255, though its first byte is smaller",
        [TEN],
        [-2, NOW],
        version=255,
        before={"v": fence(256)},
    ),
    case(
        "catalogue behind: having just loaded it is no excuse within one epoch",
        "flags 3, but 8 > 7",
        [TEN],
        [-2, NOW],
        flags=3,
        before={"v": fence(8)},
    ),
    case(
        "version: a newer one is noted when something is charged",
        "8 > 7",
        [TEN],
        ADMITTED,
        version=8,
        writes={"v": fence(8), **CHARGED},
    ),
    case(
        "version: a newer one is not noted by a denial",
        "a denied check writes nothing",
        [TEN],
        [0, NOW, 1, 100_000, 0, 0, 500_000, 100_000],
        version=8,
        before={"b:gold": bucket(100_000, 0)},
    ),
    case(
        "version: the first check of a key notes it",
        "the hash of a new key holds its stamp alone",
        [TEN],
        ADMITTED,
        before={"v": None},
        writes={"v": fence(7), **CHARGED},
    ),
    case(
        "epoch: another life of the catalogue sends the caller to look",
        "the catalogue was made anew: no order between the two versions",
        [TEN],
        [-2, NOW],
        epoch=b"epoch--2",
        version=1,
    ),
    case(
        "epoch: a caller that has just looked knows which one holds",
        "flags 3: admitted, and the fence is the new epoch's, though its version is lower",
        [TEN],
        ADMITTED,
        flags=3,
        epoch=b"epoch--2",
        version=1,
        writes={"v": fence(1, b"epoch--2"), **CHARGED},
    ),
]

ARGUMENTS = "RATELIMIT ARGUMENTS"
FAULTS = [
    case("corrupt: a bucket of 23 bytes", "24 are due", [TEN], "RATELIMIT CORRUPT 1", before={"b:gold": bytes(23)}),
    case(
        "corrupt: the second limit's count, and nothing was charged to the first",
        "48 bytes are due",
        [TEN, quota(100)],
        "RATELIMIT CORRUPT 2",
        before={"q:gold": bytes(24)},
    ),
    case(
        "corrupt: a shared bucket",
        "24 bytes are due",
        [ACCOUNT],
        "RATELIMIT CORRUPT 1",
        flags=0,
        before={"ratelimit:account": b"not a bucket"},
    ),
    case("arguments: no limits sent", "ARGV[2] is missing", [], ARGUMENTS, argv=[FULL_REQUEST]),
    case("arguments: no arguments", "ARGV[1] is missing", [], ARGUMENTS, argv=[]),
    case("arguments: a request of 55 bytes", "56 are due", [], ARGUMENTS, argv=[FULL_REQUEST[:55], b""]),
    case("arguments: a request of 57 bytes", "56 are due", [], ARGUMENTS, argv=[FULL_REQUEST + b"\0", b""]),
    case(
        "arguments: a limit of 39 bytes",
        "multiples of 40 are due",
        [],
        ARGUMENTS,
        argv=[FULL_REQUEST, TEN[0][:39], b"b:gold"],
    ),
    case("arguments: a limit without its field", "kind 1 needs one", [], ARGUMENTS, argv=[FULL_REQUEST, TEN[0]]),
    case(
        "arguments: a field without its limit",
        "one limit, two fields",
        [],
        ARGUMENTS,
        argv=[FULL_REQUEST, TEN[0], b"b:gold", b"b:silver"],
    ),
    case("arguments: a shared limit without its key", "kind 2 needs one", [ACCOUNT], ARGUMENTS, keys=[KEY]),
    case("arguments: a key without its limit", "no limit of kind 2", [TEN], ARGUMENTS, keys=[KEY, "ratelimit:account"]),
    case("arguments: an own bucket without an API key", "flag 1 is not set", [TEN], ARGUMENTS, flags=0),
]
