"""The catalogue's API keys, on every server and by every kind of client: rotated and deleted."""

import pytest
from helpers.held import held

from ratelimit import Catalog, ConfigError, Conflict, Limiter, NotFound, PlanStage, Quota, Throttle, UsagePlan

TEN = Throttle(10, 5)
METHODS = {"GET /pets": Throttle(10, 5)}
GOLD = UsagePlan("gold", TEN, Quota(100, "DAY"), [PlanStage("petstore/prod", METHODS)], alerts=[1], shadow="silver")
SILVER = UsagePlan("silver", TEN, None, ["petstore/test"])
VALUE = "my-own-key-value-0001"


@pytest.fixture
def client(backend):
    with backend.client() as made:
        yield made


@pytest.fixture
def catalog(client, clock):
    made = Catalog(client, clock=clock)
    made.put_plan(SILVER)
    made.put_plan(GOLD)
    return made


def allowed(client, clock, *values):
    with Limiter(client, clock=clock) as limiter:
        return [limiter.check(value, "petstore/prod", "GET /pets").allowed for value in values]


def test_a_rotated_key_keeps_its_counts_and_loses_its_value(catalog, client, clock):
    """The new value goes on where the old one was; without a grace the old one opens nothing, and is free again."""
    made = catalog.create_key("Me", plans=["gold"])
    assert allowed(client, clock, *[made.value] * 5) == [True] * 5
    rotated = catalog.rotate_key(made.id)
    assert (rotated.id, rotated.name, rotated.plans) == (made.id, "Me", ("gold",))
    assert allowed(client, clock, rotated.value) == [False]
    clock.advance(0.1)
    assert allowed(client, clock, made.value, rotated.value) == [False, True]
    assert catalog.create_key(value=made.value).id != made.id


def test_the_old_value_works_through_its_grace(catalog, client, clock):
    """To its last microsecond, on the same budget."""
    made = catalog.create_key(plans=["gold"])
    rotated = catalog.rotate_key(made.id, grace_s=10, value=VALUE)
    assert rotated.value == VALUE
    clock.advance_us(9_999_999)
    assert allowed(client, clock, made.value, VALUE) == [True, True]
    clock.advance_us(1)
    assert allowed(client, clock, made.value, VALUE) == [False, True]


def test_rotating_again_ends_no_grace_late(catalog, client, clock):
    """A second rotation may shorten what the first promised, and never lengthens it."""
    made = catalog.create_key(plans=["gold"])
    second = catalog.rotate_key(made.id, grace_s=10)
    third = catalog.rotate_key(made.id, grace_s=100)
    clock.advance(10)
    assert allowed(client, clock, made.value, second.value, third.value) == [False, True, True]
    catalog.rotate_key(made.id)
    assert allowed(client, clock, made.value, second.value, third.value) == [False] * 3
    assert len(client.keys("ratelimit:digest:*")) == 1


@pytest.mark.parametrize("grace", [-1, True, "10", None, float("nan"), float("inf"), 2**31])
def test_a_grace_is_seconds(catalog, grace):
    """Anything else is refused."""
    made = catalog.create_key()
    with pytest.raises(ConfigError, match=r"^grace_s: must be seconds >= 0"):
        catalog.rotate_key(made.id, grace)


def test_a_key_is_not_rotated_to_a_value_that_opens_one(catalog, client):
    """Neither another's nor its own; nothing is written."""
    one, other = catalog.create_key(value=VALUE), catalog.create_key()
    before = held(client)
    for key_id in (one.id, other.id):
        with pytest.raises(Conflict, match=f"^value: a key with this value exists already, its id is '{one.id}'$"):
            catalog.rotate_key(key_id, value=VALUE)
    assert held(client) == before


def test_a_deleted_key_leaves_nothing(catalog, client, clock):
    """Buckets, counts, closed days, archive, shadow and digests go with it; only what belongs to no key stays."""
    before = set(client.keys("*"))
    made = catalog.create_key(plans=["gold", "silver"])
    catalog.rotate_key(made.id, grace_s=1e6, value=VALUE)
    for _ in range(3):
        assert allowed(client, clock, made.value, VALUE) == [True, True]
        clock.advance(86_400)
    assert len(set(client.keys("*")) - before) == 9  # hash, record, days, two digests, keys, two plans' sets, alerts
    catalog.delete_key(made.id)
    assert set(client.keys("*")) - before == {b"ratelimit:alerts"}
    with pytest.raises(NotFound):
        catalog.get_key(made.id)
    assert catalog.keys() == []
    assert allowed(client, clock, made.value, VALUE) == [False, False]
    catalog.delete_plan("gold")


@pytest.mark.parametrize("options", [{"protocol": 2}, {"protocol": 3}, {"protocol": 2, "decode_responses": True}])
def test_any_kind_of_client_will_do(server, clock, options):
    """RESP2 or RESP3, bytes or texts: every method reads the same."""
    with server.client(**options) as client:
        catalog = Catalog(client, clock=clock)
        catalog.put_plan(SILVER)
        catalog.put_plan(GOLD)
        made = catalog.create_key("Me", VALUE, ["gold"])
        assert allowed(client, clock, VALUE) == [True]
        catalog.set_remaining("gold", made.id, 7)
        assert catalog.usage("gold", "2026-03-04", "2026-03-04").items == {made.id: [(1, 7)]}
        catalog.add_key_to_plan(made.id, "silver")
        with pytest.raises(Conflict, match=made.id):
            catalog.put_plan(UsagePlan("silver", TEN, None, ["petstore/prod"]))
        assert catalog.keys() == catalog.list_keys().items == [catalog.get_key(made.id)]
        catalog.rotate_key(made.id)
        catalog.delete_key(made.id)
        assert catalog.keys() == []
