"""Test vectors of quotas, of metering, and of several limits at once; to read as vector_buckets.py."""

from vector_bytes import DAY, EXACT, NOW, TODAY, bucket, case, count, meter, own, quota, shared, u64

HALF = DAY // 2
TEN = own(5, 1, 100_000)
ACCOUNT = shared(5, 1, 100_000)
STAGE = shared(2, 1, 1_000_000, "ratelimit:stage:petstore/prod:GET /pets")
WEEK_START = TODAY - 3 * DAY
"""Sunday 2026-03-01."""

COUNTS = [
    case(
        "quota: the first request of a key",
        "1 of 100 in [TODAY, TODAY + 1 day), which ends in 12 h; day 20516 has 1",
        [quota(100)],
        [1, NOW, 0, 0, 0, 99, HALF, 0],
        writes={"q:gold": count(1, day_used=1)},
    ),
    case(
        "quota: the last unit",
        "99 + 1 = 100",
        [quota(100)],
        [1, NOW, 0, 0, 0, 0, HALF, 0],
        before={"q:gold": count(99, day_used=9)},
        writes={"q:gold": count(100, day_used=10)},
    ),
    case(
        "quota: used up",
        "wait until the window ends; nothing is written",
        [quota(100)],
        [0, NOW, 1, HALF, 0, 0, HALF, HALF],
        before={"q:gold": count(100, day_used=100)},
    ),
    case(
        "quota: a cost above what is left",
        "97 + 4 > 100: denied, though 3 are left",
        [quota(100)],
        [0, NOW, 1, HALF, 0, 3, HALF, HALF],
        cost=4,
        before={"q:gold": count(97, day_used=97)},
    ),
    case(
        "quota: a cost above the limit never passes",
        "101 > 100",
        [quota(100)],
        [0, NOW, 1, -1, 0, 100, HALF, -1],
        cost=101,
    ),
    case(
        "quota: limit 0 admits nothing, ever",
        "1 > 0",
        [quota(0)],
        [0, NOW, 1, -1, 0, 0, HALF, -1],
    ),
    case(
        "quota: a lowered limit leaves less than nothing, shown as 0",
        "120 used of what is now 100",
        [quota(100)],
        [0, NOW, 1, HALF, 0, 0, HALF, HALF],
        before={"q:gold": count(120, day_used=120)},
    ),
    case(
        "granted: extends this window",
        "100 + 10 - 105 - 1 = 4",
        [quota(100)],
        [1, NOW, 0, 0, 0, 4, HALF, 0],
        before={"q:gold": count(105, granted=10, day_used=105)},
        writes={"q:gold": count(106, granted=10, day_used=106)},
    ),
    case(
        "granted: admits a cost above the limit while it lasts",
        "0 + 105 <= 110",
        [quota(100)],
        [1, NOW, 0, 0, 0, 5, HALF, 0],
        cost=105,
        before={"q:gold": count(0, granted=10)},
        writes={"q:gold": count(105, granted=10, day_used=105)},
    ),
    case(
        "granted: what it cannot admit now, no later window will",
        "40 + 105 > 110, and 105 > 100",
        [quota(100)],
        [0, NOW, 1, -1, 0, 70, HALF, -1],
        cost=105,
        before={"q:gold": count(40, granted=10, day_used=40)},
    ),
    case(
        "window: a new one starts, the grant goes, and the day that ended is closed",
        "yesterday: day 20515 used 60, and 100 + 10 - 100 = 10 were left; today: 1",
        [quota(100)],
        [1, NOW, 0, 0, 1, 99, HALF, 0],
        before={"q:gold": count(100, start=TODAY - DAY, stop=TODAY, granted=10, day=20_515, day_used=60)},
        writes={"q:gold": count(1, day_used=1), "d:gold:20515": u64(60, 10)},
    ),
    case(
        "window: peeking into a new one closes nothing",
        "cost 0 sees 100 left, and writes nothing",
        [quota(100)],
        [1, NOW, 0, 0, 0, 100, HALF, 0],
        cost=0,
        before={"q:gold": count(100, start=TODAY - DAY, stop=TODAY, granted=10, day=20_515, day_used=60)},
    ),
    case(
        "window: the second of the two that were sent",
        "windows [yesterday, today), [today, tomorrow): the server's time is in the second",
        [quota(100, TODAY - DAY, TODAY, TODAY + DAY)],
        [1, NOW, 0, 0, 0, 92, HALF, 0],
        before={"q:gold": count(7, day_used=7)},
        writes={"q:gold": count(8, day_used=8)},
    ),
    case(
        "window: starts at its first microsecond",
        "exactly midnight is the new day: 1 of 100, whole day ahead; of day 20515 nothing is left to close",
        [quota(100, TODAY - DAY, TODAY, TODAY + DAY)],
        [1, TODAY, 0, 0, 0, 99, DAY, 0],
        now=TODAY,
        before={"q:gold": count(100, start=TODAY - DAY, stop=TODAY, day=20_514, day_used=0)},
        writes={"q:gold": count(1, day_used=1)},
    ),
    case(
        "window: lasts to its last microsecond",
        "1 us before midnight: still used up, wait 1 us",
        [quota(100, TODAY - DAY, TODAY, TODAY + DAY)],
        [0, TODAY - 1, 1, 1, 0, 0, 1, 1],
        now=TODAY - 1,
        before={"q:gold": count(100, start=TODAY - DAY, stop=TODAY, day=20_515, day_used=100)},
    ),
    case(
        "window: another period is another window, the day goes on",
        "the plan went from DAY to WEEK (Sunday to Sunday, 3.5 days left): the count starts anew",
        [quota(100, WEEK_START, WEEK_START + 7 * DAY, WEEK_START + 14 * DAY)],
        [1, NOW, 0, 0, 0, 99, 3 * DAY + HALF, 0],
        before={"q:gold": count(50, day_used=50)},
        writes={"q:gold": count(1, start=WEEK_START, stop=WEEK_START + 7 * DAY, day_used=51)},
    ),
    case(
        "window: a week goes on when a day ends, and the day is closed with the week's balance",
        "100 - 50 = 50 were left after day 20515, which had 20",
        [quota(100, WEEK_START, WEEK_START + 7 * DAY, WEEK_START + 14 * DAY)],
        [1, NOW, 0, 0, 1, 49, 3 * DAY + HALF, 0],
        before={"q:gold": count(50, start=WEEK_START, stop=WEEK_START + 7 * DAY, day=20_515, day_used=20)},
        writes={
            "q:gold": count(51, start=WEEK_START, stop=WEEK_START + 7 * DAY, day_used=1),
            "d:gold:20515": u64(20, 50),
        },
    ),
    case(
        "windows past: the server is beyond both, the caller computes again",
        "at the end of the second window; a limit before it was not charged",
        [TEN, quota(100, TODAY - 2 * DAY, TODAY - DAY, TODAY)],
        [-3, TODAY],
        now=TODAY,
    ),
    case(
        "windows past: the server is before both",
        "1 us before the first",
        [quota(100, TODAY, TODAY + DAY, TODAY + 2 * DAY)],
        [-3, TODAY - 1],
        now=TODAY - 1,
    ),
    case(
        "meter: counts and limits nothing",
        "no remaining, no reset; the window's ends stay 0",
        [meter()],
        [1, NOW, 0, 0, 0, -1, -1, 0],
        cost=3,
        writes={"q:gold": count(3, start=0, stop=0, day_used=3)},
    ),
    case(
        "meter: closes a day with a balance of 2^53 - 1, which stands for no quota",
        "day 20515 had 9",
        [meter()],
        [1, NOW, 0, 0, 1, -1, -1, 0],
        before={"q:gold": count(12, start=0, stop=0, day=20_515, day_used=9)},
        writes={"q:gold": count(13, start=0, stop=0, day_used=1), "d:gold:20515": u64(9, EXACT - 1)},
    ),
    case(
        "meter: is not charged when a bucket denies",
        "bucket empty",
        [TEN, meter()],
        [0, NOW, 1, 100_000, 0, 0, 500_000, 100_000, -1, -1, 0],
        before={"b:gold": bucket(100_000, 0), "q:gold": count(3, start=0, stop=0, day_used=3)},
    ),
]

LAYERS = [
    case(
        "layers: plan, stage, account and quota all admit, and all are charged",
        "4 of 5, 1 of 2, 4 of 5, 99 of 100",
        [TEN, STAGE, ACCOUNT, quota(100)],
        [1, NOW, 0, 0, 0, 4, 100_000, 0, 1, 1_000_000, 0, 4, 100_000, 0, 99, HALF, 0],
        writes={
            "b:gold": bucket(100_000, 400_000),
            "ratelimit:stage:petstore/prod:GET /pets": bucket(1_000_000, 1_000_000),
            "ratelimit:account": bucket(100_000, 400_000),
            "q:gold": count(1, day_used=1),
        },
    ),
    case(
        "layers: the last one denies, nothing is charged",
        "quota used up: wait 12 h; the buckets stay full and unwritten",
        [TEN, STAGE, ACCOUNT, quota(100)],
        [0, NOW, 4, HALF, 0, 5, 0, 0, 2, 0, 0, 5, 0, 0, 0, HALF, HALF],
        before={"q:gold": count(100, day_used=100)},
    ),
    case(
        "layers: two deny, the first is named and the longer wait is told",
        "plan 100000 us, stage 1000000 us",
        [TEN, STAGE],
        [0, NOW, 1, 1_000_000, 0, 0, 500_000, 100_000, 0, 2_000_000, 1_000_000],
        before={
            "b:gold": bucket(100_000, 0),
            "ratelimit:stage:petstore/prod:GET /pets": bucket(1_000_000, 0),
        },
    ),
    case(
        "layers: one that never admits makes the whole wait never",
        "plan 300000 us for cost 3, stage -1 (3 > 2), account admits",
        [TEN, STAGE, ACCOUNT],
        [0, NOW, 1, -1, 0, 0, 500_000, 300_000, 2, 0, -1, 5, 0, 0],
        cost=3,
        before={"b:gold": bucket(100_000, 0)},
    ),
    case(
        "layers: a method without a key meets the shared ones alone",
        "flags 0: no hash, no stamp, no fence",
        [STAGE, ACCOUNT],
        [1, NOW, 0, 0, 0, 1, 1_000_000, 0, 4, 100_000, 0],
        flags=0,
        writes={
            "ratelimit:stage:petstore/prod:GET /pets": bucket(1_000_000, 1_000_000),
            "ratelimit:account": bucket(100_000, 400_000),
        },
    ),
    case(
        "layers: no limits at all",
        "an empty ARGV[2] admits, without a key",
        [],
        [1, NOW, 0, 0, 0],
        flags=0,
    ),
]
