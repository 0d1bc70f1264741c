"""Test vectors of leases: what is noted of one that is granted, and who gets none; to read as buckets.py."""

from vectors.packing import (
    ARGUMENTS,
    DAILY,
    HALF,
    METHOD,
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

ONE, TWO = "l:one", "l:two"
MINUTE = 60_000_000


def note(units, *, at=NOW, window=WINDOW, day=TODAY):
    """What is noted of a lease: its units; time, window and day of the charge."""
    return doubles(units, at, window, day)


def used(count_, level=500_000):
    """State of the key with so many units used today."""
    return state(level, window=WINDOW, used=count_, day_used=count_)


LEASES = [
    usual(
        "lease: the note says what was charged, and when",
        "3 units, in today's window",
        [1, NOW, 2, 300_000, 87, HALF],
        plan=TEN,
        quota=DAILY,
        cost=3,
        lease=(ONE, ""),
        before={PLAN: used(10)},
        writes={PLAN: used(13, 200_000), ONE: note(3)},
    ),
    case(
        "lease: the first charge of a key",
        "the slow path judges it",
        [1, NOW, 2, 300_000, 97, HALF],
        plan=TEN,
        quota=DAILY,
        cost=3,
        lease=(ONE, ""),
        writes={PLAN: used(3, 200_000), ONE: note(3)},
    ),
    usual(
        "lease: takes the place of one that is over; without a quota there is no window",
        "-1",
        [1, NOW, 2, 300_000],
        plan=TEN,
        cost=3,
        lease=(TWO, ONE),
        before={PLAN: state(500_000), ONE: note(2, at=NOW - 1000)},
        writes={PLAN: state(200_000, day_used=3), ONE: None, TWO: note(3, window=-1)},
    ),
    usual(
        "lease: with a bucket of the method",
        "both fields come after it",
        [1, NOW, 2, 300_000, 2, 300_000],
        plan=TEN,
        own=[(METHOD, *TEN)],
        cost=3,
        lease=(ONE, TWO),
        before={PLAN: state(500_000), METHOD: bucket(500_000)},
        writes={PLAN: state(200_000, day_used=3), METHOD: bucket(200_000), ONE: note(3, window=-1)},
    ),
    usual(
        "lease: reaches an alert",
        "79 + 3 >= 80",
        [1, NOW, 18, HALF],
        quota=DAILY,
        cost=3,
        alerts=[(80, 80)],
        lease=(ONE, ""),
        before={PLAN: count(79, last=NOW, day_used=79)},
        writes={
            PLAN: count(82, last=NOW, day_used=82),
            "a:gold": doubles(WINDOW, 80),
            STREAM: [
                {
                    "key": "k1",
                    "plan": "gold",
                    "percent": "80",
                    "used": "82",
                    "limit": "100",
                    "window_day": str(TODAY),
                    "time_us": str(NOW),
                }
            ],
            ONE: note(3),
        },
    ),
    usual(
        "lease: notes that nobody will ask for any more go",
        "60 s old, of a clock 60 s ahead, and no note at all; those 1 us younger stay",
        [1, NOW, 2, 300_000],
        plan=TEN,
        cost=3,
        lease=(ONE, ""),
        before={
            PLAN: state(500_000),
            "l:old": note(2, at=NOW - MINUTE),
            "l:ahead": note(2, at=NOW + MINUTE),
            "l:short": bytes(31),
            "l:young": note(2, at=NOW - MINUTE + 1),
            "l:soon": note(2, at=NOW + MINUTE - 1),
        },
        writes={
            PLAN: state(200_000, day_used=3),
            "l:old": None,
            "l:ahead": None,
            "l:short": None,
            ONE: note(3, window=-1),
        },
    ),
    case(
        "lease: a denial notes nothing, and removes nothing",
        "6 > 5, though 5 are there",
        [0, NOW, 5, 0, -1],
        plan=TEN,
        cost=6,
        lease=(ONE, TWO),
        before={PLAN: state(500_000), TWO: note(2), "l:old": note(2, at=NOW - MINUTE)},
    ),
    case(
        "lease: one that was returned before it was granted is not granted",
        "0 units",
        [-6, NOW],
        plan=TEN,
        cost=3,
        lease=(ONE, ""),
        before={PLAN: state(500_000), ONE: note(0, window=-1, day=0)},
    ),
    case(
        "lease: none beyond 256 notes",
        "256 of them, all from now",
        [-6, NOW],
        plan=TEN,
        cost=3,
        lease=(ONE, TWO),
        before={PLAN: state(500_000), **{f"l:{number}": note(1) for number in range(256)}},
    ),
    *(
        case(
            f"arguments: a lease {of_what}",
            "flag 256",
            ARGUMENTS,
            argv=[doubles(NOW, cost, 0, flags, *TEN, *DAILY) + version_token() + rest, b"p:gold", *fields],
        )
        for of_what, flags, cost, rest, fields in (
            ("that has no notes", 257, 3, b"", ()),
            ("that has one note", 257, 3, b"", (b"l:one",)),
            ("without a key", 256, 3, b"", (b"l:one", b"l:two")),
            ("under a shadow", 261, 3, doubles(*TEN, *DAILY), (b"s:p:next", b"l:one", b"l:two")),
            ("of an identity", 289, 3, b"", (b"l:one", b"l:two")),
            ("of nothing", 257, 0, b"", (b"l:one", b"l:two")),
            ("of a peek", 321, 3, b"", (b"l:one", b"l:two")),
        )
    ),
]
