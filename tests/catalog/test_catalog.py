"""The catalogue's plans, stages and account throttle, on every server."""

import pytest
from helpers.redis_snapshot import snapshot

from ratelimit import (
    Catalog,
    ConfigError,
    Conflict,
    Limiter,
    Method,
    NotFound,
    Quota,
    Stage,
    StoreError,
    Throttle,
    UsagePlan,
)

TEN = Throttle(10, 5)
GOLD = UsagePlan("gold", TEN, Quota(100, "DAY"), ["petstore/prod"])
SILVER = UsagePlan("silver", TEN, None, ["petstore/test"])
STAGE = Stage("petstore/prod", TEN, {"GET /pets": Method(Throttle(1, 1))})


def version(client):
    return int(client.hget("{ratelimit}:catalog", "version"))


def test_plans_are_put_read_and_deleted(catalog):
    """What was put is what is read, by id and in order; what was deleted is gone."""
    catalog.put_plan(SILVER)
    catalog.put_plan(GOLD)
    assert catalog.get_plan("gold") == GOLD
    assert catalog.plans() == [GOLD, SILVER]
    catalog.delete_plan("gold")
    assert catalog.plans() == [SILVER]
    with pytest.raises(NotFound, match=r"^plan_id: there is no plan 'gold'$"):
        catalog.get_plan("gold")


def test_a_put_plan_replaces_the_one_of_its_id(catalog):
    """The new one holds, whole."""
    catalog.put_plan(GOLD)
    catalog.put_plan(UsagePlan("gold", name="no limits"))
    assert catalog.plans() == [UsagePlan("gold", name="no limits")]


def test_stages_are_put_read_and_deleted(catalog):
    """As plans are."""
    other = Stage("petstore/a")
    catalog.put_stage(STAGE)
    catalog.put_stage(other)
    assert catalog.stages() == [other, STAGE]
    catalog.put_stage(Stage("petstore/prod"))
    assert catalog.stages() == [other, Stage("petstore/prod")]
    catalog.delete_stage("petstore/prod")
    assert catalog.stages() == [other]


def test_a_plan_goes_on_opening_a_stage_that_was_deleted(catalog):
    """Deleting a stage deletes its configuration alone."""
    catalog.put_plan(GOLD)
    catalog.put_stage(STAGE)
    catalog.delete_stage("petstore/prod")
    assert catalog.get_plan("gold").stages[0].stage == "petstore/prod"


def test_the_account_throttle_is_set_read_and_removed(catalog):
    """None removes it, and none is there at first."""
    assert catalog.get_account_throttle() is None
    catalog.set_account_throttle(TEN)
    assert catalog.get_account_throttle() == TEN
    catalog.set_account_throttle(None)
    assert catalog.get_account_throttle() is None


@pytest.mark.parametrize("plan_id", ["gold", "", None, 5, b"gold", ["gold"]])
def test_an_unknown_plan_is_not_found(catalog, plan_id):
    """By every method that takes one, with its id shown."""
    catalog.put_plan(SILVER)
    for call in (catalog.get_plan, catalog.delete_plan):
        with pytest.raises(NotFound) as caught:
            call(plan_id)
        assert str(caught.value) == f"plan_id: there is no plan {plan_id!r}"


def test_an_unknown_stage_is_not_found(catalog):
    """A stage that is not configured cannot be deleted, be it opened by a plan or not."""
    catalog.put_plan(GOLD)
    with pytest.raises(NotFound, match=r"^stage_id: no stage 'petstore/prod' is configured$"):
        catalog.delete_stage("petstore/prod")


@pytest.mark.parametrize(
    ("method", "argument", "message"),
    [
        ("put_plan", "gold", "plan: must be a UsagePlan, not 'gold'"),
        ("put_plan", None, "plan: must be a UsagePlan, not None"),
        ("put_stage", TEN, "stage: must be a Stage, not Throttle("),
        ("set_account_throttle", 10, "throttle: must be a Throttle, not 10"),
    ],
)
def test_what_is_no_plan_stage_or_throttle_is_refused(catalog, client, method, argument, message):
    """Before anything is asked or written."""
    with pytest.raises(ConfigError) as caught:
        getattr(catalog, method)(argument)
    assert str(caught.value).startswith(message)
    assert snapshot(client) == {}


def test_every_change_moves_the_version_by_one_and_no_change_by_none(catalog, client):
    """The version counts what replicas have to load anew; putting what holds already is no change."""
    catalog.put_plan(GOLD)
    assert version(client) == 1
    changes = (
        lambda: catalog.put_stage(STAGE),
        lambda: catalog.set_account_throttle(TEN),
        lambda: catalog.put_plan(UsagePlan("gold")),
        lambda: catalog.delete_stage("petstore/prod"),
        lambda: catalog.delete_plan("gold"),
    )
    for done, change in enumerate(changes, start=2):
        change()
        assert version(client) == done
    before = snapshot(client)
    catalog.set_account_throttle(TEN)
    assert snapshot(client) == before


def test_every_change_is_published_with_its_version(catalog, client):
    """Replicas that subscribe are notified: the message is the new version."""
    with client.pubsub() as listener:
        listener.subscribe("ratelimit:changes")
        assert listener.get_message(timeout=1)["type"] == "subscribe"
        catalog.put_plan(GOLD)
        catalog.put_plan(GOLD)
        catalog.put_stage(STAGE)
        assert [listener.get_message(timeout=1)["data"] for _ in range(2)] == [b"1", b"2"]


def test_an_empty_namespace_reads_as_empty_and_stays_so(catalog, client):
    """Reading makes nothing."""
    assert (catalog.plans(), catalog.stages(), catalog.keys()) == ([], [], [])
    assert catalog.get_account_throttle() is None
    for call in (
        lambda: catalog.get_plan("gold"),
        lambda: catalog.delete_plan("gold"),
        lambda: catalog.delete_stage("petstore/prod"),
        lambda: catalog.get_key("k1"),
        lambda: catalog.delete_key("k1"),
        lambda: catalog.update_key("k1", name="x"),
        lambda: catalog.rotate_key("k1"),
        lambda: catalog.add_key_to_plan("k1", "gold"),
        lambda: catalog.remove_key_from_plan("k1", "gold"),
        lambda: catalog.usage("gold", "2026-03-01", "2026-03-02"),
        lambda: catalog.set_remaining("gold", "k1", 5),
        lambda: catalog.shadow_counts("gold"),
        lambda: catalog.reset_shadow("gold"),
    ):
        with pytest.raises(NotFound):
            call()
    assert snapshot(client) == {}


def test_namespaces_know_nothing_of_each_other(client, clock):
    """Each has its own plans, keys and epoch."""
    one, other = (Catalog(client, namespace=name, clock=clock) for name in ("one", "other"))
    one.put_plan(GOLD)
    assert other.plans() == []
    value = "the-same-value-in-two-namespaces"
    assert one.create_key(value=value).id != other.create_key(value=value).id
    assert client.hget("{one}:catalog", "epoch") != client.hget("{other}:catalog", "epoch")


def test_a_wrong_pepper_is_noticed_before_anything_is_written(client, clock):
    """Every read of the catalogue and every write says so; the pepper is not shown."""
    right = Catalog(client, pepper="right", clock=clock)
    right.put_plan(GOLD)
    key = right.create_key(plans=["gold"])
    before = snapshot(client)
    wrong = Catalog(client, pepper="wrong", clock=clock)
    for call in (
        wrong.plans,
        wrong.stages,
        wrong.create_key,
        lambda: wrong.put_plan(SILVER),
        lambda: wrong.update_key(key.id, name="x"),
        lambda: wrong.rotate_key(key.id),
        lambda: wrong.add_key_to_plan(key.id, "gold"),
        lambda: wrong.delete_plan("gold"),
    ):
        with pytest.raises(ConfigError, match=r"^pepper: is not the one that the keys of namespace ") as caught:
            call()
        assert "wrong" not in str(caught.value)
    assert snapshot(client) == before


def test_a_pepper_is_replaced_while_keys_of_both_work(client, clock):
    """With the new pepper first and the old one after it, old keys open and new ones are stored under the new."""
    old = Catalog(client, pepper="old", clock=clock)
    old.put_plan(GOLD)
    first = old.create_key(plans=["gold"])
    with Limiter(client, deadline=5, pepper=["new", "old"], clock=clock) as both:
        second = both.catalog.create_key(plans=["gold"])
        assert [both.check(key.value, "petstore/prod", "GET /").allowed for key in (first, second)] == [True, True]
        with pytest.raises(Conflict, match=first.id):
            both.catalog.create_key(value=first.value)
    with Limiter(client, deadline=5, pepper="new", clock=clock) as new:
        details = [new.check(key.value, "petstore/prod", "GET /").detail for key in (first, second)]
        assert details == ["unknown", None]


def test_a_catalogue_that_vanished_is_a_fault(catalog, client, clock):
    """Who knew it says that data was lost; who did not sees an empty namespace."""
    catalog.put_plan(GOLD)
    client.flushall()
    with pytest.raises(StoreError, match=r"^the catalogue '\{ratelimit\}:catalog' was here and is gone"):
        catalog.plans()
    assert Catalog(client, clock=clock).plans() == []
