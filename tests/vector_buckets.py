"""Test vectors of buckets. `why` is the calculation, on paper, of what the script has to answer.

Unless a case says otherwise: 10 requests a second are 1 token per 100 000 us, so a bucket of 5 holds 500 000 units
when full and one token is 100 000 of them; the quota's window is the day that holds NOW and ends in 12 hours.
"""

from vector_bytes import DAY, EXACT, NOW, TODAY, bucket, case, count, own, quota, shared

HALF = DAY // 2
TEN = own(5, 1, 100_000)
ACCOUNT = shared(5, 1, 100_000)

BUCKETS = [
    case(
        "bucket: the first request finds it full",
        "500000 - 100000 = 400000 left, 4 tokens; full again in 100000 us",
        [TEN],
        [1, NOW, 0, 0, 0, 4, 100_000, 0],
        writes={"b:gold": bucket(100_000, 400_000)},
    ),
    case(
        "bucket: the whole burst at once",
        "cost 5 of 5; full again in 500000 us",
        [TEN],
        [1, NOW, 0, 0, 0, 0, 500_000, 0],
        cost=5,
        writes={"b:gold": bucket(100_000, 0)},
    ),
    case(
        "bucket: empty, denied",
        "one token takes 100000 us, five take 500000; nothing is written",
        [TEN],
        [0, NOW, 1, 100_000, 0, 0, 500_000, 100_000],
        before={"b:gold": bucket(100_000, 0)},
    ),
    case(
        "bucket: one microsecond too early",
        "99999 us gave 99999 units, 1 short; 400001 units to full",
        [TEN],
        [0, NOW, 1, 1, 0, 0, 400_001, 1],
        before={"b:gold": bucket(100_000, 0, NOW - 99_999)},
    ),
    case(
        "bucket: exactly in time",
        "100000 us gave one token, and it goes",
        [TEN],
        [1, NOW, 0, 0, 0, 0, 500_000, 0],
        before={"b:gold": bucket(100_000, 0, NOW - 100_000)},
        writes={"b:gold": bucket(100_000, 0)},
    ),
    case(
        "bucket: a year fills it no further than its burst",
        "full, so 4 are left after this one",
        [TEN],
        [1, NOW, 0, 0, 0, 4, 100_000, 0],
        before={"b:gold": bucket(100_000, 0, NOW - 365 * DAY)},
        writes={"b:gold": bucket(100_000, 400_000)},
    ),
    case(
        "bucket: part of a token is kept",
        "250000 + 30000 - 200000 = 80000: no whole token; 420000 to full",
        [TEN],
        [1, NOW, 0, 0, 0, 0, 420_000, 0],
        cost=2,
        before={"b:gold": bucket(100_000, 250_000, NOW - 30_000)},
        writes={"b:gold": bucket(100_000, 80_000)},
    ),
    case(
        "bucket: a cost above the burst never passes",
        "6 > 5: retry -1, though the bucket is full",
        [TEN],
        [0, NOW, 1, -1, 0, 5, 0, -1],
        cost=6,
    ),
    case(
        "bucket: the largest cost there is",
        "2^53 - 1 is compared, never multiplied",
        [TEN],
        [0, NOW, 1, -1, 0, 5, 0, -1],
        cost=EXACT - 1,
    ),
    case(
        "bucket: rate 0 admits nothing, ever",
        "0/1 tokens: remaining 0, neither reset nor retry",
        [own(5, 0, 1)],
        [0, NOW, 1, -1, 0, 0, -1, -1],
    ),
    case(
        "bucket: burst 0 admits nothing, ever",
        "1 > 0; an empty bucket of size 0 is full",
        [own(0, 1, 100_000)],
        [0, NOW, 1, -1, 0, 0, 0, -1],
    ),
    case(
        "bucket: a wait that is no whole number is rounded up",
        "7 tokens per 1000000 us, empty: ceil(1000000 / 7) = 142858, for one token as for a full bucket of one",
        [own(1, 7, 1_000_000)],
        [0, NOW, 1, 142_858, 0, 0, 142_858, 142_858],
        before={"b:gold": bucket(1_000_000, 0)},
    ),
    case(
        "bucket: after the wait that was told it admits",
        "142858 * 7 = 1000006, capped at 1000000: one token",
        [own(1, 7, 1_000_000)],
        [1, NOW, 0, 0, 0, 0, 142_858, 0],
        before={"b:gold": bucket(1_000_000, 0, NOW - 142_858)},
        writes={"b:gold": bucket(1_000_000, 0)},
    ),
    case(
        "bucket: exact at the largest numbers",
        "one token per 10^12 us, burst 9007: 9007 * 10^12 - 1 and one microsecond make it full, 0.002 % below 2^53",
        [own(9007, 1, 10**12)],
        [1, NOW, 0, 0, 0, 0, 9007 * 10**12, 0],
        cost=9007,
        before={"b:gold": bucket(10**12, 9007 * 10**12 - 1, NOW - 1)},
        writes={"b:gold": bucket(10**12, 0)},
    ),
    case(
        "bucket: exact at the largest numbers, one unit short",
        "at the moment of that state 1 unit is missing, so 1 us is",
        [own(9007, 1, 10**12)],
        [0, NOW, 1, 1, 0, 9006, 1, 1],
        cost=9007,
        before={"b:gold": bucket(10**12, 9007 * 10**12 - 1)},
    ),
]

PEEKS = [
    case(
        "cost 0: tells what cost 1 would get, and writes nothing",
        "a full bucket admits; not even the newer version is noted",
        [TEN],
        [1, NOW, 0, 0, 0, 5, 0, 0],
        cost=0,
        version=8,
    ),
    case(
        "cost 0: denied where cost 1 would be",
        "as for cost 1",
        [TEN, quota(100)],
        [0, NOW, 1, 100_000, 0, 0, 500_000, 100_000, 93, HALF, 0],
        cost=0,
        before={"b:gold": bucket(100_000, 0), "q:gold": count(7)},
    ),
    case(
        "cost 0: re-anchors nothing",
        "the clock is 10 s back: judged as if re-anchored, but not written",
        [TEN],
        [0, NOW, 1, 100_000, 0, 0, 500_000, 100_000],
        cost=0,
        before={"b:gold": bucket(100_000, 0, NOW + 10_000_000)},
    ),
]

CLOCK = [
    case(
        "clock: 2 s back is within tolerance, the later time is kept",
        "no refill; 2 s until last, then 500000 us to full",
        [TEN],
        [1, NOW, 0, 0, 0, 0, 2_500_000, 0],
        before={"b:gold": bucket(100_000, 100_000, NOW + 2_000_000)},
        writes={"b:gold": bucket(100_000, 0, NOW + 2_000_000)},
    ),
    case(
        "clock: within tolerance and denied, the wait counts from the later time",
        "1 s until last, then 100000 us for the token and 500000 to full",
        [TEN],
        [0, NOW, 1, 1_100_000, 0, 0, 1_500_000, 1_100_000],
        before={"b:gold": bucket(100_000, 0, NOW + 1_000_000)},
    ),
    case(
        "clock: more than 2 s back re-anchors, even when denied",
        "2000001 us back: last becomes now, the level stays",
        [TEN],
        [0, NOW, 1, 100_000, 0, 0, 500_000, 100_000],
        before={"b:gold": bucket(100_000, 0, NOW + 2_000_001)},
        writes={"b:gold": bucket(100_000, 0)},
    ),
    case(
        "clock: a denial by another limit writes only what was re-anchored",
        "the account's bucket is re-anchored, the key's full bucket is not charged",
        [TEN, ACCOUNT],
        [0, NOW, 2, 100_000, 0, 5, 0, 0, 0, 500_000, 100_000],
        before={"ratelimit:account": bucket(100_000, 0, NOW + 60_000_000)},
        writes={"ratelimit:account": bucket(100_000, 0)},
    ),
    case(
        "clock: a second before the window's start, the count stays in it",
        "within tolerance: 7 + 1 of 100 in the window that ends in 86401 s; days only roll forward",
        [quota(100, TODAY - DAY, TODAY, TODAY + DAY)],
        [1, TODAY - 1_000_000, 0, 0, 0, 92, DAY + 1_000_000, 0],
        now=TODAY - 1_000_000,
        before={"q:gold": count(7, day_used=7)},
        writes={"q:gold": count(8, day_used=8)},
    ),
    case(
        "clock: far before the window's start, the count moves back and is kept",
        "3 s before midnight: denied at 100 of 100 until then, and the re-anchored window is written",
        [quota(100, TODAY - DAY, TODAY, TODAY + DAY)],
        [0, TODAY - 3_000_000, 1, 3_000_000, 0, 0, 3_000_000, 3_000_000],
        now=TODAY - 3_000_000,
        before={"q:gold": count(100, day_used=100)},
        writes={"q:gold": count(100, start=TODAY - DAY, stop=TODAY, day_used=100)},
    ),
]

RESCALES = [
    case(
        "rescale: the plan's rate changed, whole tokens and parts stay",
        "2.5 tokens of 100000 are 2.5 of 400000: 1000000; minus one, 600000; to full 1400000 units",
        [own(5, 1, 400_000)],
        [1, NOW, 0, 0, 0, 1, 1_400_000, 0],
        before={"b:gold": bucket(100_000, 250_000)},
        writes={"b:gold": bucket(400_000, 600_000)},
    ),
    case(
        "rescale: rounded down, so that a change of plan mints nothing",
        "1 of 3 is 33333.3 of 100000: 33333, so 66667 short; 466667 to full",
        [TEN],
        [0, NOW, 1, 66_667, 0, 0, 466_667, 66_667],
        before={"b:gold": bucket(3, 1)},
    ),
    case(
        "rescale: then refilled at the new rate",
        "1.25 tokens become 500000 of 400000; 300000 us add 300000: two, and both go",
        [own(5, 1, 400_000)],
        [1, NOW, 0, 0, 0, 0, 2_000_000, 0],
        cost=2,
        before={"b:gold": bucket(100_000, 125_000, NOW - 300_000)},
        writes={"b:gold": bucket(400_000, 0)},
    ),
    case(
        "rescale: exact where the plain product would pass 2^53",
        "half of 10^12, in 999999999999ths, is 499999999999.5: rounded down; times 1 unit per us",
        [own(3, 1, 999_999_999_999)],
        [0, NOW, 1, 500_000_000_000, 0, 0, 2_499_999_999_998, 500_000_000_000],
        before={"b:gold": bucket(10**12, 5 * 10**11)},
    ),
    case(
        "clamp: a smaller burst takes the surplus",
        "5 tokens, but 3 fit; 2 are left, one 100000 us from full",
        [own(3, 1, 100_000)],
        [1, NOW, 0, 0, 0, 2, 100_000, 0],
        before={"b:gold": bucket(100_000, 500_000)},
        writes={"b:gold": bucket(100_000, 200_000)},
    ),
    case(
        "rescale and clamp at once",
        "40 tokens of 100000, but 3 of 400000 fit; 2 are left",
        [own(3, 1, 400_000)],
        [1, NOW, 0, 0, 0, 2, 400_000, 0],
        before={"b:gold": bucket(100_000, 4_000_000)},
        writes={"b:gold": bucket(400_000, 800_000)},
    ),
]
