"""Test vectors of shadows and of alerts on quotas; to read as buckets.py."""

from vectors.packing import (
    DAILY,
    HALF,
    KEY,
    METHOD,
    MIDNIGHT,
    NOW,
    PLAN,
    STREAM,
    TEN,
    TODAY,
    WINDOW,
    bucket,
    case,
    count,
    doubles,
    state,
    usual,
)

ADMITTED = [1, NOW, 4, 100_000]
CHARGED = {PLAN: state(400_000, day_used=1)}
SHADOW, SHADOW_METHOD = "s:p:next", "s:b:next:petstore/prod:GET /pets"
TWO = (2, 1, 1_000_000)
"""The successor's bucket: 2, one a second."""
NO_QUOTA, TEN_A_DAY = (-1, 0, 0, 0), (10, *DAILY[1:])
ALERT_80, ALERT_100 = (80, 80), (100, 100)


def shadow(level=0, *, per=0, last=0, window=0, used=0, throttled=0, exceeded=0, seen):
    """State of a shadow: its bucket and count, and how many requests it would have refused of those it saw."""
    return doubles(per, level, last, window, used, throttled, exceeded, seen)


def alerted(percent, window=WINDOW):
    """Field "a:gold": the window, and the highest percentage reported in it."""
    return doubles(window, percent)


def alert(percent, used, limit=100):
    """An entry of the stream."""
    numbers = {"percent": percent, "used": used, "limit": limit, "window_day": TODAY, "time_us": NOW}
    return {"key": "k1", "plan": "gold", **{name: str(number) for name, number in numbers.items()}}


SHADOWS = [
    case(
        "shadow: sees what is admitted, and charges its own bucket and quota",
        "1 of 2 tokens and 1 of 10 units left behind; the reply is the plan's alone",
        ADMITTED,
        plan=TEN,
        shadow=(*TWO, *TEN_A_DAY, SHADOW),
        writes={SHADOW: shadow(1_000_000, per=1_000_000, last=NOW, window=WINDOW, used=1, seen=1), **CHARGED},
    ),
    case(
        "shadow: counts what it would have throttled, and denies nothing",
        "its bucket is empty, and stays",
        ADMITTED,
        plan=TEN,
        shadow=(*TWO, *NO_QUOTA, SHADOW),
        before={SHADOW: shadow(0, per=1_000_000, last=NOW, throttled=2, exceeded=1, seen=9)},
        writes={SHADOW: shadow(0, per=1_000_000, last=NOW, throttled=3, exceeded=1, seen=10), **CHARGED},
    ),
    case(
        "shadow: counts what it would have found over quota, and charges its bucket nothing",
        "10 of 10 are used",
        ADMITTED,
        plan=TEN,
        shadow=(*TWO, *TEN_A_DAY, SHADOW),
        before={SHADOW: shadow(2_000_000, per=1_000_000, last=NOW, window=WINDOW, used=10, seen=10)},
        writes={
            SHADOW: shadow(2_000_000, per=1_000_000, last=NOW, window=WINDOW, used=10, exceeded=1, seen=11),
            **CHARGED,
        },
    ),
    case(
        "shadow: the last unit of its quota fits",
        "9 + 1 = 10; 1 of 2 tokens left",
        ADMITTED,
        plan=TEN,
        shadow=(*TWO, *TEN_A_DAY, SHADOW),
        before={SHADOW: shadow(2_000_000, per=1_000_000, last=NOW, window=WINDOW, used=9, seen=9)},
        writes={SHADOW: shadow(1_000_000, per=1_000_000, last=NOW, window=WINDOW, used=10, seen=10), **CHARGED},
    ),
    case(
        "shadow: its count starts anew with its window",
        "10 of yesterday are gone",
        ADMITTED,
        plan=TEN,
        shadow=(0, 0, 0, *TEN_A_DAY, SHADOW),
        before={SHADOW: shadow(window=WINDOW - 64, used=10, seen=10)},
        writes={SHADOW: shadow(window=WINDOW, used=1, seen=11), **CHARGED},
    ),
    case(
        "shadow: a rate of 0 would throttle everything",
        "its burst is of no use, and a bucket that admits nothing is not made",
        ADMITTED,
        plan=TEN,
        shadow=(2, 0, 1, *NO_QUOTA, SHADOW),
        writes={SHADOW: shadow(throttled=1, seen=1), **CHARGED},
    ),
    case(
        "shadow: a method's bucket of its own is charged in the place of the successor's",
        "flag 16: 1 of 2 left in it; the state counts the request and its quota",
        ADMITTED,
        plan=TEN,
        shadow=(*TWO, *TEN_A_DAY, SHADOW, SHADOW_METHOD),
        writes={
            SHADOW: shadow(window=WINDOW, used=1, seen=1),
            SHADOW_METHOD: bucket(1_000_000, per=1_000_000),
            **CHARGED,
        },
    ),
    case(
        "shadow: stands behind the plan's further buckets",
        "fields: plan, method's bucket, shadow; 1 of 2 left in both; without a quota nothing is used of one",
        [1, NOW, 1, 1_000_000],
        own=[(METHOD, *TWO)],
        shadow=(*TWO, *NO_QUOTA, SHADOW),
        writes={
            PLAN: count(0, first=0, days=0, day_used=1),
            METHOD: bucket(1_000_000, per=1_000_000),
            SHADOW: shadow(1_000_000, per=1_000_000, last=NOW, seen=1),
        },
    ),
    case(
        "shadow: does not see what the plan denies",
        "the plan's bucket is empty; nothing is written",
        [0, NOW, 0, 500_000, 100_000],
        plan=TEN,
        shadow=(*TWO, *NO_QUOTA, SHADOW),
        before={PLAN: state(0)},
    ),
    case(
        "shadow: does not see a cost of 0",
        "nothing is written",
        [3, NOW, 5, 0, 0],
        plan=TEN,
        cost=0,
        shadow=(*TWO, *NO_QUOTA, SHADOW),
    ),
    case(
        "shadow: a method's bucket that admits nothing is not made",
        "rate 0: the request would be throttled",
        ADMITTED,
        plan=TEN,
        shadow=(2, 0, 1, *NO_QUOTA, SHADOW, SHADOW_METHOD),
        writes={SHADOW: shadow(throttled=1, seen=1), **CHARGED},
    ),
    case(
        "shadow: corrupt, its state has 63 bytes",
        "64 are due; the plan was not charged",
        "RATELIMIT CORRUPT s:p:next",
        plan=TEN,
        shadow=(*TWO, *NO_QUOTA, SHADOW),
        before={SHADOW: bytes(63)},
    ),
    case(
        "shadow: corrupt, no number in its state",
        "numbers of states are whole, and below 2^53; the plan was not charged",
        "RATELIMIT CORRUPT s:p:next",
        plan=TEN,
        shadow=(*TWO, *NO_QUOTA, SHADOW),
        before={SHADOW: shadow(float("nan"), per=1_000_000, seen=1)},
    ),
    case(
        "shadow: corrupt, an endless level in its method's bucket",
        "the plan was not charged",
        "RATELIMIT CORRUPT s:b:next:petstore/prod:GET /pets",
        plan=TEN,
        shadow=(*TWO, *NO_QUOTA, SHADOW, SHADOW_METHOD),
        before={SHADOW_METHOD: bucket(float("inf"))},
    ),
    case(
        "shadow: corrupt, its method's bucket has 25 bytes",
        "24 are due; the plan was not charged",
        "RATELIMIT CORRUPT s:b:next:petstore/prod:GET /pets",
        plan=TEN,
        shadow=(*TWO, *NO_QUOTA, SHADOW, SHADOW_METHOD),
        before={SHADOW_METHOD: bytes(25)},
    ),
    case(
        "shadow: windows past, though the plan has no quota",
        "the second window of its quota ends as this day begins; nothing is charged",
        [-3, MIDNIGHT],
        plan=TEN,
        shadow=(*TWO, 0, TODAY - 2, TODAY - 1, TODAY, SHADOW),
        now=MIDNIGHT,
    ),
    case(
        "shadow: windows past, the server is before both",
        "1 us before the first; nothing is charged",
        [-3, MIDNIGHT - 1],
        plan=TEN,
        shadow=(*TWO, *TEN_A_DAY, SHADOW),
        now=MIDNIGHT - 1,
    ),
    case(
        "shadow: its first window begins with its first microsecond",
        "1 of 10 units, no bucket",
        [1, MIDNIGHT, 4, 100_000],
        plan=TEN,
        shadow=(0, 0, 0, *TEN_A_DAY, SHADOW),
        now=MIDNIGHT,
        writes={SHADOW: shadow(window=WINDOW, used=1, seen=1), PLAN: state(400_000, last=MIDNIGHT, day_used=1)},
    ),
]

ALERTS = [
    usual(
        "alert: a share of the quota is reached",
        "79 + 1 = 80 of 100",
        [1, NOW, 20, HALF],
        quota=DAILY,
        alerts=[ALERT_80, ALERT_100],
        before={PLAN: count(79)},
        writes={PLAN: count(80, day_used=1, last=NOW), "a:gold": alerted(80), STREAM: [alert(80, 80)]},
    ),
    usual(
        "alert: passed by, not only met",
        "79 + 3 = 82",
        [1, NOW, 18, HALF],
        quota=DAILY,
        cost=3,
        alerts=[ALERT_80],
        before={PLAN: count(79)},
        writes={PLAN: count(82, day_used=3, last=NOW), "a:gold": alerted(80), STREAM: [alert(80, 82)]},
    ),
    usual(
        "alert: pending in the key's hash, which is passed where the stream lies in another slot",
        "79 + 1 = 80 of 110; the field says window and percentage, its value what is used, the limit and the time",
        [1, NOW, 30, HALF],
        quota=DAILY,
        alerts=[ALERT_80, ALERT_100],
        keys=[KEY, KEY],
        before={PLAN: count(79, granted=10)},
        writes={
            PLAN: count(80, granted=10, day_used=1, last=NOW),
            "a:gold": alerted(80),
            f"a:gold:{WINDOW}:80": doubles(80, 110, NOW),
        },
    ),
    usual(
        "alert: pending beside one of another window, two at once",
        "75 + 25 = 100",
        [1, NOW, 0, HALF],
        quota=DAILY,
        cost=25,
        alerts=[ALERT_80, ALERT_100],
        keys=[KEY, KEY],
        before={
            PLAN: count(75),
            "a:gold": alerted(100, WINDOW - 64),
            f"a:gold:{WINDOW - 64}:100": doubles(100, 100, 1),
        },
        writes={
            PLAN: count(100, day_used=25, last=NOW),
            "a:gold": alerted(100),
            f"a:gold:{WINDOW}:80": doubles(100, 100, NOW),
            f"a:gold:{WINDOW}:100": doubles(100, 100, NOW),
        },
    ),
    usual(
        "alert: two at once are both reported",
        "75 + 25 = 100",
        [1, NOW, 0, HALF],
        quota=DAILY,
        cost=25,
        alerts=[ALERT_80, ALERT_100],
        before={PLAN: count(75)},
        writes={
            PLAN: count(100, day_used=25, last=NOW),
            "a:gold": alerted(100),
            STREAM: [alert(80, 100), alert(100, 100)],
        },
    ),
    usual(
        "alert: before and after it nothing is reported",
        "80 + 1 = 81 crosses neither",
        [1, NOW, 19, HALF],
        quota=DAILY,
        alerts=[ALERT_80, ALERT_100],
        before={PLAN: count(80)},
        writes={PLAN: count(81, day_used=1, last=NOW)},
    ),
    usual(
        "alert: once per window, even if it is crossed again",
        "reported already, and somebody lowered the count since",
        [1, NOW, 20, HALF],
        quota=DAILY,
        alerts=[ALERT_80],
        before={PLAN: count(79), "a:gold": alerted(80)},
        writes={PLAN: count(80, day_used=1, last=NOW)},
    ),
    usual(
        "alert: a new window is reported anew",
        "100 % was reported yesterday",
        [1, NOW, 20, HALF],
        quota=DAILY,
        alerts=[ALERT_80],
        before={PLAN: count(79), "a:gold": alerted(100, WINDOW - 64)},
        writes={PLAN: count(80, day_used=1, last=NOW), "a:gold": alerted(80), STREAM: [alert(80, 80)]},
    ),
    usual(
        "alert: a note of the last alert that is none counts as none",
        "3 bytes where 16 are due: the request is counted by then, so it is reported, and noted anew",
        [1, NOW, 20, HALF],
        quota=DAILY,
        alerts=[ALERT_80],
        before={PLAN: count(79), "a:gold": b"???"},
        writes={PLAN: count(80, day_used=1, last=NOW), "a:gold": alerted(80), STREAM: [alert(80, 80)]},
    ),
    usual(
        "alert: shows the limit with what was granted",
        "79 + 1 of 100 + 50",
        [1, NOW, 70, HALF],
        quota=DAILY,
        alerts=[ALERT_80],
        before={PLAN: count(79, granted=50)},
        writes={PLAN: count(80, granted=50, day_used=1, last=NOW), "a:gold": alerted(80), STREAM: [alert(80, 80, 150)]},
    ),
    case(
        "alert: a denial reports nothing",
        "79 + 22 > 100",
        [0, NOW, 21, HALF, HALF],
        quota=DAILY,
        cost=22,
        alerts=[ALERT_80],
        before={PLAN: count(79)},
    ),
    case(
        "alert: a cost of 0 reports nothing",
        "cost 1 would reach it",
        [3, NOW, 21, HALF, 0],
        quota=DAILY,
        cost=0,
        alerts=[ALERT_80],
        before={PLAN: count(79)},
    ),
    usual(
        "alert: a stream that is none fails no check, and is tried again at the next crossing",
        "the request is counted; nothing is noted as reported",
        [1, NOW, 20, HALF],
        quota=DAILY,
        alerts=[ALERT_80],
        before={PLAN: count(79), STREAM: b"a string"},
        writes={PLAN: count(80, day_used=1, last=NOW)},
    ),
]
