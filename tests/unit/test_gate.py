"""What happens with one request, and the two that run it with a limiter."""

import asyncio
import logging

import pytest

from ratelimit import AsyncLimiter, ConfigError, Decision, Identity, Limiter, Reason
from ratelimit.integrations import callers
from ratelimit.integrations.callers import UNACCEPTABLE, RequestData, address, header
from ratelimit.integrations.enforcer import AsyncEnforcer, Enforcer
from ratelimit.integrations.gate import EXEMPT, Gate, PlannedCheck, method_of
from ratelimit.integrations.marks import Marks

STAGE = "petstore/prod"
KEY = "rl_live_" + "a" * 36
PREFLIGHT = [("origin", "https://a.example"), ("access-control-request-method", "PUT")]


@pytest.fixture(autouse=True)
def _nothing_said_yet(monkeypatch):
    monkeypatch.setattr(callers, "_warnings", set())


def request(*fields, verb="GET", native=None):
    return RequestData(verb, lambda name: [value for field, value in fields if field == name], "", None, native)


@pytest.mark.parametrize(
    ("options", "method", "marks", "planned"),
    [
        ({}, "GET /pets/{id}", Marks(), PlannedCheck("GET /pets/{id}")),
        ({}, "GET /pets/{id}", Marks(5), PlannedCheck("GET /pets/{id}", 5)),
        ({}, "GET /pets/{id}", Marks(5, exempt=True), None),
        ({}, None, Marks(), PlannedCheck("*")),
        ({"charge_unmatched": False}, None, Marks(), PlannedCheck("*", charges_plan=False)),
        ({"charge_unmatched": False}, "GET /pets", Marks(), PlannedCheck("GET /pets")),
        ({"exempt": ["GET /docs"]}, "GET /docs", Marks(), None),
        ({"exempt": ["GET /docs"]}, "HEAD /docs", Marks(), None),
        ({"exempt": ["GET /docs"]}, "POST /docs", Marks(), PlannedCheck("POST /docs")),
        ({"exempt": ["GET /docs"]}, "GET /docs/{page}", Marks(), PlannedCheck("GET /docs/{page}")),
        ({"exempt": ["POST /hook"]}, "HEAD /hook", Marks(), PlannedCheck("HEAD /hook")),
    ],
)
def test_the_check_that_a_request_needs(options, method, marks, planned):
    """By its route, the marks of its function, and the gate's arguments."""
    assert Gate(stage=STAGE, **options).plan(method, marks) == planned


@pytest.mark.parametrize("method", ["OPTIONS /pets", None])
def test_a_preflight(method):
    """It needs no key, whatever it matches; `preflight="skip"` leaves it alone."""
    planned = PlannedCheck("*", 1, needs_key=False, charges_plan=False)
    assert Gate(stage=STAGE).plan(method, Marks(7), is_preflight=True) == planned
    assert Gate(stage=STAGE, preflight="skip").plan(method, is_preflight=True) is None


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"stage": "prod"}, "stage"),
        ({"stage": None}, "stage"),
        ({"key": "x-api-key"}, "key"),
        ({"preflight": "allow"}, "preflight"),
        ({"charge_unmatched": 1}, "charge_unmatched"),
        ({"exempt": "GET /docs"}, "exempt"),
        ({"exempt": ["/docs"]}, "exempt"),
        ({"exempt": 7}, "exempt"),
        ({"headers": "X-RateLimit"}, "headers"),
    ],
)
def test_a_gate_that_cannot_be(options, field):
    """The error names the argument."""
    with pytest.raises(ConfigError) as caught:
        Gate(**{"stage": STAGE} | options)
    assert caught.value.field == field


def test_what_nobody_configured():
    """A stage that no plan opens, and the plan of identities; a key's plans are not named."""
    gate = Gate(stage=STAGE, key=address("free"))
    assert gate.unconfigured([STAGE], ["free"]) == []
    missing_stage, missing_plan = gate.unconfigured(["other/prod"], ["gold"])
    assert "no plan opens the stage 'petstore/prod'" in missing_stage
    assert "no plan 'free'" in missing_plan
    assert Gate(stage=STAGE).unconfigured([STAGE], []) == []


@pytest.mark.parametrize(("verb", "has_body"), [("GET", True), ("POST", True), ("HEAD", False)])
def test_the_answer_to_head_has_no_body(verb, has_body):
    """Servers may send what they are given: not all take it out."""
    answer = Gate(stage=STAGE).denial(Decision(Reason.THROTTLED), verb)
    assert (bool(answer.body), int(answer.fields["Content-Length"]) > 0) == (has_body, True)


class StubLimiter:
    """Admits everything, and remembers what it was asked."""

    def __init__(self, error=None):
        self.checks, self.error, self.is_closed = [], error, False

    def check(self, key, stage, method, cost=1):
        self.checks.append((key, stage, method, cost))
        if self.error:
            raise self.error
        return Decision(Reason.ALLOWED)

    def _check_shared(self, key, stage, cost=1, *, key_required=True):
        self.checks.append((key, stage, cost, key_required))
        return Decision(Reason.ALLOWED)

    def warm_up(self, timeout=5.0):
        if self.error:
            raise self.error

    def close(self):
        self.is_closed = True


class AsyncStubLimiter(StubLimiter):
    async def check(self, key, stage, method, cost=1):
        return super().check(key, stage, method, cost)

    async def _check_shared(self, key, stage, cost=1, *, key_required=True):
        return super()._check_shared(key, stage, cost, key_required=key_required)

    async def warm_up(self, timeout=5.0):  # noqa: ASYNC109 - the contract's name
        super().warm_up(timeout)

    async def aclose(self):
        self.close()


class Blocking:
    """An `Enforcer` with a stub."""

    def __init__(self, error=None, **options):
        self.limiter = StubLimiter(error)
        self.enforcer = Enforcer(self.limiter, Gate(stage=STAGE, **options))

    def decide(self, *arguments):
        return self.enforcer.decide(*arguments)

    def start(self):
        self.enforcer.start()


class Awaited(Blocking):
    """An `AsyncEnforcer` with a stub of the same kind."""

    def __init__(self, error=None, **options):
        self.limiter = AsyncStubLimiter(error)
        self.enforcer = AsyncEnforcer(self.limiter, Gate(stage=STAGE, **options))

    def decide(self, *arguments):
        return asyncio.run(self.enforcer.decide(*arguments))

    def start(self):
        asyncio.run(self.enforcer.start())


class InThreads(Awaited):
    """An `AsyncEnforcer` with a blocking stub."""

    def __init__(self, error=None, **options):
        self.limiter = StubLimiter(error)
        self.enforcer = AsyncEnforcer(self.limiter, Gate(stage=STAGE, **options))


twins = pytest.mark.parametrize("twin", [Blocking, Awaited, InThreads])


@twins
def test_a_request_is_checked(twin):
    """With the key that was sent, the route's method and its cost."""
    run = twin()
    decision = run.decide(request(("x-api-key", KEY)), "GET /pets/{id}", Marks(3))
    assert decision.allowed
    assert run.limiter.checks == [(KEY, STAGE, "GET /pets/{id}", 3)]


@twins
@pytest.mark.parametrize(
    ("options", "sent", "checks"),
    [
        ({}, request(("x-api-key", KEY)), [(KEY, STAGE, "*", 1)]),
        ({"charge_unmatched": False}, request(("x-api-key", KEY)), [(KEY, STAGE, 1, True)]),
        ({}, request(*PREFLIGHT, verb="OPTIONS"), [(None, STAGE, 1, False)]),
        ({"preflight": "skip"}, request(*PREFLIGHT, verb="OPTIONS"), []),
    ],
)
def test_a_request_that_matches_no_route(twin, options, sent, checks):
    """It is checked as an unlisted one, or by what all callers share; a preflight needs no key for that."""
    run = twin(**options)
    assert run.decide(sent, None).allowed
    assert run.limiter.checks == checks


@pytest.mark.parametrize(
    ("verb", "method"),
    [("GET", "GET /x"), ("FOO", "FOO /x"), ("foo", None), ("M-SEARCH", None), ("A" * 33, None), ("", None)],
)
def test_a_verb_that_no_plan_can_list(verb, method):
    """Clients make it up: it is as good as no route."""
    assert method_of(verb, "/x") == method


@twins
def test_an_exempt_request_is_not_checked(twin):
    """It is allowed, without limits, and its key is not read."""
    run = twin(key=lambda _request: 1 / 0)
    assert run.decide(request(), "GET /health", Marks(exempt=True)) is EXEMPT
    assert (EXEMPT.allowed, EXEMPT.limits, run.limiter.checks) == (True, (), [])


@twins
@pytest.mark.parametrize("caller", [KEY, Identity("user:42", "free"), None, ""])
def test_a_function_names_the_caller(twin, caller):
    """It gets the framework's own request."""
    run = twin(key=lambda native: native["caller"])
    run.decide(request(native={"caller": caller}), "GET /pets")
    assert run.limiter.checks == [(caller, STAGE, "GET /pets", 1)]


@twins
def test_a_function_that_raises_denies(twin, caplog):
    """The check is made with a key that cannot be; the log has the kind of the error, and no text of it."""
    run = twin(key=lambda native: Identity(native["sub"] * 10_000, "free"))
    run.decide(request(native={}), "GET /pets")
    run.decide(request(native={"sub": "anna"}), "GET /pets")
    assert run.limiter.checks == [(UNACCEPTABLE, STAGE, "GET /pets", 1)] * 2
    assert [record.getMessage().split(" in ")[0] for record in caplog.records] == [
        "key: raised KeyError",
        "key: raised ConfigError",
    ]
    assert "anna" not in caplog.text


def test_an_asynchronous_function_names_the_caller():
    """In an event loop; blocking code refuses it when it is made."""

    async def caller(native):
        await asyncio.sleep(0)
        return native

    run = Awaited(key=caller)
    run.decide(request(native=KEY), "GET /pets")
    assert run.limiter.checks == [(KEY, STAGE, "GET /pets", 1)]
    with pytest.raises(ConfigError, match="key: cannot be an asynchronous function"):
        Enforcer(StubLimiter(), Gate(stage=STAGE, key=caller))


@twins
def test_a_limiter_that_is_configured_wrong(twin, caplog):
    """As with another pepper: 503, and the log says why."""
    run = twin(ConfigError("is not the one", field="pepper"))
    decision = run.decide(request(("x-api-key", KEY)), "GET /pets")
    assert (decision.status, decision.cause, decision.source) == (503, "refused", "fail_closed")
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.ERROR, "checks are answered 503: pepper: is not the one")
    ]


@twins
def test_a_start_that_fails_is_logged(twin, caplog):
    """It raises nothing: the application serves what it can."""
    twin(ConfigError("is not the one", field="pepper")).start()
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.ERROR, "the limiter is not ready: ConfigError: pepper: is not the one")
    ]


def test_limiters_that_are_no_limiters():
    """The error says what to pass; an AsyncLimiter cannot be awaited by blocking code."""
    gate = Gate(stage=STAGE, key=header())
    for make, limiter in [(Enforcer, None), (AsyncEnforcer, 7), (Enforcer, AsyncStubLimiter())]:
        with pytest.raises(ConfigError) as caught:
            make(limiter, gate)
        assert caught.value.field == "limiter"
        assert "URL" in str(caught.value)


def test_a_limiter_of_a_url_is_the_enforcers(valkey):
    """It is made of the right kind, and closed; one that was passed in is left open."""
    enforcer = Enforcer(valkey.url, Gate(stage=STAGE))
    assert type(enforcer.limiter) is Limiter
    assert enforcer.decide(request(), "GET /pets").status == 503
    enforcer.close()
    passed = Blocking()
    passed.enforcer.close()
    assert not passed.limiter.is_closed

    async def run():
        enforcer = AsyncEnforcer(valkey.url, Gate(stage=STAGE))
        assert type(enforcer.limiter) is AsyncLimiter
        await enforcer.close()
        passed = Awaited()
        await passed.enforcer.close()
        assert not passed.limiter.is_closed

    asyncio.run(run())


@pytest.mark.parametrize("starts", [True, False], ids=["at the start", "at the first request"])
def test_the_log_says_what_nobody_configured(valkey, caplog, starts):
    """At ERROR, once."""
    with valkey.client() as client, Limiter(client) as limiter:
        limiter.catalog.create_key()
        enforcer = Enforcer(limiter, Gate(stage=STAGE, key=address("free")))
        if starts:
            enforcer.start()
        for _ in range(2):
            enforcer.decide(request(), "GET /pets")
        errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert [error.partition(":")[0].partition(",")[0] for error in errors] == [
        "no plan opens the stage 'petstore/prod'",
        "there is no plan 'free'",
    ]
