"""Random scenarios for checks that are sent together: what Redis holds, and a list of checks.

Most of what is drawn takes the fast path, so that long stretches of a list are answered together; any part may not.
"""

from dataclasses import dataclass

from hypothesis import strategies as st
from vectors.packing import (
    ACCOUNT,
    COUNTED,
    DAY,
    IDENTITY,
    NOW,
    OTHER_IDENTITY,
    PLAN,
    STAGE,
    TEN,
    TODAY,
    doubles,
    state,
    version_token,
)

from helpers.lua_tools import SortedSet

IDENTITIES = (IDENTITY, OTHER_IDENTITY)
TOKEN_OF_IDENTITIES = version_token(stamp="--------")
KEYS = tuple(f"ratelimit:{{k{number}}}" for number in range(3))
SHARED = (STAGE, ACCOUNT)
FIELDS = ("b:gold:petstore/prod:GET /pets", "b:gold:petstore/prod:POST /pets")
RULES = {STAGE: (7, 1, 1_000_000), ACCOUNT: (9, 3, 700_000), FIELDS[0]: (4, 1, 400_000), FIELDS[1]: TEN}
WINDOW = TODAY * 64 + 1


@dataclass(frozen=True)
class PreparedCheck:
    """One check: KEYS and ARGV as for check.lua, and its two bytes of the layout."""

    keys: tuple[str, ...]
    arguments: tuple[bytes, ...]
    layout: bytes


def mostly(usual, *others):
    """Draw `usual` but for about one time in thirty: there are some twenty such draws in a check and what it meets."""
    return st.integers(0, 29).flatmap(lambda number: st.sampled_from(others) if number == 17 else usual)


def levels(full):
    return st.one_of(st.just(full), st.just(full), st.integers(0, full + 1))


@st.composite
def buckets(draw, now, burst, _rate, per):
    """A state as it may be stored, None for none."""
    level = draw(levels(burst * per))
    last = draw(mostly(st.sampled_from([now, now - 1, now - per, now - 40_000_000, 0]), now + 1, now + 3_000_000))
    state = doubles(draw(mostly(st.just(per), 0, per + 1)), level, last)
    return draw(mostly(st.just(state), None, b"short"))


@st.composite
def plan_states(draw, now):
    """A state under the plan, None for none."""
    burst, _, per = TEN
    numbers = {
        "per": draw(mostly(st.just(per), 0, 0, 400_000)),
        "level": draw(levels(burst * per)),
        "last": draw(mostly(st.sampled_from([now, now - 1, now - per]), now + 1, now + 3_000_000, 0)),
        "window": draw(mostly(st.just(WINDOW), WINDOW - 64, WINDOW + 64, WINDOW + 1, 0)),
        "used": draw(st.integers(0, 12)),
        "granted": draw(mostly(st.just(0), -1, 3)),
        "day": draw(mostly(st.just(TODAY), TODAY - 1, TODAY + 1, 0)),
        "day_used": draw(mostly(st.integers(0, 9), 2**53 - 2)),
    }
    return draw(mostly(st.just(state(**numbers)), None, bytes(64)))


@st.composite
def stored(draw, now):
    """What Redis holds: hashes as dicts, strings, and a list where it should be neither."""
    held = {}
    for key in KEYS:
        who = draw(
            mostly(
                st.just(version_token()), version_token(6), version_token(8), version_token(stamp="other---"), b"", None
            )
        )
        fields = {"r": who, PLAN: draw(plan_states(now))}
        fields |= {field: draw(buckets(now, *RULES[field])) for field in FIELDS}
        fields = {name: value for name, value in fields.items() if value is not None}
        held[key] = draw(mostly(st.just(fields), b"no hash"))
    for key in IDENTITIES:
        who = draw(mostly(st.just(TOKEN_OF_IDENTITIES), version_token(8, stamp="--------"), version_token(), None))
        fields = {"r": who, PLAN: draw(plan_states(now))} | {
            field: draw(buckets(now, *RULES[field])) for field in FIELDS
        }
        held[key] = draw(st.sampled_from([{name: value for name, value in fields.items() if value is not None}, None]))
    held[COUNTED] = draw(st.sampled_from([None, SortedSet({"other": now + DAY}), SortedSet({"former": now - DAY})]))
    for place in SHARED:
        held[place] = draw(mostly(buckets(now, *RULES[place]), b"no bucket", {"no": b"string"}))
    return {key: value for key, value in held.items() if value not in (None, {})}


@st.composite
def check_of(draw, now):
    """A check; `now` 0 is the server's clock, as in a request."""
    own = draw(st.sampled_from([(), (), *[(field,) for field in FIELDS], FIELDS]))
    shared = draw(st.sampled_from([(), SHARED[:1], SHARED[1:], SHARED]))
    plan = draw(st.sampled_from([TEN, TEN, (0, 0, 0)])) if not own else (0, 0, 0)
    windows = draw(mostly(st.just((TODAY, TODAY + 1, TODAY + 2)), (TODAY - 1, TODAY, TODAY + 1), (1, 2, 3)))
    quota = draw(st.sampled_from([(-1, 0, 0, 0), (10, *windows)]))
    cost = draw(mostly(st.integers(1, 3), 0, 6, 11, 0.5, -1))
    flags, valid_until = draw(mostly(st.just(1), 3)), draw(mostly(st.just(0), NOW - DAY, NOW + DAY))
    who = draw(mostly(st.just(version_token()), version_token(8)))
    further = [part for place in (*own, *shared) for part in draw(mostly(st.just(RULES[place]), (5, 0, 1)))]
    tail = draw(mostly(st.just(b""), bytes(8)))
    request = doubles(now, cost, valid_until, flags, *plan, *quota) + who + doubles(*further) + tail
    key, counted = draw(st.sampled_from((*KEYS, *IDENTITIES))), ()
    if key in IDENTITIES:
        flags += 32
        if draw(st.booleans()):
            flags, counted, tail = flags + 128, (COUNTED,), draw(mostly(st.just(doubles(2, 1)), doubles(1, 1), b""))
        head = doubles(now, cost, 60_000_000, flags, *plan, *quota)
        request = head + TOKEN_OF_IDENTITIES + doubles(*further) + tail
    arguments = (request, PLAN.encode(), *(field.encode() for field in own))
    return PreparedCheck((key, *shared, *counted), arguments, bytes((len(own), len(shared))))


@st.composite
def scenarios(draw, now=NOW, request_now=None):
    """What Redis holds, and the checks."""
    checks = check_of(now if request_now is None else request_now)
    few = draw(st.lists(checks, min_size=1, max_size=4))
    # The same ones again and again, and some that come once.
    return draw(stored(now)), draw(st.lists(st.one_of(st.sampled_from(few), st.sampled_from(few), checks), max_size=12))
