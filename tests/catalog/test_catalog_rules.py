"""The catalogue's rules that tie plans and keys together, from both sides, and plan files, on every server."""

import pytest
from helpers.redis_snapshot import snapshot

from ratelimit import Catalog, ConfigError, Conflict, Limiter, NotFound, Quota, Stage, Throttle, UsagePlan

TEN = Throttle(10, 5)
GOLD = UsagePlan("gold", TEN, Quota(100, "DAY"), ["petstore/prod"])
SILVER = UsagePlan("silver", TEN, None, ["petstore/test"])


def applied(catalog, tmp_path, text):
    path = tmp_path / "plans.toml"
    path.write_text(text)
    catalog.apply(path)


def test_two_plans_may_open_one_stage_as_long_as_no_key_is_in_both(catalog):
    """The rule is about keys, not about plans."""
    catalog.put_plan(GOLD)
    catalog.create_key(plans=["gold"])
    rival = UsagePlan("rival", TEN, None, ["petstore/prod"])
    catalog.put_plan(rival)
    catalog.create_key(plans=["rival"])
    assert catalog.plans() == [GOLD, rival]


def test_only_plans_with_keys_that_come_to_open_a_stage_are_compared(server):
    """Many plans of one stage: a new one is compared with none, one with keys that comes to open it with each."""
    with server.client() as client:
        catalog = Catalog(client)
        for number in range(20):
            catalog.put_plan(UsagePlan(f"plan{number}", TEN, None, ["petstore/prod"]))
            catalog.create_key(plans=[f"plan{number}"])
        catalog.put_plan(SILVER)
        catalog.create_key(plans=["silver"])
        before = compared(client)
        catalog.put_plan(UsagePlan("plan7", TEN, None, ["petstore/prod", "petstore/dev"]))
        assert compared(client) == before
        catalog.put_plan(UsagePlan("silver", TEN, None, ["petstore/test", "petstore/prod"]))
        assert compared(client) == before + 20


def compared(client):
    return client.info("commandstats").get("cmdstat_sinter", {"calls": 0})["calls"]


def test_a_plan_cannot_come_to_share_a_stage_with_another_plan_of_its_keys(catalog, client):
    """Conflict from the plan's side: names the key, both plans and the stage, and writes nothing."""
    catalog.put_plan(GOLD)
    catalog.put_plan(SILVER)
    key = catalog.create_key(plans=["gold", "silver"])
    before = snapshot(client)
    with pytest.raises(Conflict) as caught:
        catalog.put_plan(UsagePlan("silver", TEN, None, ["petstore/test", "petstore/prod"]))
    reason, _, both = str(caught.value).partition("', ")
    assert reason == f"plans: key '{key.id}' would be in two plans of stage 'petstore/prod"
    assert both.startswith(("'gold' and 'silver': ", "'silver' and 'gold': "))
    assert snapshot(client) == before


def test_a_key_cannot_join_two_plans_of_one_stage(catalog, client):
    """Conflict from the key's side: by adding, and by creating, and nothing is written."""
    catalog.put_plan(GOLD)
    catalog.put_plan(UsagePlan("rival", TEN, None, ["petstore/prod"]))
    key = catalog.create_key(plans=["gold"])
    before = snapshot(client)
    with pytest.raises(Conflict, match=f"^plans: key {key.id!r} would be in two plans of stage 'petstore/prod'"):
        catalog.add_key_to_plan(key.id, "rival")
    with pytest.raises(Conflict, match=r"^plans: the key would be in two plans of stage 'petstore/prod'"):
        catalog.create_key(plans=["gold", "rival"])
    assert snapshot(client) == before


@pytest.mark.parametrize(("keys", "message"), [(1, "still has 1 key: "), (2, "still has 2 keys: ")])
def test_a_plan_with_keys_is_not_deleted(catalog, client, keys, message):
    """Conflict says how many; once they are gone, it can be."""
    catalog.put_plan(GOLD)
    made = [catalog.create_key(plans=["gold"]) for _ in range(keys)]
    before = snapshot(client)
    with pytest.raises(Conflict) as caught:
        catalog.delete_plan("gold")
    assert str(caught.value) == f"plan_id: plan 'gold' {message}move or delete them first"
    assert snapshot(client) == before
    for key in made:
        catalog.remove_key_from_plan(key.id, "gold")
    catalog.delete_plan("gold")


def test_a_shadow_is_a_plan_that_exists(catalog, client, tmp_path):
    """A plan cannot get one that does not exist, and one that is a shadow cannot go."""
    catalog.put_plan(GOLD)
    before = snapshot(client)
    shadowed = UsagePlan("gold", TEN, shadow="next")
    with pytest.raises(NotFound, match=r"^shadow: plan 'gold' has the shadow 'next', and there is no such plan$"):
        catalog.put_plan(shadowed)
    with pytest.raises(ConfigError, match="there is no such plan"):
        applied(catalog, tmp_path, '[plans.gold]\nshadow = "next"\n')
    assert snapshot(client) == before
    catalog.put_plan(UsagePlan("next", TEN))
    catalog.put_plan(shadowed)
    with pytest.raises(ConfigError, match="'next'"):
        catalog.delete_plan("next")
    assert catalog.plans() == [shadowed, UsagePlan("next", TEN)]


def test_a_trial_starts_anew_and_leaves_other_trials_alone(catalog, client, clock):
    """Resetting the shadow of one plan of a key keeps what the shadow of another plan of that key counted."""
    for name, stage in (("a", "petstore/prod"), ("b", "petstore/test")):
        catalog.put_plan(UsagePlan(f"next-{name}", Throttle(0, 1), None, [stage]))
        catalog.put_plan(UsagePlan(name, TEN, None, [stage], shadow=f"next-{name}"))
    key = catalog.create_key(plans=["a", "b"])
    with Limiter(client, deadline=5, clock=clock) as limiter:
        for stage in ("petstore/prod", "petstore/test", "petstore/test"):
            assert limiter.check(key.value, stage, "GET /").allowed
    seen = [(counts.seen, counts.throttled) for plan in ("a", "b") for counts in catalog.shadow_counts(plan)]
    assert seen == [(1, 1), (2, 2)]
    catalog.reset_shadow("a")
    assert catalog.shadow_counts("a") == []
    assert [counts.seen for counts in catalog.shadow_counts("b")] == [2]


FILE = """
[account]
rate = 10
burst = 5
[stages."petstore/prod"]
throttle = { rate = 10, burst = 5 }
[plans.gold]
throttle = { rate = 10, burst = 5 }
quota = { limit = 100, period = "DAY" }
stages = ["petstore/prod"]
"""


def test_a_plan_file_is_declarative(catalog, tmp_path):
    """What it says is put; what it does not say is removed."""
    catalog.put_plan(SILVER)
    catalog.put_stage(Stage("petstore/test"))
    applied(catalog, tmp_path, FILE)
    assert catalog.plans() == [GOLD]
    assert catalog.stages() == [Stage("petstore/prod", TEN)]
    assert catalog.get_account_throttle() == TEN
    applied(catalog, tmp_path, "")
    assert (catalog.plans(), catalog.stages(), catalog.get_account_throttle()) == ([], [], None)


def test_a_plan_file_that_holds_already_changes_nothing(catalog, client, tmp_path):
    """Applied twice, the second time writes nothing: no replica loads anew."""
    applied(catalog, tmp_path, FILE)
    before = snapshot(client)
    applied(catalog, tmp_path, FILE)
    assert snapshot(client) == before


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (FILE + "[plans.silver]\nthrottle = 1\n", ConfigError, "plans.silver.throttle: must be a table"),
        (FILE + '[plans.silver]\nstages = ["petstore/prod"]\n', Conflict, "in two plans of stage 'petstore/prod'"),
        (FILE, Conflict, "plan 'silver' still has 1 key"),
    ],
)
def test_a_plan_file_holds_whole_or_not_at_all(catalog, client, tmp_path, text, error, message):
    """A mistake, a key in two plans of one stage, a plan with keys that would go: nothing is written."""
    catalog.put_plan(UsagePlan("gold"))
    catalog.put_plan(SILVER)
    catalog.create_key(plans=["gold", "silver"])
    before = snapshot(client)
    with pytest.raises(error) as caught:
        applied(catalog, tmp_path, text)
    assert message in str(caught.value)
    assert snapshot(client) == before


@pytest.mark.parametrize("count", [5000])
def test_a_plan_file_may_be_long(catalog, tmp_path, count):
    """More plans than Lua passes to one call: all are put, and all are removed, at once."""
    applied(catalog, tmp_path, "".join(f"[plans.p{i}]\n" for i in range(count)))
    assert len(catalog.plans()) == count
    applied(catalog, tmp_path, "[plans.last]\n")
    assert catalog.plans() == [UsagePlan("last")]
