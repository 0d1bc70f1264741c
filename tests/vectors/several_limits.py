"""Test vectors of several limits at once; to read as buckets.py."""

from vectors.packing import ACCOUNT, DAILY, HALF, METHOD, NOW, PLAN, STAGE, TEN, TODAY, bucket, case, count, state

TWO = (STAGE, 2, 1, 1_000_000)

LAYERS = [
    case(
        "layers: plan, stage, account and quota all admit, and all are charged",
        "4 of 5, 1 of 2, 4 of 5, 99 of 100",
        [1, NOW, 4, 100_000, 1, 1_000_000, 4, 100_000, 99, HALF],
        plan=TEN,
        quota=DAILY,
        shared=[TWO, (ACCOUNT, *TEN)],
        writes={
            PLAN: state(400_000, window=TODAY * 64 + 1, used=1, day_used=1),
            STAGE: bucket(1_000_000, per=1_000_000),
            ACCOUNT: bucket(400_000),
        },
    ),
    case(
        "layers: a bucket of one method stands in for the plan's, which keeps what it has",
        "1 of 2 in the method's; the plan's bucket of 3 tokens is not part of this request, its count is",
        [1, NOW, 1, 1_000_000, 99, HALF],
        own=[(METHOD, 2, 1, 1_000_000)],
        quota=DAILY,
        before={PLAN: state(300_000, last=NOW - 5)},
        writes={
            PLAN: state(300_000, last=NOW - 5, window=TODAY * 64 + 1, used=1, day_used=1),
            METHOD: bucket(1_000_000, per=1_000_000),
        },
    ),
    case(
        "layers: a method's bucket and shared ones, in this order",
        "0 of 2 in the method's (cost 2), 3 of 5 in the account's",
        [1, NOW, 0, 2_000_000, 3, 200_000],
        own=[(METHOD, 2, 1, 1_000_000)],
        shared=[(ACCOUNT, *TEN)],
        cost=2,
        writes={
            PLAN: count(0, first=0, days=0, day_used=2),
            METHOD: bucket(0, per=1_000_000),
            ACCOUNT: bucket(300_000),
        },
    ),
    case(
        "layers: the last one denies, nothing is charged",
        "quota used up: wait 12 h; the buckets stay full and unwritten",
        [0, NOW, 5, 0, 0, 2, 0, 0, 5, 0, 0, 0, HALF, HALF],
        plan=TEN,
        quota=DAILY,
        shared=[TWO, (ACCOUNT, *TEN)],
        before={PLAN: state(500_000, window=TODAY * 64 + 1, used=100, day_used=100)},
    ),
    case(
        "layers: two deny, each reports its own wait",
        "plan 100000 us, stage 1000000 us: the caller waits for the longer",
        [0, NOW, 0, 500_000, 100_000, 0, 2_000_000, 1_000_000],
        plan=TEN,
        shared=[TWO],
        before={PLAN: state(0), STAGE: bucket(0, per=1_000_000)},
    ),
    case(
        "layers: one that never admits, between two that will",
        "plan 300000 us for cost 3, stage -1 (3 > 2), account admits",
        [0, NOW, 0, 500_000, 300_000, 2, 0, -1, 5, 0, 0],
        plan=TEN,
        shared=[TWO, (ACCOUNT, *TEN)],
        cost=3,
        before={PLAN: state(0)},
    ),
    case(
        "layers: a request without a key meets the shared ones alone",
        "flags 0: no hash, no version token, no metering",
        [1, NOW, 1, 1_000_000, 4, 100_000],
        shared=[TWO, (ACCOUNT, *TEN)],
        flags=0,
        writes={STAGE: bucket(1_000_000, per=1_000_000), ACCOUNT: bucket(400_000)},
    ),
    case("layers: no key and no limits", "nothing refuses, nothing is written", [1, NOW], flags=0),
]
