"""What the text of a method means: HEAD by layer, requests that match no route, texts that are no method at all."""

import logging
import os
from collections import Counter
from contextlib import contextmanager

import pytest
from helpers.gateway import OK, VALUES, A, invalid, outcome, throttled
from helpers.redis_snapshot import snapshot_without_denials
from helpers.replica import replica
from helpers.twins import RunningLimiter

from ratelimit import Catalog, Identity, Method, PlanStage, Quota, Stage, Throttle, UsagePlan
from ratelimit.engine.compile import compile_limits
from ratelimit.local.unmatched_methods import UnmatchedMethods
from ratelimit.registry.redis_keys import RedisKeys
from ratelimit.registry.snapshot import CatalogSnapshot

NAMES = RedisKeys("ratelimit")
K1, WIDE, TWO, ONE = VALUES["k1"], Throttle(1, 50), Throttle(1, 2), Throttle(1, 1)
GET, HEAD, POST = "GET /pets", "HEAD /pets", "POST /pets"


def of(entries, plan_id="gold", **more):
    """A plan that opens stage A, with these entries."""
    return UsagePlan(plan_id, WIDE, None, [PlanStage(A, dict.fromkeys(entries, TWO))], **more)


def names(method, plan, *others, stage=None):
    """The names of the limits of a request, in order."""
    plans = {each.id: each for each in (plan, *others) if each is not None}
    snapshot = CatalogSnapshot(plans=plans, stages={A: stage} if stage else {})
    return [limit.name for limit in compile_limits(snapshot, plan, A, method, NAMES).limits]


@contextmanager
def running(backend, is_async, clock):
    """Either twin, in which nobody listens for pushes; it was made after the catalogue."""

    def make(kind):
        client = (backend.async_client if is_async else backend.client)()
        made = kind(client, clock=clock, deadline=5.0)
        made._namespace.before_refresh = lambda: None
        return made

    with RunningLimiter(make, is_async) as twin:
        yield twin


@pytest.fixture(params=[False, True], ids=["blocking", "asyncio"])
def twin(request, backend, clock):
    """Either twin, on a catalogue with two keys and a stage with limits of every kind."""
    with backend.client() as client:
        catalog = Catalog(client, clock=clock)
        catalog.put_plan(UsagePlan("gold", Throttle(1, 10), Quota(20, "DAY"), [PlanStage(A, {GET: TWO})]))
        catalog.put_stage(Stage(A, Throttle(1, 3), {"GET /open": Method(ONE, key_required=False)}))
        catalog.set_account_throttle(Throttle(1, 100))
        catalog.create_key("one", K1, ["gold"])
        catalog.create_key("off", VALUES["k2"], ["gold"], enabled=False)
    with running(backend, request.param, clock) as made:
        yield made


def shared(twin, key, **keywords):
    return twin.run(lambda: twin.limiter._check_shared(key, A, **keywords))


def peeked(twin, method):
    """What is left of each limit that a request would meet."""
    decision = twin.run(lambda: twin.limiter.peek(K1, A, method))
    return {limit.name: limit.remaining for limit in decision.limits}


STAGE_OF_ALL = Stage(A, WIDE)

HEADS = {
    "nobody lists anything": (HEAD, of([]), (), STAGE_OF_ALL, ["plan:gold", "stage:a/prod:*"]),
    "the plan lists GET": (HEAD, of([GET]), (), STAGE_OF_ALL, ["plan:gold:GET /pets", "stage:a/prod:GET /pets"]),
    "the plan lists both": (
        HEAD,
        of([GET, HEAD]),
        (),
        STAGE_OF_ALL,
        ["plan:gold:HEAD /pets", "stage:a/prod:GET /pets"],
    ),
    "the plan lists HEAD alone": (HEAD, of([HEAD]), (), STAGE_OF_ALL, ["plan:gold:HEAD /pets", "stage:a/prod:*"]),
    "and GET is then nobody's": (GET, of([HEAD]), (), STAGE_OF_ALL, ["plan:gold", "stage:a/prod:*"]),
    "the stage lists GET": (HEAD, of([]), (), Stage(A, WIDE, {GET: Method()}), ["plan:gold", "stage:a/prod:GET /pets"]),
    "the stage lists HEAD, the plan GET": (
        HEAD,
        of([GET]),
        (),
        Stage(A, WIDE, {HEAD: Method()}),
        ["plan:gold:GET /pets", "stage:a/prod:HEAD /pets"],
    ),
    "the stage lists HEAD, the plan nothing": (
        HEAD,
        of([]),
        (),
        Stage(A, WIDE, {HEAD: Method()}),
        ["plan:gold", "stage:a/prod:HEAD /pets"],
    ),
    "both list both": (
        HEAD,
        of([GET, HEAD]),
        (),
        Stage(A, WIDE, {GET: Method(), HEAD: Method()}),
        ["plan:gold:HEAD /pets", "stage:a/prod:HEAD /pets"],
    ),
    "another plan lists HEAD": (
        HEAD,
        of([GET]),
        (of([HEAD], "other"),),
        STAGE_OF_ALL,
        ["plan:gold:GET /pets", "stage:a/prod:GET /pets"],
    ),
    "another plan lists GET": (
        HEAD,
        of([]),
        (of([GET], "other"),),
        STAGE_OF_ALL,
        ["plan:gold", "stage:a/prod:GET /pets"],
    ),
    "each method of a key has its bucket": (
        HEAD,
        of([], throttle_scope="key_method"),
        (of([GET], "other"),),
        STAGE_OF_ALL,
        ["plan:gold:GET /pets", "stage:a/prod:GET /pets"],
    ),
    "each method of a key has its bucket, the stage lists HEAD": (
        HEAD,
        of([], throttle_scope="key_method"),
        (),
        Stage(A, WIDE, {HEAD: Method()}),
        ["plan:gold:*", "stage:a/prod:HEAD /pets"],
    ),
    "another path": ("HEAD /toys", of([GET]), (), STAGE_OF_ALL, ["plan:gold", "stage:a/prod:*"]),
    "another verb": ("HEADER /pets", of([GET]), (), STAGE_OF_ALL, ["plan:gold", "stage:a/prod:*"]),
    "lower case": ("head /pets", of([GET]), (), STAGE_OF_ALL, ["plan:gold", "stage:a/prod:*"]),
}


@pytest.mark.parametrize(("method", "plan", "others", "stage", "expected"), HEADS.values(), ids=HEADS)
def test_head_is_get_unless_the_same_plan_or_stage_lists_it(method, plan, others, stage, expected):
    """Each layer by itself: that one lists HEAD says nothing about the other."""
    assert names(method, plan, *others, stage=stage) == expected


def test_the_throttle_of_a_stage_goes_by_the_same_method():
    """HEAD has the size of GET's bucket, or its own."""
    sizes = {GET: Method(Throttle(1, 7)), POST: Method()}

    def throttle(methods):
        snapshot = CatalogSnapshot(stages={A: Stage(A, WIDE, methods)})
        (limit,) = compile_limits(snapshot, None, A, HEAD, NAMES).limits
        return limit.throttle.burst

    assert throttle(sizes) == 7
    assert throttle({**sizes, HEAD: Method(Throttle(1, 9))}) == 9
    assert throttle({**sizes, HEAD: Method()}) == 50


def test_a_shadow_goes_by_its_own_list():
    """The plan on trial lists HEAD, the one in force does not."""
    plans = {"gold": of([GET], shadow="next"), "next": of([GET, HEAD], "next")}
    compiled = compile_limits(CatalogSnapshot(plans=plans), plans["gold"], A, HEAD, NAMES)
    assert compiled.fields == ("p:gold", "b:gold:a/prod:GET /pets", "s:p:next", "s:b:next:a/prod:HEAD /pets")


def test_head_takes_from_the_bucket_of_get(twin):
    """A limit of GET that is used up is used up for HEAD, and the other way round: also in peeks and from memory."""
    assert outcome(twin.check(K1, A, HEAD)) == OK
    assert outcome(twin.check(K1, A, GET)) == OK
    denied = throttled("plan:gold:GET /pets", 1.0)
    decisions = [twin.check(K1, A, method) for method in (HEAD, GET, HEAD, GET)]
    assert [outcome(decision) for decision in decisions] == [denied] * 4
    assert [decision.source for decision in decisions[2:]] == ["denial_cache"] * 2
    assert peeked(twin, HEAD) == peeked(twin, GET)
    assert len(twin.limiter._checker._prepared) == 1


def test_head_of_an_open_method_needs_no_key(twin):
    """It is open as GET is, and meets the same bucket."""
    assert outcome(twin.check(None, A, "HEAD /open")) == OK
    assert outcome(twin.check(None, A, "GET /open")) == throttled("stage:a/prod:GET /open", 1.0)
    assert outcome(twin.check(None, A, HEAD)) == invalid("missing")


def test_head_shares_the_lease_of_get(backend, clock):
    """A lease of GET is spent by HEAD as well."""
    with replica(backend, clock=clock) as limiter:
        plan = UsagePlan("gold", Throttle(1000, 1000), None, [PlanStage(A, {GET: Throttle(1000, 1000)})], lease=0.5)
        limiter.catalog.put_plan(plan)
        limiter.catalog.create_key("one", K1, ["gold"])
        for _ in range(50):
            limiter.check(K1, A, GET)
            clock.advance(0.001)
        sources = Counter(limiter.check(K1, A, method).source for method in (GET, HEAD) * 5)
        assert sources["lease"] >= 8
        assert len(limiter._checker._prepared) == 1


def test_head_that_comes_to_be_listed_has_its_own_bucket_at_once(backend, clock):
    """And shares that of GET again when it is listed no more."""
    with replica(backend, clock=clock) as limiter:
        limiter.catalog.put_plan(of([GET]))
        limiter.catalog.create_key("one", K1, ["gold"])
        limited_by = []
        for entries in ([GET], [GET, HEAD], [GET]):
            limiter.catalog.put_plan(of(entries))
            limited_by += [limiter.check(K1, A, HEAD).limited_by for _ in range(3)]
        assert limited_by == [
            *[None, None, "plan:gold:GET /pets"],
            *[None, None, "plan:gold:HEAD /pets"],
            *["plan:gold:GET /pets"] * 3,
        ]


def test_names_of_callers_are_not_kept():
    """A snapshot holds what is configured, whatever stages and methods it is asked about."""
    snapshot = CatalogSnapshot(plans={"gold": of([GET])})
    for number in range(100):
        assert snapshot.bucket_method(f"made/up{number}", GET) == "*"
        assert snapshot.bucket_method(A, f"HEAD /{number}") == "*"
    assert snapshot.bucket_methods == {A: {GET: GET, HEAD: GET}}


# Requests that matched no route


def test_the_star_is_a_request_that_matched_no_route(twin):
    """It is charged to plan, stage, account and quota as any unlisted method, and is no unmatched text."""
    assert outcome(twin.check(K1, A, "*")) == OK
    assert peeked(twin, "*") == {"plan:gold": 9, "stage:a/prod:*": 2, "account": 99, "quota:gold": 19}
    assert outcome(twin.check(None, A, "*")) == invalid("missing")
    assert twin.limiter.unmatched == 0


def test_without_a_key_only_what_all_share_is_met(twin):
    """A preflight: the stage's bucket of unlisted methods and the account."""
    decisions = [shared(twin, None, key_required=False) for _ in range(4)]
    assert [outcome(decision) for decision in decisions] == [OK] * 3 + [throttled("stage:a/prod:*", 1.0)]
    assert [limit.name for limit in decisions[0].limits] == ["stage:a/prod:*", "account"]
    assert peeked(twin, GET) == {"plan:gold:GET /pets": 2, "stage:a/prod:GET /pets": 3, "account": 97, "quota:gold": 20}


def test_a_key_that_has_to_be_accepted_is_charged_nothing(twin):
    """Its plan and quota are spared, and it may even be out of them."""
    assert outcome(twin.check(K1, A, POST)) == OK
    assert [outcome(shared(twin, K1)) for _ in range(3)] == [OK, OK, throttled("stage:a/prod:*", 1.0)]
    assert peeked(twin, POST) == {"plan:gold": 9, "stage:a/prod:*": 0, "account": 97, "quota:gold": 19}
    twin.check(K1, A, GET, 2)
    assert outcome(shared(twin, K1, cost=0)) == throttled("stage:a/prod:*", 1.0)


def test_a_key_out_of_its_plan_may_still_meet_what_all_share(backend, clock):
    """Its own limits are looked at, and do not deny."""
    with replica(backend, clock=clock) as limiter:
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(0, 0), Quota(0, "DAY"), [A]))
        limiter.catalog.put_stage(Stage(A, TWO))
        limiter.catalog.create_key("one", K1, ["gold"])
        assert outcome(limiter.check(K1, A, "*")) == throttled("plan:gold")
        assert [outcome(limiter._check_shared(K1, A)) for _ in range(3)] == [OK, OK, throttled("stage:a/prod:*", 1.0)]


def test_keys_that_are_not_accepted_are_denied_and_counted(twin, backend):
    """As by `check`, with nothing charged; and each denial is counted once."""
    for key, detail in ((None, "missing"), ("x" * 30, "unknown"), (VALUES["k2"], "disabled")):
        assert outcome(shared(twin, key)) == invalid(detail)
    assert peeked(twin, "*")["stage:a/prod:*"] == 3
    twin.run(twin.limiter._tick)
    with backend.client() as client:
        (name,) = client.keys("ratelimit:denials:*")
        assert client.hgetall(name) == {b"||missing": b"1", b"||unknown": b"1", b"||disabled": b"1"}


def test_a_peek_of_what_all_share_consumes_nothing(twin, backend):
    """A cost of 0, with a key and without: nothing in Redis changes, and no denial is counted."""
    shared(twin, K1)
    with backend.client() as client:
        before = snapshot_without_denials(client)
        assert outcome(shared(twin, K1, cost=0)) == OK
        assert outcome(shared(twin, None, cost=0, key_required=False)) == OK
        assert outcome(shared(twin, None, cost=0)) == invalid("missing")
        assert snapshot_without_denials(client) == before
        twin.run(twin.limiter._tick)
        assert client.keys("ratelimit:denials:*") == []


@pytest.mark.parametrize("key_required", [True, False])
def test_a_cost_that_is_none_raises(twin, key_required):
    """As `check` does."""
    for cost, kind in ((-1, ValueError), ("1", TypeError), (True, TypeError)):
        with pytest.raises(kind, match="cost must be a whole number"):
            shared(twin, K1, cost=cost, key_required=key_required)
    with pytest.raises(TypeError, match="stage must be text"):
        twin.run(lambda: twin.limiter._check_shared(K1, 5, key_required=key_required))


def test_without_a_catalogue_it_is_unavailable(backend, clock):
    """503, with a key and without, as any check."""
    with replica(backend, clock=clock) as limiter:
        for keywords in ({}, {"key_required": False}):
            decision = limiter._check_shared(K1, A, **keywords)
            assert (decision.status, decision.cause) == (503, "lost")


# Texts that are no methods

NO_METHODS = ("get /pets", "/pets", "pets_view", "", "GET", "GET  /pets", "GET pets", "G€T /pets", "GET /a b", "**")
METHODS = (GET, HEAD, "GET /pets/123", "GET /whatever", "FOO /bar", "GET /", "*")


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if "is no '<VERB> <template>'" in record.getMessage()]


def test_texts_that_nobody_could_list_are_counted_and_warned_of_once(twin, caplog):
    """Each check of one counts, each text is logged once; a text that a plan could list is none of them."""
    with caplog.at_level(logging.WARNING, "ratelimit"):
        for _ in range(3):
            for method in (*NO_METHODS, *METHODS):
                assert twin.check(K1, A, method).status in {200, 429}
    assert twin.limiter.unmatched == 3 * len(NO_METHODS)
    assert [line.split(" is no ")[0] for line in warnings_of(caplog)] == [f"the method {text!r}" for text in NO_METHODS]
    assert "Pass the template of the matched route" in caplog.text


def test_they_are_counted_whatever_is_decided(twin):
    """Also without a key, from memory, and at a stage that nobody configured; a peek is no check."""
    for key, stage in ((None, A), ("x" * 30, A), (K1, A), (K1, "no/stage"), (K1, "no stage"), (K1, A)):
        twin.check(key, stage, "pets_view")
    assert twin.limiter.unmatched == 6
    while twin.check(K1, A, "pets_view").source != "denial_cache":
        pass
    counted = twin.limiter.unmatched
    twin.run(lambda: twin.limiter.peek(K1, A, "pets_view"))
    assert twin.limiter.unmatched == counted


def test_nothing_of_them_reaches_redis(twin, backend):
    """They are charged as unlisted methods are, and no name is made of them."""
    twin.check(K1, A, "GET /whatever")
    with backend.client() as client:
        before = set(client.keys())
        for method in NO_METHODS:
            twin.check(K1, A, method)
        assert set(client.keys()) == before
        hashes = [name for name in before if name.startswith(b"ratelimit:{") and name.endswith(b"}")]
        assert {field for name in hashes for field in client.hkeys(name)} == {b"r", b"p:gold"}


def test_a_flood_of_them_is_bounded(caplog):
    """A hundred are logged, the last of them says so; nothing else is kept of them, and long ones are kept nowhere."""
    unmatched = UnmatchedMethods()
    with caplog.at_level(logging.WARNING, "ratelimit"):
        for number in range(5000):
            unmatched.add(f"made up {number}")
            unmatched.add("x y" * 20_000)
    assert unmatched.count == 10_000
    lines = warnings_of(caplog)
    assert len(lines) == 100
    assert [line.endswith("(no more such methods are logged; all are counted)") for line in lines] == [False] * 99 + [
        True
    ]
    assert max(map(len, lines)) < 350
    assert 0 < len(unmatched._others) <= 4096
    assert max(map(len, unmatched._others)) < 300
    assert unmatched.methods == {}
    assert len(unmatched._warned) == 100


def test_made_up_templates_do_not_grow_it():
    """Those that a plan could list are remembered, some thousands of them."""
    unmatched = UnmatchedMethods()
    for number in range(20_000):
        unmatched.add(f"GET /made/up/{number}")
    assert unmatched.count == 0
    assert 0 < len(unmatched.methods) <= 4096
    assert unmatched._others == {}


def test_what_may_be_a_secret_is_not_logged(caplog):
    """Somebody may have passed the key in place of the method, or a URL with a key in its query."""
    unmatched, secret = UnmatchedMethods(), "Own-Key-0123456789-abcdef"
    with caplog.at_level(logging.WARNING, "ratelimit"):
        for text in (secret, f"Bearer {secret}", f"get /items?key={secret}", "rl_live_" + "a" * 36):
            unmatched.add(text)
    assert [line.split(" is no ")[0] for line in warnings_of(caplog)] == [
        "the method '<25 characters>'",
        "the method 'Bearer <25 characters>'",
        "the method 'get <36 characters>'",
        "the method '<44 characters>'",
    ]
    assert secret not in caplog.text


def test_a_text_with_line_breaks_is_one_line_of_the_log(caplog):
    """Nobody writes lines of their own into a log."""
    with caplog.at_level(logging.WARNING, "ratelimit"):
        UnmatchedMethods().add("x\nERROR forged\x1b[0m")
    (line,) = warnings_of(caplog)
    assert line.isprintable()


def test_a_child_process_counts_from_zero():
    """The parent's count stays the parent's: whoever adds up processes counts nothing twice."""
    unmatched = UnmatchedMethods()
    unmatched.add("x")
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        unmatched.add("x")
        os.write(writing, str(unmatched.count).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 10) == b"1"
    assert unmatched.count == 1
    os.close(reading)
    os.close(writing)


def test_what_is_no_text_raises_as_before(twin):
    """TypeError, and nothing is counted."""
    for method in (None, 5, b"GET /pets", ["GET /pets"]):
        with pytest.raises(TypeError, match="method must be text"):
            twin.check(K1, A, method)
    assert twin.limiter.unmatched == 0


# Stages that deny what is not listed

DENIED = invalid("method_not_listed")

LISTS = {
    "nobody lists it": ([], [], [], GET, DENIED),
    "the stage lists it": ([GET], [], [], GET, OK),
    "the plan lists it": ([], [GET], [], GET, OK),
    "another plan lists it": ([], [], [GET], GET, DENIED),
    "they list another": ([POST], [POST], [], GET, DENIED),
    "HEAD of a GET of the stage": ([GET], [], [], HEAD, OK),
    "HEAD of a GET of the plan": ([], [GET], [], HEAD, OK),
    "HEAD of a GET of another plan": ([], [], [GET], HEAD, DENIED),
    "HEAD of nobody's": ([POST], [POST], [], HEAD, DENIED),
    "GET of a HEAD of the stage": ([HEAD], [], [], GET, DENIED),
    "GET of a HEAD of the plan": ([], [HEAD], [], GET, DENIED),
    "HEAD, listed": ([HEAD], [], [], HEAD, OK),
    "a request that matched no route": ([GET], [GET], [GET], "*", DENIED),
    "no method at all": ([GET], [GET], [GET], "pets_view", DENIED),
}


@pytest.mark.parametrize(("by_stage", "by_plan", "by_another", "method", "expected"), LISTS.values(), ids=LISTS)
def test_what_a_stage_denies(by_stage, by_plan, by_another, method, expected, backend, clock):
    """What neither it nor the key's plan lists. Nothing is consumed then, whatever is asked and how often."""
    with replica(backend, clock=clock) as limiter, backend.client() as client:
        limiter.catalog.put_plan(of(by_plan))
        limiter.catalog.put_plan(of(by_another, "another"))
        limiter.catalog.put_stage(Stage(A, WIDE, dict.fromkeys(by_stage, Method()), unlisted="deny"))
        limiter.catalog.create_key("one", K1, ["gold"])
        before = snapshot_without_denials(client)
        asked = [limiter.peek(K1, A, method), *(limiter.check(K1, A, method) for _ in range(2))]
        assert [outcome(decision) for decision in asked] == [expected] * 3
        assert (snapshot_without_denials(client) == before) is (expected is DENIED)
        if expected is DENIED:
            assert {(decision.status, decision.limits, decision.source) for decision in asked} == {(403, (), "redis")}
            assert limiter.check(K1, A, method).problem() == {
                "type": "about:blank",
                "title": "Forbidden",
                "status": 403,
            }


@pytest.fixture
def denying(backend, clock):
    """A replica whose stage denies what is not listed, with keys of every kind."""
    with replica(backend, clock=clock) as limiter:
        catalog = limiter.catalog
        catalog.put_plan(UsagePlan("gold", TWO, Quota(20, "DAY"), [A]))
        catalog.put_plan(UsagePlan("elsewhere", TWO, None, ["b/prod"]))
        open_to_all = {GET: Method(), "GET /open": Method(key_required=False)}
        catalog.put_stage(Stage(A, WIDE, open_to_all, unlisted="deny"))
        catalog.create_key("one", K1, ["gold"])
        catalog.create_key("off", VALUES["k2"], ["gold"], enabled=False)
        catalog.create_key("elsewhere", "k" * 30, ["elsewhere"])
        yield limiter


def test_who_is_asked_first(denying):
    """A key that opens nothing is denied as anywhere; what needs no key is open, HEAD too; other stages go on."""
    asked = [(None, POST), ("x" * 30, POST), (VALUES["k2"], POST), ("k" * 30, POST), (K1, POST)]
    details = [denying.check(key, A, method).detail for key, method in asked]
    assert details == ["missing", "unknown", "disabled", "no_plan_for_stage", "method_not_listed"]
    assert [outcome(denying.check(None, A, method)) for method in ("GET /open", "HEAD /open")] == [OK, OK]
    assert outcome(denying.check("k" * 30, "b/prod", POST)) == OK


def test_identities_are_denied_as_keys_are(denying, backend):
    """By what their plan and the stage list; nothing is written for one that is denied, and HEAD is GET."""
    user = Identity("user:42", plan="gold")
    with backend.client() as client:
        before = snapshot_without_denials(client)
        assert [outcome(denying.check(user, A, method)) for method in (POST, "*", "HEAD /x")] == [DENIED] * 3
        assert outcome(denying.check(Identity("user:42", plan="elsewhere"), A, POST)) == invalid("no_plan_for_stage")
        assert outcome(denying._check_shared(user, A)) == DENIED
        assert snapshot_without_denials(client) == before
    assert [outcome(denying.check(user, A, method)) for method in (GET, HEAD, HEAD)] == [
        OK,
        OK,
        throttled("plan:gold", 1.0),
    ]


def test_denials_are_counted_by_their_detail(denying, backend):
    """As all 403: of no plan and no key. A peek counts nothing."""
    for _ in range(3):
        denying.check(K1, A, POST)
    denying.peek(K1, A, POST)
    denying._tick()
    with backend.client() as client:
        (name,) = client.keys("ratelimit:denials:*")
        assert client.hgetall(name) == {b"||method_not_listed": b"3"}


def test_preflights_are_not_denied(denying):
    """They ask about a method, and are none; requests that matched no route are denied with a key and without."""
    assert outcome(denying._check_shared(None, A, key_required=False)) == OK
    assert outcome(denying._check_shared(K1, A)) == DENIED
    assert outcome(denying._check_shared(None, A)) == invalid("missing")


def test_a_stage_that_comes_to_deny(backend, clock):
    """At once in the process that made the change; elsewhere by the next check after the key was charged under it."""
    with replica(backend, clock=clock) as one, replica(backend, clock=clock) as other:
        one.catalog.put_plan(of([]))
        one.catalog.put_stage(Stage(A, WIDE, {GET: Method()}))
        one.catalog.create_key("one", K1, ["gold"])
        for method in (POST, GET, "GET /a", "GET /b"):
            assert [outcome(limiter.check(K1, A, method)) for limiter in (one, other)] == [OK, OK]
        one.catalog.put_stage(Stage(A, WIDE, {GET: Method()}, unlisted="deny"))
        assert [outcome(one.check(K1, A, method)) for method in (POST, "GET /a", GET)] == [DENIED, DENIED, OK]
        assert [outcome(other.check(K1, A, method)) for method in (POST, "GET /a", GET)] == [DENIED, DENIED, OK]


def test_a_stage_that_denies_no_more(backend, clock):
    """Others hear of it by the push; without one they look after `max_age`, or see that the key was charged."""
    with replica(backend, clock=clock) as one, replica(backend, clock=clock) as other:
        one.catalog.put_plan(of([]))
        one.catalog.put_stage(Stage(A, WIDE, unlisted="deny"))
        one.catalog.create_key("one", K1, ["gold"])
        assert [outcome(limiter.check(K1, A, POST)) for limiter in (one, other)] == [DENIED, DENIED]
        one.catalog.put_stage(Stage(A, WIDE))
        assert outcome(one.check(K1, A, POST)) == OK
        assert outcome(other.check(K1, A, POST)) == OK
        one.catalog.put_stage(Stage(A, WIDE, unlisted="deny"))
        assert outcome(other.check(K1, A, POST, 0)) == OK  # it has not looked
        clock.advance(5)
        assert outcome(other.check(K1, A, POST, 0)) == DENIED


def test_denials_by_a_lease_end_with_it(backend, clock):
    """Units that were prepaid for what a stage then denies are spent no more."""
    with replica(backend, clock=clock) as limiter:
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(1000, 1000), None, [A], lease=1.0))
        limiter.catalog.create_key("one", K1, ["gold"])
        for _ in range(50):
            limiter.check(K1, A, POST)
            clock.advance(0.001)
        assert limiter.check(K1, A, POST).source == "lease"
        limiter.catalog.put_stage(Stage(A, unlisted="deny"))
        assert outcome(limiter.check(K1, A, POST)) == DENIED


def test_both_twins_deny(twin, backend, clock):
    """Also the one that gathers checks."""
    with backend.client() as client:
        Catalog(client, clock=clock).put_stage(Stage(A, WIDE, {POST: Method()}, unlisted="deny"))
    clock.advance(5)
    assert [outcome(twin.check(K1, A, method)) for method in (GET, HEAD, POST, "GET /x")] == [OK, OK, OK, DENIED]
