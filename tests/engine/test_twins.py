"""The asyncio twins: the same methods, the same arguments and, whatever the client, the same decisions."""

import inspect

import pytest
from helpers.gateway import GET_PETS, GET_X, HEALTH, METHODS, OK, A, B, Outcome, exceeded, invalid, outcome, throttled

from ratelimit import (
    AsyncCatalog,
    AsyncLimiter,
    Catalog,
    ConfigError,
    Limiter,
    PlanStage,
    Quota,
    Reason,
    Stage,
    StoreUnavailable,
    Throttle,
    UsagePlan,
)

TWINS = [(Limiter, AsyncLimiter), (Catalog, AsyncCatalog)]
AWAITED = {"close": "aclose", "__enter__": "__aenter__", "__exit__": "__aexit__"}
VALUE = "Key-One-0123456789-abcdef"
EACH_TWIN = pytest.mark.parametrize(("kind", "twin"), TWINS, ids=["limiter", "catalogue"])


def public(kind):
    """What a class offers: its public attributes, its constructor and what `with` needs, as they were defined."""
    names = [
        name for name in dir(kind) if not name.startswith("_") or name in {"__init__", *AWAITED, *AWAITED.values()}
    ]
    return {name: inspect.getattr_static(kind, name) for name in names}


@EACH_TWIN
def test_twins_have_the_same_methods(kind, twin):
    """Each public method of the one is a method of the other; `close` and `with` have their awaited names."""
    assert {AWAITED.get(name, name) for name in public(kind)} == set(public(twin))


def parameters(method):
    """The parameters of a method: names, kinds, defaults and annotations, but for the kind of the client."""
    parameters = inspect.signature(method).parameters.values()
    return [each.replace(annotation="") if each.name == "client" else each for each in parameters]


@EACH_TWIN
def test_twins_have_the_same_signatures(kind, twin):
    """Parameters and results are the same, and what waits in the one is awaited in the other."""
    others = public(twin)
    for name, method in public(kind).items():
        other = others[AWAITED.get(name, name)]
        assert type(other) is type(method), name
        if isinstance(method, property):
            continue
        is_made = isinstance(method, classmethod)
        method, other = (each.__func__ if is_made else each for each in (method, other))  # noqa: PLW2901
        assert parameters(method) == parameters(other), name
        assert inspect.signature(method).return_annotation == inspect.signature(other).return_annotation, name
        assert not inspect.iscoroutinefunction(method), name
        assert inspect.iscoroutinefunction(other) is (not is_made and name != "__init__"), name


def scenario(limiter, clock):
    """A script of calls for either twin: yields what to wait for, is sent the results, returns all decisions."""
    catalog, seen = limiter.catalog, []
    yield catalog.put_plan(UsagePlan("gold", Throttle(10, 3), Quota(9, "DAY"), [PlanStage(A), PlanStage(B)]))
    yield catalog.put_stage(Stage(A, Throttle(1, 4), METHODS))
    yield catalog.set_account_throttle(Throttle(1, 6))
    key = yield catalog.create_key("one", VALUE, ["gold"])
    for sent, where, cost in [
        (None, GET_PETS, 1),
        ("x" * 30, GET_PETS, 1),
        (VALUE, ("a/test", "GET /pets"), 1),
        (VALUE, GET_PETS, 0),
        (VALUE, GET_PETS, 2),
        (VALUE, GET_PETS, 2),
        (VALUE, GET_PETS, 10**30),
        (VALUE, (A, "GET /\ud800"), 1),
        (VALUE, GET_X, 1),
        (None, HEALTH, 3),
        (None, HEALTH, 1),
    ]:
        seen.append((yield limiter.check(sent, *where, cost)))
    clock.advance(6)
    yield catalog.put_plan(UsagePlan("gold", Throttle(10, 9), Quota(9, "DAY"), [A, B]))
    seen.append((yield limiter.check(VALUE, *GET_X, 6)))
    clock.advance(6)
    seen.append((yield limiter.check(VALUE, *GET_X)))
    seen.append((yield limiter.peek(VALUE, *GET_X)))
    yield catalog.update_key(key.id, enabled=False)
    seen.append((yield limiter.check(VALUE, *GET_PETS)))
    return seen


DECIDED = [
    invalid("missing"),
    invalid("unknown"),
    invalid("no_plan_for_stage"),
    OK,
    OK,
    throttled("plan:gold", 0.1),
    throttled("plan:gold"),
    OK,
    throttled("plan:gold", 0.1),
    OK,
    throttled("account", 1.0),
    OK,
    exceeded("quota:gold", 43_188.0),
    exceeded("quota:gold", 43_188.0),
    invalid("disabled"),
]


def run(limiter, clock):
    """Play the scenario on a limiter. Without a listener: a subscription that comes late would drop cached denials."""
    limiter._namespace.before_refresh = lambda: None
    script, result = scenario(limiter, clock), None
    try:
        while True:
            result = script.send(result)
    except StopIteration as finished:
        return finished.value


async def run_awaiting(limiter, clock):
    """Play the scenario on its twin."""
    limiter._namespace.before_refresh = lambda: None
    script, result = scenario(limiter, clock), None
    try:
        while True:
            result = await script.send(result)
    except StopIteration as finished:
        return finished.value


@pytest.mark.parametrize("decodes", [False, True], ids=["bytes", "text"])
@pytest.mark.parametrize("protocol", [2, 3], ids=["RESP2", "RESP3"])
@pytest.mark.asyncio
async def test_decisions_do_not_depend_on_the_client(protocol, decodes, backend, clock):
    """Both twins, under RESP2 and RESP3, decoding or not, give the same decisions to the last detail."""
    start, options = clock.now_us, {"protocol": protocol, "decode_responses": decodes}
    with backend.client() as plain, Limiter(plain, clock=clock) as limiter:
        expected = run(limiter, clock)
        assert [outcome(decision) for decision in expected] == DECIDED
        plain.flushall()
        clock.now_us = start
        with backend.client(**options) as client, Limiter(client, deadline=5, clock=clock) as other:
            assert run(other, clock) == expected
        plain.flushall()
        clock.now_us = start
        async with backend.async_client(**options) as client, AsyncLimiter(client, deadline=5.0, clock=clock) as twin:
            assert await run_awaiting(twin, clock) == expected


@pytest.mark.asyncio
async def test_catalogues_read_what_the_other_wrote(backend):
    """What one twin stores, the other returns, equal."""
    plan = UsagePlan("gold", Throttle("1/3", 5), Quota(9, "MONTH", 14), [PlanStage(A, {"GET /": Throttle(1, 1)})])
    with backend.client() as client:
        async with backend.async_client() as async_client:
            catalog, twin = Catalog(client), AsyncCatalog(async_client)
            catalog.put_plan(plan)
            await twin.put_stage(Stage(A, Throttle(1, 4), METHODS))
            key = await twin.create_key("one", plans=["gold"])
            assert catalog.plans() == await twin.plans() == [plan]
            assert catalog.stages() == await twin.stages()
            assert catalog.keys() == await twin.keys() == [key]


@pytest.mark.asyncio
async def test_twins_refuse_the_same_arguments(backend):
    """A wrong cost or key raises when awaited, as it does without."""
    async with backend.async_client() as client, AsyncLimiter(client, deadline=5.0) as limiter:
        for arguments, error in [
            ((VALUE, *GET_PETS, -1), ValueError),
            ((VALUE, *GET_PETS, True), TypeError),
            ((b"x" * 30, *GET_PETS), TypeError),
            ((VALUE, None, "GET /pets"), TypeError),
        ]:
            with pytest.raises(error):
                await limiter.check(*arguments)


@pytest.mark.asyncio
async def test_twins_tell_of_the_same_faults(backend, clock):
    """Corrupt state gives the same decision, cause included, and the twin goes on once it is repaired."""
    with backend.client() as client, Limiter(client, deadline=5, clock=clock) as limiter:
        run(limiter, clock)
        limiter.catalog.create_key(value=VALUE[::-1], plans=["gold"])
        client.set("ratelimit:account", "x")
        async with (
            backend.async_client() as async_client,
            AsyncLimiter(async_client, deadline=5.0, clock=clock) as twin,
        ):
            for _ in range(2):
                decision = await twin.check(VALUE[::-1], *GET_X)
                assert decision.error == "Redis answered with an error: RATELIMIT CORRUPT ratelimit:account"
                assert limiter.check(VALUE[::-1], *GET_X) == decision
            client.delete("ratelimit:account")
            assert outcome(await twin.check(VALUE[::-1], *GET_X)) == OK


@pytest.mark.asyncio
@pytest.mark.parametrize("url", ["unix:///nobody/here", f"redis://{'a' * 64}"], ids=["nobody there", "no such name"])
async def test_twins_without_a_server(url):
    """Nobody listening is UNAVAILABLE for both, because nothing was sent; so for a name that cannot be one."""
    with Limiter.from_url(url) as limiter:
        decision = limiter.check(VALUE, *GET_PETS)
        with pytest.raises(StoreUnavailable):
            limiter.catalog.plans()
    async with AsyncLimiter.from_url(url) as twin:
        other = await twin.check(VALUE, *GET_PETS)
        with pytest.raises(StoreUnavailable):
            await twin.catalog.plans()
    for each in (decision, other):
        assert outcome(each) == Outcome(Reason.UNAVAILABLE.value)
        assert each.error.startswith("no connection to Redis: ")


@pytest.mark.asyncio
async def test_twins_refuse_a_wrong_pepper(backend):
    """A wrong pepper raises in both, from the first check on."""
    with backend.client() as client, Limiter(client, deadline=5, pepper="other") as limiter:
        Catalog(client, pepper="salt").create_key()
        async with (
            backend.async_client() as async_client,
            AsyncLimiter(async_client, deadline=5.0, pepper="other") as twin,
        ):
            for _ in range(2):
                with pytest.raises(ConfigError) as caught:
                    limiter.check(VALUE, *GET_PETS)
                with pytest.raises(ConfigError) as awaited:
                    await twin.check(VALUE, *GET_PETS)
                assert str(caught.value) == str(awaited.value)
