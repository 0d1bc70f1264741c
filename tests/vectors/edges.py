"""Test vectors of numbers at the edge of what they may be, and of requests that do not fit together; as buckets.py.

Changes of the scripts by one token that no other vector notices (docs/mutants.md) are what these are for.
"""

from vectors.packing import (
    ACCOUNT,
    ARGUMENTS,
    COUNTED,
    DAILY,
    DAY,
    HALF,
    IDENTITY,
    KEY,
    LARGEST,
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
    version_token,
)
from vectors.shadows_and_alerts import ALERT_80, SHADOW, SHADOW_METHOD, TEN_A_DAY, alert, alerted, shadow

ADMITTED = [1, NOW, 4, 100_000]
CHARGED = {PLAN: state(400_000, day_used=1)}
FULL = {PLAN: state(500_000)}
NO_LIMIT = (0, 0, 0, -1, 0, 0, 0)
TWO, MORE = (2, 1, 1_000_000), (9, 1, 1_000_000)
OWN = [(f"b:gold:petstore/prod:GET /{number}", *TEN) for number in range(8)]


def sent(cost=1, flags=1, limits=(*TEN, -1, 0, 0, 0), tail=(), until=0):
    """A request as bytes, where it is none that `case` would make."""
    return doubles(NOW, cost, until, flags, *limits) + version_token() + doubles(*tail)


def refused(name, why, *argv, keys=(KEY,)):
    """Arguments that do not fit together: nothing is read, nothing written."""
    return case(f"arguments: {name}", why, ARGUMENTS, keys=list(keys), argv=list(argv))


MISFITS = [
    refused("a cost below 0", "-1", sent(-1), b"p:gold"),
    refused("half a unit", "0.5", sent(0.5), b"p:gold"),
    refused("a cost that is no number", "NaN", sent(float("nan")), b"p:gold"),
    refused(
        "a flag that is not known, of an identity",
        "545 = 512 + 33, and all else would fit",
        sent(flags=545, tail=(2, 1)),
        b"p:gold",
        keys=(IDENTITY, COUNTED),
    ),
    refused("a bound on identities, of nobody", "flag 128", sent(flags=128, tail=(*TEN, 2, 1)), keys=(ACCOUNT,)),
    refused(
        "a shadow without its field, in a request that is a bucket shorter",
        "114 - 24 + 56 bytes",
        sent(flags=5, tail=(*TEN, *DAILY))[:-24],
        b"p:gold",
    ),
    refused("a bucket of 23 bytes", "138 bytes are due", sent(tail=TEN)[:-1], b"p:gold", METHOD.encode()),
    refused("two numbers too many", "16 bytes, and no alert", sent(flags=3, tail=(1, 1)), b"p:gold"),
    refused(
        "two numbers too many, of a shadow",
        "16 bytes after the shadow's 56, and no alert",
        sent(flags=5, tail=(*TEN, *DAILY, 1, 1)),
        b"p:gold",
        b"s:p:next",
    ),
]

FLAGS = [
    case(
        "flags: a caller that found nothing newer, without a key",
        "2: nobody's hash is read",
        [1, NOW, 4, 100_000],
        flags=2,
        shared=[(ACCOUNT, *TEN)],
        writes={ACCOUNT: bucket(400_000)},
    ),
    *(
        case(
            f"flags: {flags + 4 + 8 * bool(alerts) + 16 * (len(fields) > 1)}",
            "the quota's 80th unit; alerts are reported if there are any, the shadow's method has a bucket with 16",
            [1, NOW, 20, HALF],
            quota=DAILY,
            flags=flags,
            alerts=alerts,
            shadow=(*TWO, *TEN_A_DAY, *fields),
            before={PLAN: count(79)},
            writes={
                PLAN: count(80, day_used=1),
                SHADOW: shadow(window=WINDOW, used=1, seen=1)
                if len(fields) > 1
                else shadow(1_000_000, per=1_000_000, last=NOW, window=WINDOW, used=1, seen=1),
                **({SHADOW_METHOD: bucket(1_000_000, per=1_000_000)} if len(fields) > 1 else {}),
                **({"a:gold": alerted(80), STREAM: [alert(80, 80)]} if alerts else {}),
            },
        )
        for flags, alerts, fields in (
            (3, (), (SHADOW,)),
            (3, (ALERT_80,), (SHADOW,)),
            (3, (ALERT_80,), (SHADOW, SHADOW_METHOD)),
        )
    ),
    case(
        "flags: 95, a peek with all that a key may have",
        "1 + 2 + 4 + 8 + 16 + 64: nothing is written",
        [3, NOW, 21, HALF, 0],
        quota=DAILY,
        flags=67,
        alerts=(ALERT_80,),
        shadow=(*TWO, *TEN_A_DAY, SHADOW, SHADOW_METHOD),
        before={PLAN: count(79)},
    ),
    case("key expired: in the first microsecond of all", "valid_until 1", [-4, NOW], plan=TEN, valid_until=1),
    case(
        "bucket: a cost of minus zero is one of 0",
        "a peek",
        [3, NOW, 5, 0, 0],
        plan=TEN,
        cost=-0.0,
    ),
    case(
        "clock: a caller's is any that is not 0",
        "1 us after 1970; a full bucket less one",
        [1, 1, 4, 100_000],
        plan=TEN,
        now=1,
        writes={PLAN: state(400_000, last=1, day=0, day_used=1)},
    ),
]

PATHS = [
    usual(
        "usual: on the first day of all",
        "day 0, and no quota: the calendar is 0",
        [1, 2000, 3, 199_000],
        plan=TEN,
        now=2000,
        before={PLAN: state(400_000, last=1000, day=0, day_used=1)},
        writes={PLAN: state(301_000, last=2000, day=0, day_used=2)},
    ),
    *(
        usual(
            f"usual: the plan's bucket counts in a P of {per}, and does not apply",
            "it stays as it is",
            [1, NOW, 4, 100_000],
            own=[(METHOD, *TEN)],
            before={PLAN: state(1, per=per, last=NOW - 1), METHOD: bucket(500_000, last=NOW - 1)},
            writes={PLAN: state(1, per=per, last=NOW - 1, day_used=1), METHOD: bucket(400_000)},
        )
        for per in (1, LARGEST)
    ),
    *(
        case(
            f"corrupt: a P of {name} in a bucket that does not apply",
            "no state that a script wrote",
            f"RATELIMIT CORRUPT {PLAN}",
            own=[(METHOD, *TEN)],
            before={PLAN: state(1, per=per, last=NOW - 1), METHOD: bucket(500_000, last=NOW - 1)},
        )
        for name, per in (("-100000", -100_000), ("10^300", 1e300))
    ),
    case(
        "corrupt: fewer than no units on the day",
        "-1",
        f"RATELIMIT CORRUPT {PLAN}",
        plan=TEN,
        before={PLAN: state(500_000, last=NOW - 1, day_used=-1)},
    ),
    case(
        "corrupt: a sum of 2^56 exactly",
        "the level is what is missing to it",
        f"RATELIMIT CORRUPT {PLAN}",
        plan=TEN,
        before={PLAN: state(2**56 - NOW, granted=1, last=NOW)},
    ),
    case(
        "corrupt: a sum of 2^56 exactly, in a shared bucket",
        "the level is what is missing to it",
        f"RATELIMIT CORRUPT {ACCOUNT}",
        plan=TEN,
        shared=[(ACCOUNT, *TEN)],
        before={**FULL, ACCOUNT: bucket(2**56 - NOW)},
    ),
    case(
        "usual, denied: nine limits",
        "the plan's bucket is empty; eight of methods are full",
        [0, NOW, 0, 500_000, 100_000, *(5, 0, 0) * 8],
        plan=TEN,
        own=OWN,
        before={PLAN: state(0), **{field: bucket(500_000) for field, *_ in OWN}},
    ),
    case(
        "usual, denied: one unit more is used than the quota has",
        "none is left, not fewer than none",
        [0, NOW, 0, HALF, HALF],
        quota=DAILY,
        before={PLAN: count(101, last=NOW)},
    ),
    case(
        "quota: of 0 units, of which some were granted",
        "0 + 5 - 1 = 4 of them are left",
        [1, NOW, 4, HALF],
        quota=(0, *DAILY[1:]),
        before={PLAN: count(0, granted=5)},
        writes={PLAN: count(1, granted=5, day_used=1)},
    ),
    case(
        "windows past: though the day of metering is ahead of the quota's window",
        "the windows are those of the two days before today",
        [-3, NOW],
        quota=(100, TODAY - 2, TODAY - 1, TODAY),
        before={PLAN: count(7, first=TODAY - 1, last=NOW)},
    ),
    case(
        "clock: 2 s before the window's start, the count stays in it",
        "exactly the tolerance: 8 of 100 until the window of tomorrow ends",
        [1, MIDNIGHT - 2_000_000, 92, DAY + 2_000_000],
        quota=(100, TODAY - 1, TODAY, TODAY + 1),
        now=MIDNIGHT - 2_000_000,
        before={PLAN: count(7, day_used=7)},
        writes={PLAN: count(8, day_used=8)},
    ),
    case(
        "day: the first of all is closed",
        "day 1 (2 January 1970) used 9; no quota",
        [2, NOW, 4, 100_000],
        plan=TEN,
        before={PLAN: state(500_000, day=1, day_used=9)},
        writes={PLAN: state(400_000, day_used=1), "d:gold:1": doubles(9, -1)},
    ),
    case(
        "plan changed: to a P that is a power of 2",
        "2.5 tokens are 5 halves; one is charged",
        [1, NOW, 1, 7],
        plan=(5, 1, 2),
        before={PLAN: state(250_000)},
        writes={PLAN: state(3, per=2, day_used=1)},
    ),
    usual(
        "alert: of 1 %",
        "the first unit of 100",
        [1, NOW, 99, HALF],
        quota=DAILY,
        alerts=[(1, 1)],
        before={PLAN: count(0)},
        writes={PLAN: count(1, day_used=1, last=NOW), "a:gold": alerted(1), STREAM: [alert(1, 1)]},
    ),
    usual(
        "alert: of 1 % in a new window",
        "the same was reported yesterday",
        [1, NOW, 99, HALF],
        quota=DAILY,
        alerts=[(1, 1)],
        before={PLAN: count(0), "a:gold": alerted(1, WINDOW - 64)},
        writes={PLAN: count(1, day_used=1, last=NOW), "a:gold": alerted(1), STREAM: [alert(1, 1)]},
    ),
    case(
        "identity: one that is known under another plan is one more of this one",
        "its hash has a version token, and no state of this plan; one of one is counted",
        [4, NOW, 5, 0, 0],
        plan=TEN,
        key=IDENTITY,
        flags=33,
        valid_until=60_000_000,
        stamp="--------",
        identities=(COUNTED, 1, 1),
        before={"r": version_token(stamp="--------"), "p:silver": state(0), COUNTED: ["other"]},
    ),
]

EDGES = [*MISFITS, *FLAGS, *PATHS]
