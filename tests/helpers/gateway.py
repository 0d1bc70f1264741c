"""The gateway of the conformance matrix: two APIs, one plan, two keys, and how a row of the matrix is played.

A case is a list of steps; a step is a function of the `Gateway`. The clock stands still at 2026-03-04 12:00:00 UTC, a
Wednesday, except where a step moves it.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from helpers.redis_snapshot import snapshot_without_denials
from ratelimit import Method, Quota, Reason, Stage, Throttle, UsagePlan

A, B = "a/prod", "b/prod"
GET_PETS, POST_PETS, GET_X, HEALTH = (A, "GET /pets"), (A, "POST /pets"), (B, "GET /x"), (A, "GET /health")
METHODS = {"GET /pets": Method(), "POST /pets": Method(), "GET /health": Method(key_required=False)}
STAGES = (Stage(A, methods=METHODS), Stage(B, methods={"GET /x": Method()}))
ACCOUNT = Throttle(10_000, 5_000)
TEN_FIVE, DAILY = Throttle(10, 5), Quota(100, "DAY")
GOLD = UsagePlan("gold", TEN_FIVE, DAILY, [A, B])
QUOTA_ONLY = UsagePlan("gold", None, DAILY, [A, B])
VALUES = {"k1": "Key-One-0123456789-abcdef", "k2": "Key-Two-0123456789-abcdef"}
TO_MIDNIGHT = 43_200.0


class Outcome(NamedTuple):
    """What a decision says of a request."""

    reason: str
    limited_by: str | None = None
    retry_after: float | None = None
    detail: str | None = None


OK = Outcome("ALLOWED")


def throttled(by, after=None):
    return Outcome("THROTTLED", by, after)


def exceeded(by, after=None):
    return Outcome("QUOTA_EXCEEDED", by, after)


def invalid(detail):
    return Outcome("INVALID_KEY", detail=detail)


def outcome(decision):
    return Outcome(decision.reason.value, decision.limited_by, decision.retry_after, decision.detail)


class Gateway:
    """A limiter with plans, stages, an account throttle and keys, each key in the plans that are named."""

    def __init__(self, limiter, client, clock, *, plans=(GOLD,), stages=STAGES, account=ACCOUNT, keys=None):
        self.limiter, self.catalog, self.client, self.clock = limiter, limiter.catalog, client, clock
        for plan in plans:
            self.catalog.put_plan(plan)
        for stage in stages:
            self.catalog.put_stage(stage)
        self.catalog.set_account_throttle(account)
        members = keys if keys is not None else {"k1": ["gold"], "k2": ["gold"]}
        made = {name: self.catalog.create_key(name, VALUES[name], joined) for name, joined in members.items()}
        self.ids = {name: key.id for name, key in made.items()}

    def check(self, who, where, cost=1):
        """Check as the key of this name; a text that is no name is sent as it is."""
        return self.limiter.check(VALUES.get(who, self.ids.get(who, who)), *where, cost)

    def peek(self, who, where):
        return self.limiter.peek(VALUES.get(who, who), *where)

    def key_of(self, who):
        """The name in Redis of one key's hash."""
        return f"ratelimit:{{{self.ids[who]}}}"

    def hash_of(self, who):
        """The whole state of one key in Redis."""
        return self.client.hgetall(self.key_of(who))

    def used(self, who, plan_id):
        """What a key used under a plan on the day on which the matrix begins."""
        ((used, _),) = self.catalog.usage(plan_id, "2026-03-04", "2026-03-04", self.ids[who]).items[self.ids[who]]
        return used


Step = Callable[[Gateway], None]


class Case(NamedTuple):
    """A row of the matrix: its id (and a variant, after a blank), what is called, and keywords of the `Gateway`."""

    id: str
    steps: tuple[Step, ...]
    world: Mapping[str, object]


def case(case_id, *steps, **world):
    return Case(case_id, steps, world)


def ids_of(cases):
    """The ids of the matrix that some cases cover."""
    return {each.id.split()[0] for each in cases}


def play(each, gateway):
    for step in each.steps:
        step(gateway)


def call(who, where, *outcomes, reanchors=False):
    """Calls, one per outcome. `peek` says the same before, and neither it nor a refusal leaves a trace in Redis.

    `reanchors` marks the one exception, a refusal after the clock went back by more than two seconds.
    """

    def step(gateway):
        for expected in outcomes:
            before = snapshot_without_denials(gateway.client)
            assert outcome(gateway.peek(who, where)) == expected
            assert snapshot_without_denials(gateway.client) == before
            assert outcome(gateway.check(who, where)) == expected
            assert (snapshot_without_denials(gateway.client) == before) == (expected != OK and not reanchors)

    return step


def admitted(who, where, times, every=0.0):
    """Calls that are all admitted, `every` seconds apart."""

    def step(gateway):
        for _ in range(times):
            assert outcome(gateway.check(who, where)) == OK
            gateway.clock.advance(every)

    return step


def wait(seconds):
    return lambda gateway: gateway.clock.advance(seconds)


def at(text):
    return lambda gateway: gateway.clock.set(text)


def left(who, where, **remaining):
    """What remains of limits, by the part of their name before the colon."""

    def step(gateway):
        by_kind = {limit.name.split(":")[0]: limit.remaining for limit in gateway.peek(who, where).limits}
        assert {kind: by_kind[kind] for kind in remaining} == remaining

    return step


def with_state(limiter, client, clock):
    """A gateway with limits of every kind, and one request admitted: every piece of state exists."""
    gateway = Gateway(limiter, client, clock, stages=(Stage(A, Throttle(50, 50), METHODS), STAGES[1]))
    assert tokens_left(gateway) == 4
    return gateway


def tokens_left(gateway):
    decision = gateway.check("k1", GET_PETS)
    assert outcome(decision) == OK
    return decision.limits[0].remaining


def assert_unavailable(gateway, *causes, peek=True):
    """Checks are answered 503 by nobody, not once only, with the cause; peeks alike unless they can."""
    for ask in (*([gateway.peek] if peek else []), gateway.check, gateway.check):
        decision = ask("k1", GET_PETS)
        assert (decision.reason, decision.status, decision.source) == (Reason.UNAVAILABLE, 503, "fail_closed")
        assert (decision.allowed, decision.degraded, decision.retry_after) == (False, True, None)
        assert (decision.limits, decision.limited_by, decision.headers()) == ((), None, {})
        for cause in causes:
            assert cause in decision.error
        assert VALUES["k1"] not in decision.error
