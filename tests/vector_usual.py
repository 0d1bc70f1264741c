"""Test vectors of the straight line through the script; to read as vector_buckets.py.

A check is usual if something was charged before under the same plan, on the same day and in the same window, and the
clock went on. If it is admitted, the reply is the new states as they are stored.
"""

from vector_bytes import (
    ACCOUNT,
    DAILY,
    DAY,
    METHOD,
    MIDNIGHT,
    NOW,
    PLAN,
    STAGE,
    TEN,
    TODAY,
    bucket,
    case,
    count,
    identity,
    state,
    usual,
)

HALF = DAY // 2
WINDOW = TODAY * 64 + 1
SLOW = (2, 1, 1_000_000)
"""Burst 2, one a second."""
SEVEN = (1, 7, 1_000_000)
METHODS, STAGES, ACCOUNTS = (METHOD, *SLOW), (STAGE, *SLOW), (ACCOUNT, *TEN)


def slow(level, last=NOW):
    return bucket(level, per=1_000_000, last=last)


STRAIGHT = [
    usual(
        "usual: the plan's bucket and quota",
        "200000 + 50 - 100000 = 100050, 399950 short of full; 8 of 100 used",
        [1, NOW, 1, 399_950, 92, HALF],
        plan=TEN,
        quota=DAILY,
        before={PLAN: state(200_000, last=NOW - 50, window=WINDOW, used=7, day_used=9)},
        writes={PLAN: state(100_050, window=WINDOW, used=8, day_used=10)},
    ),
    usual(
        "usual: stage and account too, used for the first time",
        "no state is a full bucket: 1 of 2, 4 of 5",
        [1, NOW, 4, 100_000, 1, 1_000_000, 4, 100_000, 92, HALF],
        plan=TEN,
        quota=DAILY,
        shared=[STAGES, ACCOUNTS],
        before={PLAN: state(500_000, window=WINDOW, used=7)},
        writes={
            PLAN: state(400_000, window=WINDOW, used=8, day_used=1),
            STAGE: slow(1_000_000),
            ACCOUNT: bucket(400_000),
        },
    ),
    usual(
        "usual: stage and account too, used before",
        "stage: 1500000 + 250000 - 1000000 = 750000, no whole token; account: full after a day, 4 left",
        [1, NOW, 4, 100_000, 0, 1_250_000, 4, 100_000],
        plan=TEN,
        shared=[STAGES, ACCOUNTS],
        before={PLAN: state(500_000), STAGE: slow(1_500_000, NOW - 250_000), ACCOUNT: bucket(0, last=NOW - DAY)},
        writes={PLAN: state(400_000, day_used=1), STAGE: slow(750_000), ACCOUNT: bucket(400_000)},
    ),
    usual(
        "usual: three further buckets, one of them in the key's hash",
        "the method's, the stage's, the account's, in this order: 2 of 2 go, 2 of 2, 3 of 5 are left",
        [1, NOW, 0, 2_000_000, 0, 2_000_000, 3, 200_000],
        own=[METHODS],
        shared=[STAGES, ACCOUNTS],
        cost=2,
        before={PLAN: count(0, first=0, days=0), METHOD: slow(2_000_000)},
        writes={
            PLAN: count(0, first=0, days=0, last=NOW, day_used=2),
            METHOD: slow(0),
            STAGE: slow(0),
            ACCOUNT: bucket(300_000),
        },
    ),
    usual(
        "usual: a method's bucket beside the plan's own",
        "nobody sends this now; both are charged, and both told",
        [1, NOW, 3, 200_000, 0, 2_000_000],
        plan=TEN,
        own=[METHODS],
        cost=2,
        before={PLAN: state(500_000)},
        writes={PLAN: state(300_000, day_used=2), METHOD: slow(0)},
    ),
    usual(
        "usual: a bucket of one method stands in for the plan's, which keeps what it has",
        "the plan's bucket of 3 tokens is not part of this request, its count is",
        [1, NOW, 1, 1_000_000, 99, HALF],
        own=[METHODS],
        quota=DAILY,
        before={PLAN: state(300_000, last=NOW - 5, window=WINDOW)},
        writes={PLAN: state(300_000, last=NOW - 5, window=WINDOW, used=1, day_used=1), METHOD: slow(1_000_000)},
    ),
    usual(
        "usual: the plan's bucket of another request may be ahead of the clock",
        "it is not part of this request; the time of the reply is that of the method's bucket",
        [1, NOW, 1, 1_000_000],
        own=[METHODS],
        before={PLAN: state(300_000, last=NOW + 5)},
        writes={PLAN: state(300_000, last=NOW + 5, day_used=1), METHOD: slow(1_000_000)},
    ),
    usual(
        "usual: a quota alone, in the second of the two windows",
        "3 us before the end of the day 7 + 2 of 100 are used",
        [1, MIDNIGHT + DAY - 3, 91, 3],
        quota=(100, TODAY - 1, TODAY, TODAY + 1),
        cost=2,
        now=MIDNIGHT + DAY - 3,
        before={PLAN: count(7, last=NOW)},
        writes={PLAN: count(9, last=MIDNIGHT + DAY - 3, day_used=2)},
    ),
    usual(
        "usual: in the first microsecond of day and window",
        "1 of 100, and a whole day ahead",
        [1, MIDNIGHT, 99, DAY],
        quota=DAILY,
        now=MIDNIGHT,
        before={PLAN: count(0)},
        writes={PLAN: count(1, last=MIDNIGHT, day_used=1)},
    ),
    usual(
        "usual: several rates that are no whole numbers",
        "ceil(1000000 / 7) = 142858 us to full, in each",
        [1, NOW, 0, 142_858, 0, 142_858],
        plan=SEVEN,
        shared=[(ACCOUNT, *SEVEN)],
        before={PLAN: state(1_000_000, per=1_000_000)},
        writes={PLAN: state(0, per=1_000_000, day_used=1), ACCOUNT: slow(0)},
    ),
    usual(
        "usual: the caller has just loaded the catalogue, the version is the one that is known",
        "flags 3; nothing is noted",
        [1, NOW, 4, 100_000],
        plan=TEN,
        flags=3,
        before={PLAN: state(500_000)},
        writes={PLAN: state(400_000, day_used=1)},
    ),
    usual(
        "usual: a newer version is noted with it",
        "8 > 7",
        [1, NOW, 4, 100_000],
        plan=TEN,
        version=8,
        before={PLAN: state(500_000)},
        writes={PLAN: state(400_000, day_used=1), "r": identity(8)},
    ),
    usual(
        "usual: a newer version is noted with a method's bucket",
        "8 > 7",
        [1, NOW, 1, 1_000_000],
        own=[METHODS],
        version=8,
        before={PLAN: count(0, first=0, days=0)},
        writes={
            PLAN: count(0, first=0, days=0, last=NOW, day_used=1),
            METHOD: slow(1_000_000),
            "r": identity(8),
        },
    ),
    usual(
        "usual: a cost of the whole burst, which is there, and of the whole quota",
        "5 of 5, 100 of 100 after 95",
        [1, NOW, 0, 500_000, 0, HALF],
        plan=TEN,
        quota=DAILY,
        cost=5,
        before={PLAN: state(500_000, window=WINDOW, used=95)},
        writes={PLAN: state(0, window=WINDOW, used=100, day_used=5)},
    ),
    usual(
        "usual: the largest numbers meet no rounding",
        "a year at 9007 * 10^12 units: 3.15 * 10^13 + 1 - 10^12 are left of the bucket",
        [1, NOW, 30, 9_007_000_000_000_000 - (365 * DAY + 1 - 10**12)],
        plan=(9007, 1, 10**12),
        before={PLAN: state(1, per=10**12, last=NOW - 365 * DAY)},
        writes={PLAN: state(365 * DAY + 1 - 10**12, per=10**12, day_used=1)},
    ),
    usual(
        "usual: a sum too large to be exact fills the bucket",
        "a year at 10^15 a microsecond",
        [1, NOW, 4, 1],
        plan=(5, 10**15, 1),
        before={PLAN: state(0, per=1, last=NOW - 365 * DAY)},
        writes={PLAN: state(4, per=1, day_used=1)},
    ),
]

DENIALS = [
    case(
        "usual, denied: by the plan's bucket, which refills; a full one and the quota admit",
        "30000 + 20000 of 100000: 50000 short of a token, 450000 of full",
        [0, NOW, 0, 450_000, 50_000, 2, 0, 0, 93, HALF, 0],
        plan=TEN,
        quota=DAILY,
        shared=[STAGES],
        before={PLAN: state(30_000, last=NOW - 20_000, window=WINDOW, used=7)},
    ),
    case(
        "usual, denied: by the second of two shared buckets",
        "plan 3 of 5, stage 1 of 2 with 400000 units more, account empty",
        [0, NOW, 3, 200_000, 0, 1, 600_000, 0, 0, 500_000, 100_000],
        plan=TEN,
        shared=[STAGES, ACCOUNTS],
        before={PLAN: state(300_000), STAGE: slow(1_000_000, NOW - 400_000), ACCOUNT: bucket(0)},
    ),
    case(
        "usual, denied: by a method's bucket, without a bucket of the plan",
        "1500000 units: a cost of 2 is 500000 short, as is a full bucket",
        [0, NOW, 1, 500_000, 500_000, 100, HALF, 0],
        own=[METHODS],
        quota=DAILY,
        cost=2,
        before={PLAN: count(0), METHOD: slow(1_500_000)},
    ),
    case(
        "usual, denied: waits that are no whole numbers are rounded up, in every bucket",
        "7 a us: 1000000 - 6 short, ceil(999994 / 7) = 142857; 1000000 short, 142858",
        [0, NOW, 0, 142_857, 142_857, 0, 142_858, 142_858],
        plan=SEVEN,
        shared=[(ACCOUNT, *SEVEN)],
        before={PLAN: state(6, per=1_000_000), ACCOUNT: slow(0)},
    ),
    case(
        "usual, denied: by a bucket and by the quota",
        "100000 us for the token, 12 h for the unit",
        [0, NOW, 0, 500_000, 100_000, 0, HALF, HALF],
        plan=TEN,
        quota=DAILY,
        before={PLAN: state(0, window=WINDOW, used=100)},
    ),
    case(
        "usual, denied: more is used than the limit by now",
        "120 of 100: shown as 0; the full bucket admits",
        [0, NOW, 5, 0, 0, 0, HALF, HALF],
        plan=TEN,
        quota=DAILY,
        before={PLAN: state(500_000, window=WINDOW, used=120)},
    ),
    case(
        "usual, denied: a bucket is never fuller than full",
        "after a day the plan's and the stage's are full; 5 of 5, 2 of 2, and nothing to wait for",
        [0, NOW, 5, 0, 0, 2, 0, 0, 0, HALF, HALF],
        plan=TEN,
        quota=DAILY,
        shared=[STAGES],
        before={PLAN: state(1, last=NOW - DAY // 4, window=WINDOW, used=100), STAGE: slow(1, NOW - DAY)},
    ),
]

USUAL = [*STRAIGHT, *DENIALS]
