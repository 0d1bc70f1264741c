"""The catalogue's API keys, on every server: made, listed, changed, rotated and deleted."""

import json

import pytest
from helpers.redis_snapshot import names_in, snapshot

from ratelimit import Catalog, ConfigError, Conflict, Limiter, NotFound, PlanStage, Quota, Throttle, UsagePlan
from ratelimit.admin import listing

TEN = Throttle(10, 5)
METHODS = {"GET /pets": Throttle(10, 5)}
GOLD = UsagePlan("gold", TEN, Quota(100, "DAY"), [PlanStage("petstore/prod", METHODS)], alerts=[1], shadow="silver")
SILVER = UsagePlan("silver", TEN, None, ["petstore/test"])
VALUE = "my-own-key-value-0001"


@pytest.fixture
def catalog(catalog):
    catalog.put_plan(SILVER)
    catalog.put_plan(GOLD)
    return catalog


def record(client, key_id):
    return json.loads(client.get(f"ratelimit:{{{key_id}}}:record"))


def test_a_key_is_made_with_all_that_is_said_of_it(catalog, clock):
    """It comes back with its value; read again, it is the same without."""
    tags = {"team": "a", "über": "ja"}
    made = catalog.create_key(
        "Me", VALUE, ["gold", "silver"], enabled=False, expires_at=2e9, description="d", owner="o", tags=tags
    )
    assert (made.name, made.value, made.plans, made.enabled) == ("Me", VALUE, ("gold", "silver"), False)
    assert (made.expires_at, made.description, made.owner, made.tags) == (2e9, "d", "o", tags)
    assert made.created_at == clock() / 1e6
    stored = catalog.get_key(made.id)
    assert stored == made
    assert stored.value is None


def test_a_key_needs_nothing_said_of_it(catalog):
    """Its value is generated, it is enabled, in no plan and never expires."""
    made = catalog.create_key()
    assert made.value.startswith("rl_live_")
    assert (made.name, made.plans, made.enabled, made.expires_at, made.tags) == ("", (), True, None, {})
    assert catalog.create_key().value != made.value


def test_redis_never_sees_a_value(catalog, client):
    """Nothing that the server holds contains it, whatever was done with the key."""
    made = catalog.create_key("Me", VALUE, ["gold"])
    rotated = catalog.rotate_key(made.id, grace_s=60)
    everything = repr(snapshot(client))
    assert VALUE not in everything
    assert rotated.value not in everything
    assert made.id in everything


def test_a_value_opens_one_key(catalog, client):
    """A second key with the same value is refused by the id of the first, and the value is not shown."""
    first = catalog.create_key(value=VALUE)
    before = snapshot(client)
    with pytest.raises(Conflict) as caught:
        catalog.create_key(value=VALUE)
    assert str(caught.value) == f"value: a key with this value exists already, its id is '{first.id}'"
    assert snapshot(client) == before


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"name": 5}, ConfigError, "name: must be text, not 5"),
        ({"name": "a\nb"}, ConfigError, "name: holds control characters"),
        ({"name": "x" * 1025}, ConfigError, "name: has 1025 characters, at most 1024"),
        ({"value": "short"}, ConfigError, "value: must be 20 to 128 visible ASCII characters"),
        ({"value": 5}, ConfigError, "value: must be 20 to 128 visible ASCII characters"),
        ({"plans": "gold"}, ConfigError, "plans: must be a list of plan ids, not the text 'gold'"),
        ({"plans": None}, ConfigError, "plans: must be a list of plan ids"),
        ({"plans": [["gold"]]}, ConfigError, "plan"),
        ({"plans": ["gold", "none"]}, NotFound, "plan_id: there is no plan 'none'"),
        ({"plans": [5]}, ConfigError, "plan"),
        ({"enabled": 1}, ConfigError, "enabled: must be true or false, not 1"),
        ({"expires_at": "never"}, ConfigError, "expires_at: must be seconds since 1970"),
        ({"expires_at": 0}, ConfigError, "expires_at: must be seconds since 1970"),
        ({"expires_at": float("nan")}, ConfigError, "expires_at: must be seconds since 1970"),
        ({"expires_at": 2**33}, ConfigError, "expires_at: must be seconds since 1970"),
        ({"description": None}, ConfigError, "description: must be text, not None"),
        ({"description": "x" * 125_001}, ConfigError, "description: has 125001 characters"),
        ({"owner": "x" * 257}, ConfigError, "owner: has 257 characters"),
        ({"tags": ["team"]}, ConfigError, "tags: must be a mapping of texts"),
        ({"tags": {"": "a"}}, ConfigError, "tags: has an entry without a name"),
        ({"tags": {"team": 5}}, ConfigError, "tags.team: must be text, not 5"),
        ({"tags": {str(i): "" for i in range(51)}}, ConfigError, "tags: has 51 entries, at most 50"),
        (
            {"expires": 5},
            TypeError,
            "Catalog.create_key() got an unexpected keyword argument 'expires'",
        ),
    ],
    ids=lambda item: str(item)[:30],
)
def test_what_cannot_be_said_of_a_key_is_refused(catalog, client, given, error, message):
    """With the field and a remedy, and nothing is written."""
    before = snapshot(client)
    with pytest.raises(error) as caught:
        catalog.create_key(**given)
    assert str(caught.value).startswith(message)
    assert snapshot(client) == before


def test_a_misspelt_change_changes_nothing_and_says_so(catalog, client):
    """Who means to disable a key must not believe that it is disabled."""
    key = catalog.create_key()
    before = snapshot(client)
    for wrong in ({"enable": False}, {"plans": []}, {"expire_at": 5, "name": "x"}):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{next(iter(wrong))}'"):
            catalog.update_key(key.id, **wrong)
    assert snapshot(client) == before


def test_what_no_caller_should_pass_is_refused(catalog, client):
    """As input, with the field; nothing is written."""
    key = catalog.create_key()
    before = snapshot(client)
    for call, message in (
        (lambda: catalog.rotate_key(key.id, expected="x"), "expected: must be the ApiKey that was read, not str"),
        (lambda: catalog.delete_key(key.id, expected="x"), "expected: must be the ApiKey that was read, not str"),
        (lambda: catalog.delete_stage([]), "stage_id: no stage [] is configured"),
        (lambda: catalog.keys(5), "prefix: must be text, not 5"),
        (lambda: catalog.usage("gold", "9999-12-01", "9999-12-31"), "start: must be a day from 1970 to 2199"),
        (lambda: catalog.usage("gold", "1969-12-31", "1970-01-01"), "start: must be a day from 1970 to 2199"),
        (lambda: Catalog(client, pepper="\ud800"), "pepper: holds half a character"),
    ):
        with pytest.raises(ConfigError) as caught:
            call()
        assert str(caught.value).startswith(message)
    assert snapshot(client) == before


def test_plans_are_joined_once(catalog):
    """A plan named twice is joined once."""
    assert catalog.create_key(plans=["gold", "silver", "gold"]).plans == ("gold", "silver")


def made_one_by_one(catalog, clock, names):
    made = []
    for name in names:
        made.append(catalog.create_key(name))
        clock.advance(1)
    return made


def test_keys_are_listed_newest_first(catalog, clock):
    """All of them, or those whose name starts with a text, in its case."""
    one, two, three = made_one_by_one(catalog, clock, ["app-a", "App-b", "app-c"])
    assert catalog.keys() == [three, two, one]
    assert catalog.keys("app-") == [three, one]
    assert catalog.keys("nobody") == []


def test_keys_are_listed_in_pages(catalog, clock):
    """Each page goes on where the one before ended; the last has no cursor."""
    made = made_one_by_one(catalog, clock, ["a1", "b", "a2", "a3"])[::-1]
    seen, cursor = [], None
    for expected in ([0, 1], [2, 3]):
        page = catalog.list_keys(limit=2, cursor=cursor)
        assert page.items == [made[at] for at in expected]
        seen, cursor = seen + page.items, page.cursor
    assert cursor is None
    first = catalog.list_keys("a", 2)
    assert first.items == [made[0], made[1]]
    assert catalog.list_keys("a", 2, first.cursor).items == [made[3]]


def test_a_page_goes_on_although_keys_come_and_go(catalog, clock):
    """The key that a cursor names may be deleted: the next page is the same."""
    made = made_one_by_one(catalog, clock, ["a", "b", "c", "d"])[::-1]
    page = catalog.list_keys(limit=2)
    catalog.delete_key(made[1].id)
    catalog.create_key("newer")
    assert catalog.list_keys(limit=2, cursor=page.cursor).items == made[2:]


def test_keys_of_one_microsecond_are_all_listed(catalog, monkeypatch):
    """An import makes many at once: more than one reply of Redis holds, none is missed and none shown twice."""
    monkeypatch.setattr(listing, "MAX_PAGE", 3)
    monkeypatch.setattr(listing, "_KEYS_PER_READ", 3)
    made = {catalog.create_key().id for _ in range(8)}
    listed = catalog.keys()
    assert (len(listed), {key.id for key in listed}) == (8, made)


@pytest.mark.parametrize("limit", [0, 501, True, "25", None])
def test_a_page_has_1_to_500_keys(catalog, limit):
    """Anything else is refused."""
    with pytest.raises(ConfigError, match=r"^limit: must be "):
        catalog.list_keys(limit=limit)


@pytest.mark.parametrize("cursor", ["", "abc", "12", ":", "x:y", 5])
def test_a_cursor_is_one_that_a_page_had(catalog, cursor):
    """Anything else is refused."""
    with pytest.raises(ConfigError, match=r"^cursor: invalid cursor .*: pass that of the page before$"):
        catalog.list_keys(cursor=cursor)


def test_what_is_given_is_changed_and_nothing_else(catalog, client):
    """Each field of its own; the record and the hash of the key get a new stamp together."""
    made = catalog.create_key("Me", plans=["gold"], owner="o")
    stamps = {record(client, made.id)["stamp"]}
    for change in (
        {"enabled": False},
        {"name": "You"},
        {"expires_at": 2e9},
        {"description": "d"},
        {"owner": ""},
        {"tags": {"a": "b"}},
        {"expires_at": None},
    ):
        before = catalog.get_key(made.id)
        after = catalog.update_key(made.id, **change)
        assert {name: getattr(after, name) for name in change} == change
        changed = [name for name in after.__slots__ if getattr(after, name) != getattr(before, name)]
        assert changed == [*change, "revision"]
        assert catalog.get_key(made.id) == after
        stamp = record(client, made.id)["stamp"]
        assert client.hget(f"ratelimit:{{{made.id}}}", "r").endswith(stamp.encode())
        stamps.add(stamp)
    assert len(stamps) == 8


def test_a_key_joins_and_leaves_plans(catalog, client):
    """Its record and the plan's set of keys agree."""
    made = catalog.create_key()
    assert catalog.add_key_to_plan(made.id, "gold").plans == ("gold",)
    assert catalog.add_key_to_plan(made.id, "silver").plans == ("gold", "silver")
    assert client.smembers("{ratelimit}:plan:gold:keys") == {made.id.encode()}
    assert catalog.remove_key_from_plan(made.id, "gold").plans == ("silver",)
    assert client.smembers("{ratelimit}:plan:gold:keys") == set()
    assert catalog.get_key(made.id).plans == ("silver",)


def test_joining_and_leaving_can_fail(catalog, client):
    """A plan that is unknown, that it is in already, that it is not in: refused, and nothing is written."""
    made = catalog.create_key(plans=["gold"])
    before = snapshot(client)
    for call, error, message in (
        (
            lambda: catalog.add_key_to_plan(made.id, "gold"),
            Conflict,
            f"plan_id: key '{made.id}' is in plan 'gold' already",
        ),
        (lambda: catalog.add_key_to_plan(made.id, "none"), NotFound, "plan_id: there is no plan 'none'"),
        (lambda: catalog.add_key_to_plan(made.id, None), NotFound, "plan_id: there is no plan None"),
        (
            lambda: catalog.remove_key_from_plan(made.id, "silver"),
            NotFound,
            f"plan_id: key '{made.id}' is not in plan ",
        ),
        (
            lambda: catalog.remove_key_from_plan(made.id, None),
            NotFound,
            f"plan_id: key '{made.id}' is not in plan None",
        ),
    ):
        with pytest.raises(error) as caught:
            call()
        assert str(caught.value).startswith(message)
    assert snapshot(client) == before


@pytest.mark.parametrize(
    "call",
    [
        lambda catalog, key_id: catalog.get_key(key_id),
        lambda catalog, key_id: catalog.delete_key(key_id),
        lambda catalog, key_id: catalog.update_key(key_id, name="x"),
        lambda catalog, key_id: catalog.rotate_key(key_id),
        lambda catalog, key_id: catalog.add_key_to_plan(key_id, "gold"),
        lambda catalog, key_id: catalog.remove_key_from_plan(key_id, "gold"),
        lambda catalog, key_id: catalog.set_remaining("gold", key_id, 5),
    ],
)
def test_an_unknown_key_is_not_found_and_no_id_is_refused(catalog, client, call):
    """By every method that takes one: an id that none has, and what can be none."""
    before = snapshot(client)
    with pytest.raises(NotFound):
        call(catalog, "nobody")
    for key_id in ("", "a:b", "a}b", None, 5):
        with pytest.raises(ConfigError, match=r"^key_id: cannot be "):
            call(catalog, key_id)
    assert snapshot(client) == before


def test_a_key_moves_from_plan_to_plan(catalog, client):
    """In one step, in the place of the plan that it leaves; what it used of either stays with that."""
    catalog.put_plan(UsagePlan("silver", stages=["petstore/prod"]))
    catalog.put_plan(UsagePlan("toys", stages=["toys/prod"]))
    made = catalog.create_key(plans=["gold", "toys"])
    moved = catalog.move_key(made.id, "gold", "silver")
    assert moved == catalog.get_key(made.id)
    assert moved.plans == ("silver", "toys")
    members = {plan: client.smembers(f"{{ratelimit}}:plan:{plan}:keys") for plan in ("gold", "silver", "toys")}
    assert members == {"gold": set(), "silver": {made.id.encode()}, "toys": {made.id.encode()}}


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        (("gold", "nix"), NotFound, "plan_id: there is no plan 'nix'"),
        (("toys", "silver"), NotFound, "from_plan: key 'KEY' is not in plan 'toys'"),
        (("gold", "gold"), Conflict, "to_plan: key 'KEY' is in plan 'gold' already"),
        (("other", "silver"), Conflict, "plans: key 'KEY' would be in two plans of stage 'petstore/prod', 'gold' and"),
    ],
)
def test_a_key_that_cannot_move(catalog, client, where, error, message):
    """Gets the reason, and stays where it is."""
    catalog.put_plan(UsagePlan("silver", stages=["petstore/prod"]))
    catalog.put_plan(UsagePlan("toys", stages=["toys/prod"]))
    catalog.put_plan(UsagePlan("other"))
    made = catalog.create_key(plans=["gold", "other"])
    before = record(client, made.id)
    with pytest.raises(error) as caught:
        catalog.move_key(made.id, *where)
    assert str(caught.value).startswith(message.replace("KEY", made.id))
    assert record(client, made.id) == before


# Rotated and deleted


def allowed(client, clock, *values):
    with Limiter(client, deadline=5, clock=clock) as limiter:
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
    before = snapshot(client)
    for key_id in (one.id, other.id):
        with pytest.raises(Conflict, match=f"^value: a key with this value exists already, its id is '{one.id}'$"):
            catalog.rotate_key(key_id, value=VALUE)
    assert snapshot(client) == before


def test_a_deleted_key_leaves_nothing(catalog, client, clock):
    """Buckets, counts, closed days, archive, shadow and digests go with it; only what belongs to no key stays."""
    before = set(names_in(client))
    made = catalog.create_key(plans=["gold", "silver"])
    catalog.rotate_key(made.id, grace_s=1e6, value=VALUE)
    for _ in range(3):
        assert allowed(client, clock, made.value, VALUE) == [True, True]
        clock.advance(86_400)
    assert len(set(names_in(client)) - before) == 9  # hash, record, days, two digests, keys, two plans' sets, alerts
    catalog.delete_key(made.id)
    assert set(names_in(client)) - before == {b"ratelimit:alerts"}
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
