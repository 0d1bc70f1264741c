"""What a gateway takes in of a catalogue: an outline of all, and the plans that somebody asks for."""

import json

import pytest

from ratelimit import Limiter, Method, PlanStage, Quota, Reason, Stage, Throttle, UsagePlan
from ratelimit.registry import namespace, plan_documents
from ratelimit.registry.lazy_documents import DocumentSummary

STAGE, METHOD = "petstore/prod", "GET /pets"
CATALOG = "{ratelimit}:catalog"


def test_only_plans_that_are_met_are_parsed(backend, clock, monkeypatch):
    """Of twenty plans the first check of a process parses that of its key; the next key of that plan none."""
    parsed = []
    right = plan_documents.plan_from_json
    monkeypatch.setattr(
        namespace.plan_documents, "plan_from_json", lambda name, text: parsed.append(name) or right(name, text)
    )
    with backend.client() as client:
        with Limiter(client, clock=clock) as admin:
            for number in range(20):
                admin.catalog.put_plan(UsagePlan(f"plan{number}", Throttle(1, 5), stages=[STAGE]))
            keys = [admin.catalog.create_key(plans=[plan]).value for plan in ("plan7", "plan7", "plan8")]
        parsed.clear()
        with Limiter(client, clock=clock) as gateway:
            assert [gateway.check(key, STAGE, METHOD).allowed for key in keys] == [True] * 3
    assert parsed == ["plan7", "plan8"]


def test_a_method_that_any_plan_lists_has_a_bucket_of_its_own(backend, clock):
    """Also one that is listed by a plan which nobody has met, and one that is listed by the stage alone."""
    with backend.client() as client:
        with Limiter(client, clock=clock) as admin:
            admin.catalog.put_plan(UsagePlan("gold", Throttle(1, 5), stages=[STAGE]))
            other = PlanStage(STAGE, {METHOD: Throttle(1, 1)})
            admin.catalog.put_plan(UsagePlan("other", Throttle(1, 5), stages=[other]))
            admin.catalog.put_stage(Stage(STAGE, Throttle(1, 1), {"GET /toys": Method()}))
            key = admin.catalog.create_key(plans=["gold"]).value
        with Limiter(client, clock=clock) as gateway:
            answers = [gateway.check(key, STAGE, f"GET /{name}").allowed for name in ("pets", "toys", "a", "b")]
            assert answers == [True, True, True, False]


@pytest.mark.parametrize(
    "broken",
    [
        {"throttle": {"rate": -1, "burst": 5}, "stages": {STAGE: {"throttles": {}}}},
        {"throttle": {"rate": 1, "burst": 5}, "quota": 5, "stages": {STAGE: {"throttles": {}}}},
    ],
    ids=["rate", "quota"],
)
def test_a_plan_that_cannot_be_read_spoils_no_other(broken, backend, clock):
    """Its keys are answered 503, with its name; keys of other plans are served."""
    with backend.client() as client, Limiter(client, clock=clock) as gateway:
        for plan in ("gold", "broken"):
            gateway.catalog.put_plan(UsagePlan(plan, Throttle(1, 5), Quota(9, "DAY"), [STAGE]))
        good, bad = (gateway.catalog.create_key(plans=[plan]).value for plan in ("gold", "broken"))
        assert gateway.check(bad, STAGE, METHOD).allowed
        client.hset(CATALOG, "plan:broken", json.dumps(broken))
        client.hincrby(CATALOG, "version", 1)
        gateway._namespace.on_change_message("changed")
        assert gateway.check(good, STAGE, METHOD).allowed
        refused = gateway.check(bad, STAGE, METHOD)
        assert refused.reason is Reason.UNAVAILABLE
        assert refused.error.startswith(f"the catalogue '{CATALOG}' in Redis cannot be read: plan 'broken'")


@pytest.mark.parametrize(
    ("text", "listed", "leases"),
    [
        ('{"stages": ["a/b", "c/d"], "lease": 0.5}', {"a/b": frozenset(), "c/d": frozenset()}, True),
        ('{"stages": {"a/b": {}}}', {"a/b": frozenset()}, False),
        ("{}", {}, False),
    ],
    ids=["a list of stages", "a stage without throttles", "no stages"],
)
def test_plans_written_in_another_way(text, listed, leases):
    """Whoever else writes a catalogue may write what a plan file may say: the outline is that of the plan."""
    assert plan_documents.plan_summary("gold", text) == DocumentSummary(listed, leases)
    assert DocumentSummary.of_plan(plan_documents.plan_from_json("gold", text)) == DocumentSummary(listed, leases)
