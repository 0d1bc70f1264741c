"""What the state machine is fed: plans at the edges of what is exact, costs, steps of the clock, keys."""

from dataclasses import dataclass
from fractions import Fraction

from hypothesis import strategies as st

from ratelimit import Identity, Quota, Throttle
from ratelimit.registry.key_values import Digester
from ratelimit.registry.redis_keys import identity_id
from ratelimit.registry.windows import DAY_US

START_US = 1_772_625_600_000_000
"""Wednesday 2026-03-04 12:00:00 UTC."""

PLANS = {
    "gold": ("petstore/prod", "petstore/test"),
    "silver": ("petstore/prod", "petstore/test"),
    "inner": ("admin/prod", "admin/test"),
}
STAGES = ("petstore/prod", "petstore/test", "admin/prod", "nowhere/prod")
METHODS = ("GET /pets", "POST /pets", "GET /health", "GET /whatever", "HEAD /pets", "HEAD /health")
LISTED_BY_PLANS = ("GET /pets", "POST /pets", "HEAD /pets")
LISTED_BY_STAGES = ("GET /pets", "POST /pets", "GET /health", "HEAD /pets")

BURSTS = (2, 3, 5, 10, 1, 100, 0)
RATES = (1, 10, "3/2", "1/3", "2/3", "0.1", "7/86400", "1/86400", 999_983, "1000000/7", 1_000_000, 3_000_000, 0)
AT_THE_EDGE = (
    Throttle("1/1000000", 9007),  # 9007 * 10^12 is just below 2^53
    Throttle(1_000_000, 2**53 - 2_000_003),  # times up to 2^53 us, with the 2 s that a clock may be behind
    Throttle(Fraction(2**52 * 10**6), 2**51),
    Throttle("1/3000000", 3002),
)
throttles = st.one_of(
    st.builds(Throttle, st.sampled_from(RATES), st.sampled_from(BURSTS)),
    st.sampled_from(AT_THE_EDGE),
)
quotas = st.one_of(
    st.builds(Quota, st.sampled_from((0, 1, 2, 5, 20, 10**12)), st.just("DAY")),
    st.builds(Quota, st.sampled_from((1, 3, 20)), st.just("WEEK"), st.integers(0, 6)),
    st.builds(Quota, st.sampled_from((1, 3, 20)), st.just("MONTH"), st.integers(0, 27)),
)
costs = st.sampled_from((1,) * 16 + (0, 2, 2, 3, 3, 5, 6, 10, 11, 101, 3002, 9007, 9008, 2**53 - 1, 2**53, 10**30))
SMALL_STEPS = (1, 2, 7, 999, 1000, 66_667, 100_000, 333_333, 333_334, 500_000, 1_000_000, 1_500_000)
steps = st.sampled_from((0,) * 6 + SMALL_STEPS)
LARGE_STEPS = (3_000_000, 10_000_000, 60_000_000, 3_600_000_000, DAY_US // 2, DAY_US, 7 * DAY_US, 31 * DAY_US)
TOLERATED = (1, 1000, 50_000, 1_000_000, 1_999_999, 2_000_000)
NOT_TOLERATED = (2_000_001, 3_000_000, 60_000_000, 3_600_000_000, DAY_US, 8 * DAY_US, 40 * DAY_US)

PARTS = ("throttle", "quota", "stages", "throttle_scope", "shadow", "alerts", "max_identities")

memberships = st.sampled_from((("gold",), ("silver",), ("gold", "inner"), ("silver", "inner"), ()))
methods = st.sampled_from(METHODS)
plan_ids = st.sampled_from(tuple(PLANS))
plan_entries = st.dictionaries(st.sampled_from(LISTED_BY_PLANS), throttles, max_size=2)
plan_changes = st.one_of(
    st.fixed_dictionaries({"throttle": throttles}),
    st.fixed_dictionaries({"quota": quotas}),
    st.sampled_from(({"throttle": None}, {"quota": None}, {"throttle_scope": "key"}, {"throttle_scope": "key_method"})),
    st.sampled_from(({"shadow": "other"}, {"shadow": None}, {"alerts": (50, 100)})),
    st.fixed_dictionaries({"entries": plan_entries}),
)
seldom = st.sampled_from((False, False, False, True))
mostly = st.sampled_from((True, True, True, False))
stage_methods = st.dictionaries(st.sampled_from(LISTED_BY_STAGES), st.none() | throttles, max_size=3)
traffic = st.lists(st.tuples(steps, costs), min_size=1, max_size=8)
few_costs = st.sampled_from((1, 1, 1, 2, 3, 0))


@dataclass
class Key:
    """What the machine knows of one API key."""

    values: dict[str, int]
    """Each value that was ever its: until when it opens the key in microseconds since 1970, 0 for ever."""
    id: str
    plans: tuple[str, ...]
    enabled: bool = True
    expires_us: int | None = None
    deleted: bool = False

    @property
    def newest(self):
        """The value it was given last."""
        return list(self.values)[-1]


@dataclass(frozen=True)
class IdentityCaller:
    """An identity, in the place of a key."""

    newest: Identity
    id: str

    @property
    def plans(self):
        """The plans that it names."""
        return (self.newest.plan,)


IDENTITIES = tuple(
    IdentityCaller(Identity(subject, plan), identity_id(Digester()(f"identity:{subject}")))
    for subject in ("user:1", "user:2", "user:3")
    for plan in PLANS
)
"""Of each three plans, of which one admits two identities: see `machine`."""
