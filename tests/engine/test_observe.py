"""Observers of either twin: what they are called with for each check, and that it changes nothing."""

import logging
import time
from contextlib import contextmanager

import pytest
from helpers.twins import RunningLimiter

from ratelimit import AsyncLimiter, ConfigError, Identity, Limiter, Quota, Reason, Throttle, UsagePlan
from ratelimit.observability import DenialLog, Observer, observe

STAGE, METHOD = "petstore/prod", "GET /pets/{id}"


class Notes(Observer):
    """Keeps all that it is called with."""

    def __init__(self):
        self.checks, self.decisions, self.seconds = [], [], []
        self.state = None

    def attach(self, state):
        self.state = state

    def record(self, decision, plan, stage, method, seconds):
        self.decisions.append(decision)
        self.checks.append((plan, stage, method, decision.reason.value, decision.source, decision.limited_by))
        self.seconds.append(seconds)


@contextmanager
def made(server, is_async, **options):
    """A limiter with two plans, each with a key: gold has a bucket of 2, silver leases."""
    with RunningLimiter(lambda kind: kind.from_url(server.url, **{"deadline": 5} | options), is_async) as gateway:
        gateway.key = {}
        gold = UsagePlan("gold", Throttle("1/3600", 2), Quota(1000, "DAY"), [STAGE])
        silver = UsagePlan("silver", Throttle(1000, 1000), None, ["petstore/test"], lease=1)
        for plan in (gold, silver):
            gateway.run(lambda plan=plan: gateway.limiter.catalog.put_plan(plan))
            gateway.key[plan.id] = gateway.run(
                lambda plan=plan: gateway.limiter.catalog.create_key(plans=[plan.id])
            ).value
        yield gateway


@pytest.fixture(params=[False, True], ids=["blocking", "asyncio"])
def gateway(request, server):
    with made(server, request.param) as gateway:
        yield gateway


def check_until(gateway, condition):
    """Check the key of gold until a condition is met."""
    ends = time.monotonic() + 20
    while True:
        decision = gateway.check(gateway.key["gold"], STAGE, METHOD)
        if condition(decision):
            return
        assert time.monotonic() < ends, "it does not happen"


def test_each_check_is_told_with_configured_names(gateway):
    """Plan, stage and method as they are configured, whoever decided; "*" for what is not, and no plan for a 403."""
    notes = Notes()
    observe(gateway.limiter, notes)
    decisions = [
        gateway.check(key, stage, "GET /pets/17")
        for key, stage in (
            *[(gateway.key["gold"], STAGE)] * 3,
            ("made-up-key-of-somebody", STAGE),
            (None, STAGE),
            (gateway.key["gold"], "some/where"),
        )
    ]
    gold = ("gold", STAGE, "*")
    assert notes.checks == [
        (*gold, "ALLOWED", "redis", None),
        (*gold, "ALLOWED", "redis", None),
        (*gold, "THROTTLED", "redis", "plan:gold"),
        ("", STAGE, "*", "INVALID_KEY", "redis", None),
        ("", STAGE, "*", "INVALID_KEY", "redis", None),
        ("", "*", "*", "INVALID_KEY", "redis", None),
    ]
    assert all(observed is decided for observed, decided in zip(notes.decisions, decisions, strict=True))
    assert [decision.detail for decision in decisions[3:]] == ["unknown", "missing", "no_plan_for_stage"]
    assert all(0 < seconds < 5 for seconds in notes.seconds)
    check_until(gateway, lambda decision: decision.source == "denial_cache")
    assert notes.checks[-1] == (*gold, "THROTTLED", "denial_cache", "plan:gold")


def test_a_key_that_is_not_accepted_any_more_has_no_plan(gateway):
    """Though its plan is remembered in the process."""
    notes = Notes()
    observe(gateway.limiter, notes)
    key = gateway.run(lambda: gateway.limiter.catalog.create_key(plans=["gold"]))
    gateway.check(key.value, STAGE, METHOD)
    gateway.run(lambda: gateway.limiter.catalog.update_key(key.id, enabled=False))
    assert gateway.check(key.value, STAGE, METHOD).detail == "disabled"
    assert [check[:4] for check in notes.checks] == [
        ("gold", STAGE, "*", "ALLOWED"),
        ("", STAGE, "*", "INVALID_KEY"),
    ]


def test_units_of_leases_are_told_as_such(gateway):
    """The first checks ask Redis, and the lease that they brought answers the rest."""
    notes = Notes()
    observe(gateway.limiter, notes)
    for _ in range(60):
        gateway.check(gateway.key["silver"], "petstore/test", METHOD)
    assert {check[:4] for check in notes.checks} == {("silver", "petstore/test", "*", "ALLOWED")}
    sources = [check[4] for check in notes.checks]
    assert sources[0] == "redis"
    assert sources.count("lease") > 30
    assert set(sources) == {"redis", "lease"}


def test_requests_that_match_no_route_are_told(gateway):
    """What adapters check by the limits that all callers share: no plan is charged, so none is named."""
    notes = Notes()
    observe(gateway.limiter, notes)
    key = gateway.key["gold"]
    gateway.check(key, STAGE, METHOD)
    gateway.run(lambda: gateway.limiter._check_shared(key, STAGE))
    gateway.run(lambda: gateway.limiter._check_shared("made-up-key-of-somebody", STAGE))
    gateway.run(lambda: gateway.limiter._check_shared(None, "some/where", key_required=False))
    assert notes.checks == [
        ("gold", STAGE, "*", "ALLOWED", "redis", None),
        ("", STAGE, "*", "ALLOWED", "redis", None),
        ("", STAGE, "*", "INVALID_KEY", "redis", None),
        ("", "*", "*", "ALLOWED", "redis", None),
    ]


def test_an_identity_is_told_by_its_plan(gateway, caplog):
    """Its subject is nowhere, also where its plan is unknown."""
    notes = Notes()
    observe(gateway.limiter, notes, DenialLog())
    with caplog.at_level(logging.INFO, "ratelimit.denials"):
        for plan in ("gold", "gold", "gold", "platinum"):
            gateway.check(Identity("somebody@example.com", plan), STAGE, METHOD)
    assert notes.checks == [
        ("gold", STAGE, "*", "ALLOWED", "redis", None),
        ("gold", STAGE, "*", "ALLOWED", "redis", None),
        ("gold", STAGE, "*", "THROTTLED", "redis", "plan:gold"),
        ("", STAGE, "*", "INVALID_KEY", "redis", None),
    ]
    denials = [record for record in caplog.records if record.name == "ratelimit.denials"]
    assert [record.ratelimit_plan for record in denials] == ["gold", ""]
    assert "somebody" not in str([vars(record) for record in denials])


def test_methods_that_are_none_are_seen(gateway, caplog):
    """The limiter's own count of them."""
    notes = Notes()
    observe(gateway.limiter, notes)
    with caplog.at_level(logging.CRITICAL, "ratelimit"):
        for method in ("list_pets", METHOD, "/pets", "list_pets"):
            gateway.check(gateway.key["silver"], "petstore/test", method)
    assert notes.state()[:3] == (False, 0, 3)


def test_a_peek_and_a_check_that_raises_are_not_told(gateway):
    notes = Notes()
    observe(gateway.limiter, notes)
    gateway.run(lambda: gateway.limiter.peek(gateway.key["gold"], STAGE, METHOD))
    with pytest.raises(ValueError, match="cost"):
        gateway.check(gateway.key["gold"], STAGE, METHOD, -1)
    assert notes.checks == []


def test_several_observers_are_told_the_same(gateway):
    """At once or one after the other."""
    first, second, third = Notes(), Notes(), Notes()
    observe(gateway.limiter, first, second)
    observe(gateway.limiter, third)
    gateway.check(gateway.key["gold"], STAGE, METHOD)
    assert first.checks == second.checks == third.checks == [("gold", STAGE, "*", "ALLOWED", "redis", None)]


def test_an_observer_that_fails_fails_no_check(gateway, caplog):
    """Its first error is in the log; others are called all the same."""

    class Failing(Observer):
        def record(self, *_):
            raise ZeroDivisionError

    notes = Notes()
    observe(gateway.limiter, Failing(), notes)
    with caplog.at_level(logging.ERROR, "ratelimit"):
        assert [gateway.check(gateway.key["gold"], STAGE, METHOD).allowed for _ in range(3)] == [True, True, False]
    assert len(notes.checks) == 3
    assert [record.message for record in caplog.records] == [
        "an observer of checks failed; its further errors are not logged"
    ]


def test_who_is_not_observed_pays_nothing(gateway):
    """`check` is that of the class until `observe` is called, and only this limiter's is replaced."""
    assert "check" not in vars(gateway.limiter)
    own = type(gateway.limiter).check
    observe(gateway.limiter, Notes())
    assert "check" in vars(gateway.limiter)
    assert type(gateway.limiter).check is own


@pytest.mark.parametrize("limiter", [None, "redis://localhost", Limiter, AsyncLimiter])
def test_only_a_limiter_can_be_observed(limiter):
    with pytest.raises(ConfigError, match="limiter: must be a Limiter or an AsyncLimiter"):
        observe(limiter, Notes())


@pytest.mark.parametrize("is_async", [False, True], ids=["blocking", "asyncio"])
def test_the_breaker_is_seen(server, is_async):
    """Open while the server stops, with one opening; closed when it is back, with no further one."""
    notes = Notes()
    with made(server, is_async, deadline=0.5, on_unavailable="closed") as gateway:
        observe(gateway.limiter, notes)
        assert gateway.check(gateway.key["gold"], STAGE, METHOD).allowed
        assert notes.state()[:3] == (False, 0, 0)
        gateway.warm_up()
        with server.stopped():
            check_until(gateway, lambda _: notes.state().is_breaker_open)
            assert gateway.check(gateway.key["gold"], STAGE, METHOD, 2).reason is Reason.UNAVAILABLE
            assert notes.checks[-1] == ("gold", STAGE, "*", "UNAVAILABLE", "fail_closed", None)
            assert notes.state()[:3] == (True, 1, 0)
        check_until(gateway, lambda _: not notes.state().is_breaker_open)
        assert notes.state()[:3] == (False, 1, 0)


def test_a_log_of_denials_has_fields_and_no_keys(gateway, caplog):
    """Names that are configured, exact numbers, and of a caller's texts nothing at all."""
    observe(gateway.limiter, DenialLog())
    secret, path = "made-up-key-of-somebody", "GET /pets/secret-token-17"
    with caplog.at_level(logging.INFO, "ratelimit.denials"):
        for key in (*[gateway.key["gold"]] * 3, secret):
            gateway.check(key, STAGE, path)
    assert [record.message for record in caplog.records] == [
        "429 THROTTLED: petstore/prod *: plan:gold",
        "403 INVALID_KEY: petstore/prod *: unknown",
    ]
    throttled, invalid = (
        {name.removeprefix("ratelimit_"): value for name, value in vars(record).items() if "ratelimit_" in name}
        for record in caplog.records
    )
    wait = throttled.pop("retry_after")
    assert 3590 < wait <= 3600
    assert throttled == {
        "result": "throttled", "status": 429, "plan": "gold", "stage": STAGE, "method": "*", "limit": "plan:gold",
        "detail": None, "cause": None, "source": "redis", "skipped": 0,
    }  # fmt: skip
    assert invalid == {
        "result": "invalid_key", "status": 403, "plan": "", "stage": STAGE, "method": "*", "limit": None,
        "detail": "unknown", "cause": None, "source": "redis", "retry_after": None, "skipped": 0,
    }  # fmt: skip
    everything = "".join(f"{record.message}{vars(record)}" for record in caplog.records)
    assert not any(text in everything for text in (secret, gateway.key["gold"], path, "secret-token"))
