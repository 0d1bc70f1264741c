"""What a backend must bear, worked out by hand; and how the keys that count are counted."""

from fractions import Fraction
from itertools import product
from random import Random

import pytest
from helpers.capacity_oracle import book_of

from ratelimit import AsyncCatalog, Catalog, Method, NotFound, PlanStage, Quota, Stage, Throttle, UsagePlan
from ratelimit.admin.capacity.maxflow import SINK, SOURCE, FlowGraph
from ratelimit.admin.capacity.report import capacity_of

TEN_FIVE = Throttle(10, 5)
DAY_OF_TEN = 10 * 86_400 - 1
"""Whole tokens at 10 per second from the first to the last microsecond of a day."""


def figures(total):
    return tuple(figure.exact for figure in (total.rate, total.burst, total.second, total.day))


def bounds(total):
    return [[str(bound) for bound in figure.bounds] for figure in (total.rate, total.burst, total.second, total.day)]


def gold(throttle=TEN_FIVE, quota=None, stages=("a/prod",), **options):
    return UsagePlan("gold", throttle, quota, stages, **options)


TABLE = {
    "keys of one plan": (
        book_of([gold()]),
        {"gold": 120},
        (1200, 600, 120 * 14, 120 * (5 + DAY_OF_TEN)),
        ["plan:gold: 120 keys x 10"],
    ),
    "one bucket for all stages of a plan": (
        book_of([gold(stages=["a/prod", "a/test", "b/prod"])]),
        {"gold": 2},
        (20, 10, 28, 2 * (5 + DAY_OF_TEN)),
        ["plan:gold: 2 keys x 10"],
    ),
    "a method entry adds its own": (
        book_of([gold(stages=[PlanStage("a/prod", {"GET /x": Throttle(1, 2)}), "b/prod"])]),
        {"gold": 3},
        (33, 21, 3 * (14 + 2), 3 * (5 + DAY_OF_TEN + 2 + 86_399)),
        ["plan:gold:GET /x at a/prod: 3 keys x 1", "plan:gold: 3 keys x 10"],
    ),
    "an entry for a method that needs no key adds nothing": (
        book_of(
            [gold(stages=[PlanStage("a/prod", {"GET /x": Throttle(1, 2)})])],
            [Stage("a/prod", None, {"GET /x": Method(Throttle(7, 3), key_required=False)})],
        ),
        {"gold": 1},
        (17, 8, 14 + 9, 5 + DAY_OF_TEN + 3 + 7 * 86_400 - 1),
        ["plan:gold: 1 key x 10", "stage:a/prod:GET /x: 7"],
    ),
    "key_method: one for each method, and one for all others of each stage": (
        book_of(
            [gold(stages=["a/prod", "b/prod"], throttle_scope="key_method")],
            [Stage("a/prod", None, {"GET /x": Method(), "GET /y": Method()})],
        ),
        {"gold": 2},
        (2 * 4 * 10, 2 * 4 * 5, 2 * 4 * 14, 2 * 4 * (5 + DAY_OF_TEN)),
        ["plan:gold at a/prod: 2 keys x 3 methods x 10", "plan:gold:* at b/prod: 2 keys x 10"],
    ),
    "a stage has one for each method, and one for all others": (
        book_of(
            [gold(Throttle(1000, 1000))],
            [Stage("a/prod", TEN_FIVE, {"GET /x": Method(), "GET /y": Method(Throttle(1, 1))})],
        ),
        {"gold": 50},
        (21, 11, 29, 2 * (5 + DAY_OF_TEN) + 1 + 86_399),
        ["stage:a/prod: 2 methods x 10", "stage:a/prod:GET /y: 1"],
    ),
    "the account bounds everything": (
        book_of([gold()], account=Throttle(100, 50)),
        {"gold": 120},
        (100, 50, 149, 50 + 100 * 86_400 - 1),
        ["account: 100"],
    ),
    "what callers without a key send is bounded by the stage": (
        book_of(stages=[Stage("a/prod", TEN_FIVE, {"GET /open": Method(key_required=False)})]),
        {},
        (10, 5, 14, 5 + DAY_OF_TEN),
        ["stage:a/prod:GET /open: 10"],
    ),
    "a slow and a fast stage of one plan": (
        book_of(
            [gold(stages=["a/prod", "b/prod"])], [Stage("a/prod", Throttle(3, 1)), Stage("b/prod", Throttle(4, 2))]
        ),
        {"gold": 1},
        (7, 3, 3 + 5, 1 + 3 * 86_400 - 1 + 2 + 4 * 86_400 - 1),
        ["stage:a/prod:*: 3", "stage:b/prod:*: 4"],
    ),
    "stages bind one plan, keys another": (
        book_of(
            [gold(Throttle(50, 50)), UsagePlan("free", Throttle(1, 1), stages=["b/prod"])],
            [Stage("a/prod", TEN_FIVE), Stage("b/prod", TEN_FIVE)],
        ),
        {"gold": 4, "free": 4},
        (14, 9, 14 + 4, 5 + DAY_OF_TEN + 4 * 86_400),
        ["plan:free: 4 keys x 1", "stage:a/prod:*: 10"],
    ),
    "rates that are fractions": (
        book_of([gold(Throttle("1/3", 1)), UsagePlan("free", Throttle("0.1", 2), stages=["b/prod"])]),
        {"gold": 1, "free": 7},
        (Fraction(31, 30), 15, 15, 1 + 28_799 + 7 * (2 + 8_639)),
        ["plan:gold: 1 key x 0.3333333333333333", "plan:free: 7 keys x 0.1"],
    ),
    "a stage that denies what is not listed": (
        book_of([gold(Throttle(1000, 1000))], [Stage("a/prod", TEN_FIVE, {"GET /x": Method()}, unlisted="deny")]),
        {"gold": 50},
        (10, 5, 14, 5 + DAY_OF_TEN),
        ["stage:a/prod:GET /x: 10"],
    ),
    "a stage that denies what another plan lists": (
        book_of(
            [
                gold(stages=[PlanStage("a/prod", {"GET /y": Throttle(1, 1)})]),
                UsagePlan("free", TEN_FIVE, stages=["a/prod"]),
            ],
            [Stage("a/prod", unlisted="deny")],
        ),
        {"gold": 1, "free": 3},
        (1, 1, 1, 86_400),
        ["plan:gold:GET /y at a/prod: 1 key x 1"],
    ),
    "HEAD has a bucket of the plan, and shares the stage's": (
        book_of(
            [gold(stages=[PlanStage("a/prod", dict.fromkeys(("GET /x", "HEAD /x", "GET /y"), Throttle(99, 99)))])],
            [Stage("a/prod", TEN_FIVE)],
        ),
        {"gold": 50},
        (30, 15, 42, 3 * (5 + DAY_OF_TEN)),
        ["stage:a/prod:GET /x: 10", "stage:a/prod:GET /y: 10", "stage:a/prod:*: 10"],
    ),
    "HEAD has a bucket of the stage, and shares the key's for all others": (
        book_of(
            [gold(throttle_scope="key_method")], [Stage("a/prod", None, {"HEAD /x": Method(), "GET /y": Method()})]
        ),
        {"gold": 2},
        (2 * 2 * 10, 2 * 2 * 5, 2 * 2 * 14, 2 * 2 * (5 + DAY_OF_TEN)),
        ["plan:gold:GET /y at a/prod: 2 keys x 10", "plan:gold:* at a/prod: 2 keys x 10"],
    ),
    "no keys": (book_of([gold()]), {"gold": 0}, (0, 0, 0, 0), []),
    "nothing at all": (book_of(), {}, (0, 0, 0, 0), []),
    "rate 0": (book_of([gold(Throttle(0, 5))]), {"gold": 9}, (0, 0, 0, 0), ["plan:gold: 9 keys x 0"]),
    "burst 0": (book_of([gold(Throttle(5, 0))]), {"gold": 9}, (0, 0, 0, 0), ["plan:gold: 9 keys x 0"]),
    "quota 0": (book_of([gold(quota=Quota(0, "DAY"))]), {"gold": 9}, (0, 0, 0, 0), ["quota:gold: 9 keys x 0"]),
}


@pytest.mark.parametrize("case", TABLE)
def test_figures_by_hand(case):
    """Rate, burst, second and day, exactly, and the limits of which the rate is the sum."""
    snapshot, keys, expected, binding = TABLE[case]
    capacity = capacity_of(snapshot, keys)
    assert figures(capacity.total) == expected
    assert bounds(capacity.total)[0] == binding
    for figure in (capacity.total.rate, capacity.total.burst, capacity.total.second, capacity.total.day):
        assert sum(bound.amount for bound in figure.bounds) == figure.exact
        assert figure.value == float(figure.exact)


@pytest.mark.parametrize("period", ["DAY", "WEEK", "MONTH"])
def test_a_quota_binds_the_day_whatever_its_period(period):
    """A key may use a whole month's quota in one day; at the change of windows it has two of them at once."""
    total = capacity_of(book_of([gold(quota=Quota(1000, period))]), {"gold": 3}).total
    assert figures(total) == (30, 15, 42, 3000)
    assert bounds(total)[3] == ["quota:gold: 3 keys x 1000"]
    total = capacity_of(book_of([gold(quota=Quota(2, period))]), {"gold": 3}).total
    assert figures(total) == (30, 12, 12, 6)
    assert bounds(total)[1:] == [["quota:gold: 3 keys x 4"], ["quota:gold: 3 keys x 4"], ["quota:gold: 3 keys x 2"]]


def test_unlimited_stays_unlimited_and_is_said():
    """No throttle: no bound of the rate, nor of anything where there is no quota; by whom is said."""
    free = UsagePlan("free", stages=["a/prod"])
    quota = UsagePlan("quota", quota=Quota(50, "DAY"), stages=["b/prod"])
    capacity = capacity_of(book_of([gold(stages=["c/prod"]), free, quota]), {"gold": 1, "free": 2, "quota": 3})
    assert figures(capacity.total) == (None, None, None, None)
    assert [figure.value for figure in (capacity.total.rate, capacity.total.day)] == [None, None]
    assert bounds(capacity.total) == [
        ["plan:free: 2 keys x unlimited", "plan:quota: 3 keys x unlimited"],
        *[["plan:free: 2 keys x unlimited"]] * 3,
    ]
    assert figures(capacity.stages["a/prod"]) == (None, None, None, None)
    assert figures(capacity.stages["b/prod"]) == (None, 300, 300, 150)
    assert figures(capacity.stages["c/prod"]) == (10, 5, 14, 5 + DAY_OF_TEN)


def test_methods_that_need_no_key_are_unlimited_without_a_throttle():
    """Whoever calls them; the stage's methods are named one by one."""
    stage = Stage("a/prod", None, {"GET /x": Method(key_required=False), "GET /y": Method(key_required=False)})
    total = capacity_of(book_of([gold()], [stage]), {"gold": 1}).total
    assert figures(total) == (None,) * 4
    assert bounds(total)[0] == ["stage:a/prod:GET /x: unlimited", "stage:a/prod:GET /y: unlimited"]
    total = capacity_of(book_of([gold()], [stage], Throttle(7, 7)), {"gold": 1}).total
    assert figures(total)[:2] == (7, 7)


def test_a_plan_without_a_throttle_is_bounded_by_what_comes_after_it():
    """By its stage, or the account."""
    free = UsagePlan("free", stages=["a/prod"])
    total = capacity_of(book_of([free], [Stage("a/prod", TEN_FIVE)]), {"free": 9}).total
    assert (figures(total)[:2], bounds(total)[0]) == ((10, 5), ["stage:a/prod:*: 10"])


def test_another_limit_may_bind_the_rate_than_the_burst():
    """A wide slow bucket after a narrow fast one: one second sees more than rate and burst together."""
    snapshot = book_of([gold(Throttle(10, 1))], [Stage("a/prod", Throttle(1, 10))])
    total = capacity_of(snapshot, {"gold": 1}).total
    assert figures(total)[:3] == (1, 1, 10)
    assert [each[0] for each in bounds(total)[:3]] == [
        "stage:a/prod:*: 1",
        "plan:gold: 1 key x 1",
        "plan:gold: 1 key x 10",
    ]


def test_stages_are_listed_one_by_one():
    """Each stage as if its callers called nothing else; the total is less than their sum where limits are shared."""
    snapshot = book_of(
        [gold(stages=["a/prod", "b/prod"])], [Stage("b/prod", Throttle(4, 2)), Stage("c/prod", Throttle(1, 1))]
    )
    capacity = capacity_of(snapshot, {"gold": 1})
    assert figures(capacity.total)[:2] == (10, 5)
    assert {stage: figures(each)[:2] for stage, each in capacity.stages.items()} == {
        "a/prod": (10, 5),
        "b/prod": (4, 2),
        "c/prod": (0, 0),
    }


def test_what_one_more_customer_adds():
    """The difference in each figure, and what binds then; unlimited is not counted with."""
    snapshot = book_of([gold(stages=["a/prod", "b/prod"])], [Stage("b/prod", Throttle(25, 9))], Throttle(45, 21))
    capacity = capacity_of(snapshot, {"gold": 4}, "gold")
    assert (capacity.addition.plan, capacity.active_keys) == ("gold", {"gold": 4})
    assert figures(capacity.addition.total)[:2] == (5, 1)
    assert bounds(capacity.addition.total)[:2] == [["account: 45"], ["account: 21"]]
    assert figures(capacity.addition.stages["a/prod"])[:2] == (5, 1)
    assert figures(capacity.addition.stages["b/prod"])[:2] == (0, 0)
    first = capacity_of(snapshot, {}, "gold").addition
    assert figures(first.total) == (10, 5, 14, 5 + DAY_OF_TEN)
    free = book_of([UsagePlan("free", stages=["a/prod"])])
    assert figures(capacity_of(free, {}, "free").addition.total) == (None,) * 4
    assert figures(capacity_of(free, {"free": 1}, "free").addition.total) == (None,) * 4
    assert capacity_of(snapshot, {"gold": 4}).addition is None


# Keys that count


def test_active_keys_are_counted(limiter, clock):
    """Enabled, not expired, in the plan: to the microsecond, and a key of two plans in both."""
    catalog = limiter.catalog
    for plan in (gold(), UsagePlan("other", Throttle(1, 1), stages=["b/prod"]), UsagePlan("none", stages=["c/prod"])):
        catalog.put_plan(plan)
    catalog.create_key(plans=["gold", "other"])
    catalog.create_key(plans=["gold"], enabled=False)
    catalog.create_key()
    left = catalog.create_key(plans=["gold", "other"])
    catalog.remove_key_from_plan(left.id, "gold")
    catalog.delete_key(catalog.create_key(plans=["gold"]).id)
    catalog.create_key(plans=["gold"], expires_at=clock.now_us / 1_000_000 + 1)
    clock.advance_us(999_999)
    capacity = catalog.capacity()
    assert capacity.active_keys == {"gold": 2, "other": 2, "none": 0}
    assert figures(capacity.total)[:2] == (22, 12)
    clock.advance_us(1)
    assert catalog.capacity().active_keys == {"gold": 1, "other": 2, "none": 0}


def test_a_new_customer_of_a_plan_that_there_is_none(limiter):
    """NotFound, as everywhere."""
    with pytest.raises(NotFound, match="there is no plan 'gold'"):
        limiter.catalog.capacity("gold")
    assert limiter.catalog.capacity().active_keys == {}


def test_keys_are_counted_page_by_page(server):
    """The records of 1,201 keys are read in four pages: neither side ever holds them all."""
    with server.client() as client:
        catalog = Catalog(client)
        catalog.put_plan(gold())
        made = catalog.create_key(plans=["gold"])
        record = client.get(f"ratelimit:{{{made.id}}}:record").decode()
        with client.pipeline(transaction=False) as pipeline:
            for number in range(1200):
                key_id = f"k{number:09}"
                pipeline.set(f"ratelimit:{{{key_id}}}:record", record.replace(made.id, key_id))
                pipeline.zadd("{ratelimit}:keys", {key_id: number + 1})
            pipeline.execute()
        client.config_resetstat()
        assert catalog.capacity().active_keys == {"gold": 1201}
        calls = {name[8:]: stat["calls"] for name, stat in client.info("commandstats").items()}
        assert (calls["mget"], calls["hgetall"]) == (4, 1)


@pytest.mark.asyncio
async def test_the_twin_says_the_same(backend):
    """Capacity of a catalogue, blocking and awaited."""
    async with backend.async_client() as async_client:
        with backend.client() as client:
            catalog = Catalog(client)
            catalog.put_plan(gold())
            catalog.create_key(plans=["gold"])
            assert await AsyncCatalog(async_client).capacity("gold") == catalog.capacity("gold")


# Maximum flow


def test_the_maximum_flow_is_the_minimum_cut():
    """On 200 small random networks: equal to the least of all cuts, and the cut that is named is a least one."""
    pick = Random(1)
    for _ in range(200):
        nodes = [SOURCE, *(("n", str(number)) for number in range(pick.randrange(5))), SINK]
        edges = {}
        for tail, head in product(nodes, nodes):
            if tail not in (head, SINK) and head != SOURCE and pick.random() < 0.6:
                edges[tail, head] = pick.choice((None, 0, 1, 2, 3, 7, 12))
        network = FlowGraph()
        for (tail, head), capacity in edges.items():
            network.add(tail, head, capacity)
        cuts = [_cut(edges, {SOURCE, *inner}) for inner in _subsets(nodes[1:-1])]
        finite = [cut for cut in cuts if cut is not None]
        assert (SOURCE in network.reaching_sink_unlimited()) == (not finite)
        if finite:
            total, side = network.solve()
            assert total == min(finite) == _cut(edges, side)


def _subsets(nodes):
    for chosen in product((False, True), repeat=len(nodes)):
        yield {node for node, is_in in zip(nodes, chosen, strict=True) if is_in}


def _cut(edges, side):
    crossing = [capacity for (tail, head), capacity in edges.items() if tail in side and head not in side]
    return None if None in crossing else sum(crossing)
