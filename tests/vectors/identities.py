"""Test vectors of callers without a stored key, identities; to read as buckets.py."""

from functools import partial

from vectors.packing import (
    ARGUMENTS,
    COUNTED,
    DAILY,
    DAY,
    HALF,
    IDENTITY,
    METHOD,
    NOW,
    OTHER_IDENTITY,
    PLAN,
    TEN,
    TODAY,
    WINDOW,
    bucket,
    count,
    doubles,
    state,
    usual,
    version_token,
)
from vectors.packing import case as any_case

TOKEN = version_token(stamp="--------")
MINUTE = 60_000_000
"""How long the hash is kept at least: in place of the time at which a key expires."""

of_an_identity = {"key": IDENTITY, "flags": 33, "valid_until": MINUTE, "stamp": "--------"}
case, usual_case = partial(any_case, **of_an_identity), partial(usual, **of_an_identity)
but_flags = {name: value for name, value in of_an_identity.items() if name != "flags"}
ADMITTED = [1, NOW, 4, 100_000]
CHARGED = {PLAN: state(400_000, day_used=1)}
KNOWN = {"r": TOKEN, PLAN: state(500_000, last=NOW - 1)}
DIGEST, OTHER_DIGEST = (name[name.index("~") + 1 : -1] for name in (IDENTITY, OTHER_IDENTITY))


def request(flags, *tail):
    """A request as bytes, where its length or its flags are the point."""
    return doubles(NOW, 1, MINUTE, flags, *TEN, -1, 0, 0, 0) + TOKEN + doubles(*tail)


IDENTITIES = [
    case(
        "identity: an absent hash is fresh",
        "5 - 1 tokens; the first charge writes the version token, with a stamp of eight dashes",
        ADMITTED,
        plan=TEN,
        writes={"r": TOKEN, **CHARGED},
    ),
    case(
        "identity: a fresh one that is denied leaves nothing",
        "a rate of 0 admits nobody",
        [0, NOW, 0, -1, -1],
        plan=(5, 0, 1),
    ),
    case(
        "identity: a fresh one that asks only leaves nothing",
        "cost 0: one token would pass",
        [3, NOW, 5, 0, 0],
        plan=TEN,
        cost=0,
    ),
    usual_case(
        "identity: one that was charged before is judged as a key",
        "500000 units, none missing: 4 tokens are left",
        ADMITTED,
        plan=TEN,
        before=KNOWN,
        writes=CHARGED,
    ),
    case(
        "identity: how long it is kept is no time at which it expires",
        "60 s since 1970 are long past, and the bucket alone denies",
        [0, NOW, 0, 500_000, 100_000],
        plan=TEN,
        before={"r": TOKEN, PLAN: state(0)},
    ),
    case(
        "identity: it was charged under a newer version of the catalogue",
        "8 > 7",
        [-2, NOW],
        plan=TEN,
        before={"r": version_token(8, stamp="--------"), PLAN: state(500_000)},
    ),
    usual_case(
        "identity: and the caller found nothing newer",
        "flags 35: admitted, and 7 is noted",
        ADMITTED,
        plan=TEN,
        before={"r": version_token(8, stamp="--------"), PLAN: state(500_000, day_used=1)},
        writes={"r": TOKEN, PLAN: state(400_000, day_used=2)},
        **{**of_an_identity, "flags": 35},
    ),
    case(
        "identity: a newer version of the caller is noted",
        "8 > 7",
        ADMITTED,
        plan=TEN,
        version=8,
        before=KNOWN,
        writes={"r": version_token(8, stamp="--------"), **CHARGED},
        is_usual=True,
    ),
    case(
        "identity: a hash with a key's stamp is none of an identity",
        "stamp--1 is not ---------",
        [-1, NOW],
        plan=TEN,
        before={"r": version_token()},
    ),
    usual_case(
        "identity: a state without a version token counts",
        "nothing is minted where only the token is lost: 1 token of 5 is left, and goes",
        [1, NOW, 0, 500_000],
        plan=TEN,
        before={PLAN: state(100_000)},
        writes={"r": TOKEN, PLAN: state(0, day_used=1)},
    ),
    case(
        "identity: a day that is over leaves no field of its own",
        "9 units of yesterday are forgotten; of a key they would be d:gold:20515",
        [1, NOW, 4, 100_000, 99, HALF],
        plan=TEN,
        quota=DAILY,
        before={
            "r": TOKEN,
            PLAN: state(500_000, last=NOW - DAY, window=WINDOW - 64, used=9, day=TODAY - 1, day_used=9),
        },
        writes={PLAN: state(400_000, window=WINDOW, used=1, day_used=1)},
    ),
    usual_case(
        "identity: with a bucket of a method, in the same hash",
        "both are full and pay 1; the plan's own bucket is not part of the request",
        [1, NOW, 4, 100_000, 99, HALF],
        quota=DAILY,
        own=[(METHOD, *TEN)],
        before={"r": TOKEN, PLAN: count(0, last=NOW - 1), METHOD: bucket(500_000, last=NOW - 1)},
        writes={PLAN: count(1, last=NOW, day_used=1), METHOD: bucket(400_000)},
    ),
    case(
        "identities: one more than the plan has",
        "1 of 2 is counted; this one becomes the second, under its digest",
        ADMITTED,
        plan=TEN,
        identities=(COUNTED, 2, 1),
        before={COUNTED: [OTHER_DIGEST]},
        writes={"r": TOKEN, **CHARGED, COUNTED: [OTHER_DIGEST, DIGEST]},
    ),
    case(
        "identities: as many as there may be",
        "1 of 1: denied, and no limit denies; nothing is left of it",
        [4, NOW, 5, 0, 0],
        plan=TEN,
        identities=(COUNTED, 1, 1),
        before={COUNTED: [OTHER_DIGEST]},
    ),
    case(
        "identities: as many as there may be, asked only",
        "flags 97: a peek says what a check would",
        [4, NOW, 5, 0, 0],
        plan=TEN,
        identities=(COUNTED, 1, 1),
        before={COUNTED: [OTHER_DIGEST]},
        **{**of_an_identity, "flags": 97},
    ),
    case(
        "identities: none at all",
        "at most 0",
        [4, NOW, 5, 0, 0],
        plan=TEN,
        identities=(COUNTED, 0, 1),
    ),
    case(
        "identities: a limit that denies comes first",
        "a rate of 0, and too many besides",
        [0, NOW, 0, -1, -1],
        plan=(5, 0, 1),
        identities=(COUNTED, 1, 1),
        before={COUNTED: [OTHER_DIGEST]},
    ),
    usual_case(
        "identities: who has a state goes on",
        "1 of 1, and it is this one",
        ADMITTED,
        plan=TEN,
        identities=(COUNTED, 1, 1),
        before={**KNOWN, COUNTED: [DIGEST]},
        writes=CHARGED,
    ),
    usual_case(
        "identities: who has a state and is not counted is counted with the next expiry",
        "the last charge was in an earlier half minute",
        ADMITTED,
        plan=TEN,
        identities=(COUNTED, 1, 1),
        before={**KNOWN, COUNTED: [OTHER_DIGEST]},
        writes={**CHARGED, COUNTED: [OTHER_DIGEST, DIGEST]},
    ),
    usual_case(
        "identities: not in the same half minute",
        "the last charge was now",
        ADMITTED,
        plan=TEN,
        identities=(COUNTED, 1, 1),
        before={"r": TOKEN, PLAN: state(500_000)},
        writes=CHARGED,
    ),
    case(
        "identities: of two one is counted, and this is not the one",
        "7CF in its digest are the bits of 59, 2 and 5: 59 x 64^2 + 2 x 64 + 5 is odd; 1 x 2 < 4",
        ADMITTED,
        plan=TEN,
        identities=(COUNTED, 4, 2),
        before={COUNTED: [OTHER_DIGEST]},
        writes={"r": TOKEN, **CHARGED},
    ),
    case(
        "identities: of two one is counted, and this is the one",
        "i8w are 34, 60 and 48: the number is even",
        ADMITTED,
        plan=TEN,
        identities=(COUNTED, 4, 2),
        writes={"r": TOKEN, **CHARGED, COUNTED: [OTHER_DIGEST]},
        **{**of_an_identity, "key": OTHER_IDENTITY},
    ),
    case(
        "identities: of two one is counted, and stands for both",
        "1 x 2 = 2 of 2",
        [4, NOW, 5, 0, 0],
        plan=TEN,
        identities=(COUNTED, 2, 2),
        before={COUNTED: [OTHER_DIGEST]},
    ),
    case(
        "arguments: an identity without its hash",
        "flag 32 needs 1",
        ARGUMENTS,
        plan=TEN,
        **{**of_an_identity, "flags": 32},
    ),
    case(
        "arguments: a shadow of an identity",
        "flag 4 beside 32",
        ARGUMENTS,
        plan=TEN,
        shadow=(*TEN, *DAILY, "s:p:silver"),
    ),
    case("arguments: an alert of an identity", "flag 8 beside 32", ARGUMENTS, quota=DAILY, alerts=[(80, 80)]),
    any_case(
        "arguments: identities that are bounded by nothing",
        "flag 128 needs 16 bytes at the end",
        ARGUMENTS,
        keys=[IDENTITY, COUNTED],
        argv=[request(161), b"p:gold"],
        **of_an_identity,
    ),
    any_case(
        "arguments: identities that are bounded twice",
        "flag 128 needs 16 bytes, not 32",
        ARGUMENTS,
        keys=[IDENTITY, COUNTED],
        argv=[request(161, 1, 1, 1, 1), b"p:gold"],
        **of_an_identity,
    ),
]
