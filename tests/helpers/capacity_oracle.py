"""Small catalogues at random, and what can be sent under them found the slow way: each key, each method by itself."""

import random
from collections import deque
from fractions import Fraction
from itertools import product

from ratelimit import Method, PlanStage, Quota, Stage, Throttle, UsagePlan
from ratelimit.engine.compile import compile_limits
from ratelimit.engine.limits import Bucket
from ratelimit.registry.redis_keys import RedisKeys
from ratelimit.registry.snapshot import CatalogSnapshot

NAMES = RedisKeys("ratelimit")
STAGES = ("a/prod", "b/prod")
METHODS, HEAD = ("GET /x", "GET /y"), "HEAD /x"
OTHER = "GET /nobody/lists/it"
ENDLESS = 10**9


def book_of(plans=(), stages=(), account=None):
    plans = {plan.id: plan for plan in plans}
    return CatalogSnapshot("epoch", 1, plans, {stage.id: stage for stage in stages}, account)


def random_book(seed, rates, *, quotas=True):
    """A snapshot of one or two plans and stages, and how many keys each plan has. Anything may be absent, or 0."""
    pick, further = random.Random(seed), random.Random(-seed)

    def throttle(chance, most):
        return Throttle(pick.choice(rates), pick.choice((0, 1, 1, 2, 3, most))) if pick.random() < chance else None

    def size(most):
        return Throttle(pick.choice(rates), pick.randrange(1, most))

    plans = []
    for plan_id in ("p", "q")[: pick.randrange(1, 3)]:
        own = throttle(0.9, 4)
        stages = []
        for stage in pick.sample(STAGES, pick.randrange(1, 3)):
            entries = {method: size(4) for method in METHODS if own and pick.random() < 0.3}
            if own and further.random() < 0.2:
                entries[HEAD] = Throttle(further.choice(rates), further.randrange(1, 4))
            stages.append(PlanStage(stage, entries))
        period = pick.choice(("DAY", "WEEK", "MONTH"))
        quota = Quota(pick.choice((0, 3, 5, 20)), period) if quotas and pick.random() < 0.6 else None
        plans.append(UsagePlan(plan_id, own, quota, stages, throttle_scope=pick.choice(("key", "key_method"))))
    configured = []
    for stage in STAGES:
        if pick.random() < 0.7:
            methods = {name: Method(throttle(0.3, 5), pick.random() < 0.8) for name in METHODS if pick.random() < 0.6}
            if further.random() < 0.2:
                methods[HEAD] = Method()
            unlisted = "deny" if further.random() < 0.2 else "limit"
            configured.append(Stage(stage, throttle(0.6, 6), methods, unlisted))
    return book_of(plans, configured, throttle(0.5, 12)), {plan.id: pick.randrange(3) for plan in plans}


def is_denied(snapshot, plan_id, stage, method):
    """Whether the stage denies the method to the plan's keys; a HEAD is listed where its GET is."""
    lists = {*snapshot.plans[plan_id].stage(stage).throttles}
    if stage not in snapshot.stages or snapshot.stages[stage].unlisted == "limit":
        return False
    return not {method, method.replace("HEAD", "GET")} & (lists | {*snapshot.stages[stage].methods})


def kinds(snapshot, keys):
    """Every kind of request: (owner, limits, what it is). An owner is one key, "" is callers without one."""
    requests = {}
    for stage, method in product(STAGES, (*METHODS, HEAD, OTHER)):
        if not snapshot.method(stage, method).key_required:
            requests["", stage, method] = compile_limits(snapshot, None, stage, method, NAMES).limits
            continue
        for plan_id, count in keys.items():
            if snapshot.plans[plan_id].stage(stage) and not is_denied(snapshot, plan_id, stage, method):
                limits = compile_limits(snapshot, snapshot.plans[plan_id], stage, method, NAMES).limits
                requests |= {(f"{plan_id}-{number}", stage, method): limits for number in range(count)}
    return requests


def most(limit, span_us, quota_times):
    """What one limit lets through within a span; None: as much as there is."""
    if not isinstance(limit, Bucket):
        return None if quota_times is None and limit.quota.limit else limit.quota.limit * (quota_times or 0)
    if not limit.throttle.rate or not limit.throttle.burst:
        return 0
    if span_us is None:
        return limit.throttle.rate
    whole = limit.throttle.burst + limit.throttle.rate * Fraction(max(0, span_us - 1), 1_000_000)
    return whole.numerator // whole.denominator


def sent_at_most(requests, span_us, quota_times):
    """The most that can be sent of all kinds, and how much of each that takes; None if it is without end.

    By augmenting paths, in a network with a node for each bucket of each key: nothing is taken together.
    """
    room, heads = {}, {}
    for kind, limits in requests.items():
        own, shared = [], []
        for limit in reversed(limits):  # the quota comes first here, the account last
            capacity = most(limit, span_us, quota_times)
            if capacity is not None and limit.shared:
                shared.insert(0, ((limit.field_or_key,), capacity))
            elif capacity is not None:
                own.append(((kind[0], limit.field_or_key or limit.name), capacity))
        if not own + shared:
            return None
        node = "source"
        for place, capacity in (*own, (kind, None), *shared):
            for tail, head, most_of_it in ((node, (*place, "in"), None), ((*place, "in"), (*place, "out"), capacity)):
                room.setdefault((tail, head), ENDLESS if most_of_it is None else most_of_it)
                room.setdefault((head, tail), 0)
                heads.setdefault(tail, {})[head] = None
                heads.setdefault(head, {})[tail] = None
            node = (*place, "out")
        room[node, "sink"], room["sink", node] = ENDLESS, 0
        heads.setdefault(node, {})["sink"] = None
    total = 0
    while path := _path(heads, room):
        step = min(room[edge] for edge in path)
        for tail, head in path:
            room[tail, head] -= step
            room[head, tail] += step
        total += step
    return total, {kind: room[(*kind, "out"), (*kind, "in")] for kind in requests}


def _path(heads, room):
    """A shortest path from source to sink with room left, as edges; empty if there is none."""
    came, waiting = {"source": None}, deque(["source"])
    while waiting and "sink" not in came:
        node = waiting.popleft()
        for head in heads.get(node, ()):
            if head not in came and room[node, head] > 0:
                came[head] = node
                waiting.append(head)
    path, node = [], "sink"
    while came.get(node) is not None:
        path.append((came[node], node))
        node = came[node]
    return path
