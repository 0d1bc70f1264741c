"""Test vectors of buckets. `why` is the calculation, on paper, of what the script has to answer.

Unless a case says otherwise: 10 requests a second are 1 token per 100 000 us, so a bucket of 5 holds 500 000 units
when full and one token is 100 000 of them. Replies are status, now, and for each limit: remaining, reset and, where
nothing was charged, wait. What is charged also counts for its day.
"""

from vector_bytes import DAILY, DAY, NOW, PLAN, TEN, TODAY, case, state, usual

HALF = DAY // 2
LARGE = 9007 * 10**12
"""The largest bucket of one token per 10^12 us: 0.002 % below 2^53."""

BUCKETS = [
    case(
        "bucket: the first request finds it full",
        "500000 - 100000 = 400000 left, 4 tokens; full again in 100000 us",
        [1, NOW, 4, 100_000],
        plan=TEN,
        writes={PLAN: state(400_000, day_used=1)},
    ),
    case(
        "bucket: the whole burst at once",
        "cost 5 of 5; full again in 500000 us",
        [1, NOW, 0, 500_000],
        plan=TEN,
        cost=5,
        writes={PLAN: state(0, day_used=5)},
    ),
    case(
        "bucket: empty, denied",
        "one token takes 100000 us, five take 500000; nothing is written",
        [0, NOW, 0, 500_000, 100_000],
        plan=TEN,
        before={PLAN: state(0)},
    ),
    case(
        "bucket: one microsecond too early",
        "99999 us gave 99999 units, 1 short; 400001 units to full",
        [0, NOW, 0, 400_001, 1],
        plan=TEN,
        before={PLAN: state(0, last=NOW - 99_999)},
    ),
    usual(
        "bucket: exactly in time",
        "100000 us gave one token, and it goes",
        [1, NOW, 0, 500_000],
        plan=TEN,
        before={PLAN: state(0, last=NOW - 100_000, day_used=5)},
        writes={PLAN: state(0, day_used=6)},
    ),
    case(
        "bucket: a year fills it no further than its burst",
        "full, so 4 are left after this one; no day was open",
        [1, NOW, 4, 100_000],
        plan=TEN,
        before={PLAN: state(0, last=NOW - 365 * DAY, day=0)},
        writes={PLAN: state(400_000, day_used=1)},
    ),
    usual(
        "bucket: part of a token is kept",
        "250000 + 30000 - 200000 = 80000: no whole token; 420000 to full",
        [1, NOW, 0, 420_000],
        plan=TEN,
        cost=2,
        before={PLAN: state(250_000, last=NOW - 30_000)},
        writes={PLAN: state(80_000, day_used=2)},
    ),
    case(
        "bucket: a cost above the burst never passes",
        "6 > 5: wait -1, though the bucket is full",
        [0, NOW, 5, 0, -1],
        plan=TEN,
        cost=6,
    ),
    case(
        "bucket: the largest cost there is",
        "2^53 - 1 is above every burst",
        [0, NOW, 5, 0, -1],
        plan=TEN,
        cost=2**53 - 1,
    ),
    case(
        "bucket: rate 0 admits nothing, ever",
        "0 tokens per 1 us: remaining 0, neither reset nor wait",
        [0, NOW, 0, -1, -1],
        plan=(5, 0, 1),
    ),
    case(
        "bucket: burst 0 admits nothing, ever",
        "1 > 0; an empty bucket of size 0 is full",
        [0, NOW, 0, 0, -1],
        plan=(0, 1, 100_000),
    ),
    case(
        "bucket: a wait that is no whole number is rounded up",
        "7 tokens per 1000000 us, empty: ceil(1000000 / 7) = 142858, for one token as for a full bucket of one",
        [0, NOW, 0, 142_858, 142_858],
        plan=(1, 7, 1_000_000),
        before={PLAN: state(0, per=1_000_000)},
    ),
    case(
        "bucket: a reset that is no whole number is rounded up",
        "7 tokens per 1000000 us, a bucket of one: ceil(1000000 / 7) = 142858",
        [1, NOW, 0, 142_858],
        plan=(1, 7, 1_000_000),
        writes={PLAN: state(0, per=1_000_000, day_used=1)},
    ),
    usual(
        "bucket: after the wait that was told it admits",
        "142858 * 7 = 1000006, capped at 1000000: one token",
        [1, NOW, 0, 142_858],
        plan=(1, 7, 1_000_000),
        before={PLAN: state(0, per=1_000_000, last=NOW - 142_858)},
        writes={PLAN: state(0, per=1_000_000, day_used=1)},
    ),
    usual(
        "bucket: exact at the largest numbers",
        "1 short of 9007 * 10^12, and one microsecond makes it full: cost 9007 passes",
        [1, NOW, 0, LARGE],
        plan=(9007, 1, 10**12),
        cost=9007,
        before={PLAN: state(LARGE - 1, per=10**12, last=NOW - 1)},
        writes={PLAN: state(0, per=10**12, day_used=9007)},
    ),
    case(
        "bucket: exact at the largest numbers, one unit short",
        "at the moment of that state 1 unit is missing, so 1 us is",
        [0, NOW, 9006, 1, 1],
        plan=(9007, 1, 10**12),
        cost=9007,
        before={PLAN: state(LARGE - 1, per=10**12)},
    ),
]

PEEKS = [
    case(
        "cost 0: status 3, where cost 1 would be admitted, and nothing is written",
        "a full bucket, shown full; not even the newer version is noted",
        [3, NOW, 5, 0, 0],
        plan=TEN,
        cost=0,
        version=8,
    ),
    case(
        "cost 0: denied where cost 1 would be",
        "as for cost 1: bucket empty; 7 of 100 used",
        [0, NOW, 0, 500_000, 100_000, 93, HALF, 0],
        plan=TEN,
        quota=DAILY,
        cost=0,
        before={PLAN: state(0, window=TODAY * 64 + 1, used=7)},
    ),
    case(
        "cost 0: a wait that is no whole number is rounded up",
        "7 tokens per 1000000 us, empty: ceil(1000000 / 7) = 142858",
        [0, NOW, 0, 142_858, 142_858],
        plan=(1, 7, 1_000_000),
        cost=0,
        before={PLAN: state(0, per=1_000_000)},
    ),
    case(
        "cost 0: a quota of 1 that is used admits in the next window",
        "1 > 0 that are left, but 1 <= 1: wait until midnight",
        [0, NOW, 0, HALF, HALF],
        quota=(1, *DAILY[1:]),
        cost=0,
        before={PLAN: state(per=0, last=0, window=TODAY * 64 + 1, used=1)},
    ),
    case(
        "cost 0: more is used than the limit by now",
        "120 of 100: shown as 0",
        [0, NOW, 0, HALF, HALF],
        quota=DAILY,
        cost=0,
        before={PLAN: state(per=0, last=0, window=TODAY * 64 + 1, used=120)},
    ),
    case(
        "cost 0: re-anchors nothing",
        "the clock is 10 s back: judged as if re-anchored, but not written",
        [0, NOW, 0, 500_000, 100_000],
        plan=TEN,
        cost=0,
        before={PLAN: state(0, last=NOW + 10_000_000)},
    ),
]
