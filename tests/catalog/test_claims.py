"""Who has the value of a key, by the index and by the records: claims that are dead, over, in force or being made."""

import io
import json

import pytest
from helpers.interception import InterceptedCatalog, before_script

from ratelimit import Catalog, Conflict, Limiter, NotFound, UsagePlan
from ratelimit.registry.key_values import Digester

STAGE, METHOD = "a/prod", "GET /pets"
VALUE = "my-own-key-value-0001"
DIGEST = Digester(None)(VALUE)
INDEX = f"ratelimit:digest:{DIGEST}"


@pytest.fixture
def catalog(catalog):
    catalog.put_plan(UsagePlan("gold", stages=[STAGE]))
    return catalog


def record_of(client, key_id):
    return json.loads(client.get(f"ratelimit:{{{key_id}}}:record"))


def put_record(client, key_id, **fields):
    """Another record of a key, as another version or a crashed administrator may leave it."""
    client.set(f"ratelimit:{{{key_id}}}:record", json.dumps({**record_of(client, key_id), **fields}))


def claim(client):
    return client.get(INDEX).decode()


def claimed_by(client):
    key_id, colon, token = claim(client).partition(":")
    assert (colon, len(token)) == (":", 8)
    return key_id


def test_each_claim_has_a_token_of_its_own(catalog, client):
    """A key that comes to have the same value twice does not claim it with the same text."""
    made = catalog.create_key(value=VALUE)
    first = claim(client)
    catalog.rotate_key(made.id)
    assert client.get(INDEX) is None
    catalog.rotate_key(made.id, value=VALUE)
    assert claimed_by(client) == made.id
    assert claim(client) != first


DEAD = {
    "no such key": lambda client, _: client.set(INDEX, "nobody:token--1"),
    "no such key, of schema 1": lambda client, _: client.set(INDEX, "nobody"),
    "a tombstone": lambda client, key_id: (
        put_record(client, key_id, state="tombstone", enabled=False, digests={DIGEST: 0}),
        client.set(INDEX, f"{key_id}:token--1"),
    ),
    "a key that does not name it": lambda client, key_id: client.set(INDEX, f"{key_id}:token--1"),
}


def create(catalog):
    return catalog.create_key(value=VALUE, plans=["gold"]).id


def rotate(catalog):
    return catalog.rotate_key(catalog.create_key(plans=["gold"]).id, value=VALUE).id


def bring_in(catalog):
    (key_id,) = catalog.import_keys(_file()).ids
    return key_id


def _file():
    return io.StringIO(f"Key,Name,UsagePlanIds\n{VALUE},one,gold\n")


WAYS = pytest.mark.parametrize("way", [create, rotate, bring_in])


@WAYS
@pytest.mark.parametrize("dead", DEAD)
def test_a_dead_claim_is_replaced(dead, way, catalog, client, clock):
    """Its key is absent, a tombstone, or has another value: the value opens the one that claims it now."""
    DEAD[dead](client, catalog.create_key().id)
    made = way(catalog)
    assert claimed_by(client) == made
    with Limiter(client, deadline=5, clock=clock) as limiter:
        assert limiter.check(VALUE, STAGE, METHOD).allowed


@WAYS
def test_a_dead_claim_is_replaced_by_its_exact_text_alone(way, catalog, client, backend, clock):
    """Another claim that comes between the look and the commit is looked at again, also one of the same key."""
    other = catalog.create_key()
    client.set(INDEX, f"{other.id}:token--1")

    with backend.client() as rival_client:
        rival = Catalog(rival_client, clock=clock)
        # The first script of `rotate` makes the key that is rotated.
        at = 2 if way is rotate else 1
        InterceptedCatalog(catalog, before_script(lambda: rival.rotate_key(other.id, value=VALUE), at))
        if way is bring_in:
            assert way(catalog) == other.id  # the row says that this is a key which exists
        else:
            with pytest.raises(Conflict, match=rf"a key with this value exists already, its id is '{other.id}'"):
                way(catalog)
    assert claimed_by(client) == other.id
    assert claim(client) != f"{other.id}:token--1"


@pytest.mark.parametrize("way", [create, rotate])
def test_a_value_that_is_over_is_taken_out_of_its_record(way, catalog, client, clock):
    """In the commit that gives it away; its former key has a new stamp, and whoever remembers it looks again."""
    old = catalog.create_key(value=VALUE, plans=["gold"])
    catalog.rotate_key(old.id, grace_s=10)
    with Limiter(client, deadline=5, clock=clock, denial_cache=False) as limiter:
        assert limiter.check(VALUE, STAGE, METHOD).allowed
        clock.advance_us(9_999_999)
        with pytest.raises(Conflict, match="exists already"):
            way(catalog)
        clock.advance_us(1)
        before = record_of(client, old.id)
        made = way(catalog)
        after = record_of(client, old.id)
        assert claimed_by(client) == made
        assert DIGEST in before["digests"]
        assert DIGEST not in after["digests"]
        assert after["stamp"] != before["stamp"]
        assert client.hget(f"ratelimit:{{{old.id}}}", "r")[18:].decode() == after["stamp"]
        assert limiter.check(VALUE, STAGE, METHOD).allowed
    assert catalog.usage("gold", "2026-03-04", "2026-03-04", made).items == {made: [(1, None)]}


def test_a_key_takes_back_a_value_that_is_over(catalog, client, clock):
    """Its own former value, once the grace has ended."""
    made = catalog.create_key(value=VALUE)
    catalog.rotate_key(made.id, grace_s=1)
    clock.advance(1)
    catalog.rotate_key(made.id, value=VALUE)
    assert record_of(client, made.id)["digests"] == {DIGEST: 0}
    assert claimed_by(client) == made.id
    assert len(client.keys("ratelimit:digest:*")) == 1


@pytest.mark.parametrize("way", [create, rotate])
def test_a_value_of_a_draft_is_being_given_away(way, catalog, client):
    """Somebody is about to make a key with it."""
    draft = catalog.create_key(value=VALUE)
    put_record(client, draft.id, state="draft", enabled=False, digests={DIGEST: 1})
    with pytest.raises(Conflict, match=f"^value: a key with this value is being made .* '{draft.id}'"):
        way(catalog)


def test_a_row_of_a_draft_is_not_stored(catalog, client):
    """The report says why."""
    draft = catalog.create_key(value=VALUE)
    put_record(client, draft.id, state="draft", enabled=False, digests={DIGEST: 1})
    report = catalog.import_keys(_file())
    (warning,) = report.warnings
    assert warning.message.startswith(f"Key is being given to key {draft.id!r}")
    assert report.ids == ()


@pytest.mark.parametrize("way", ["rotate", "delete"])
def test_a_claim_of_another_is_left_alone(way, catalog, client):
    """A key whose record still names a value that is another's by now does not take it along."""
    one, other = catalog.create_key(), catalog.create_key(value=VALUE)
    put_record(client, one.id, digests={**record_of(client, one.id)["digests"], DIGEST: 1})
    if way == "rotate":
        catalog.rotate_key(one.id)
    else:
        catalog.delete_key(one.id)
    assert claimed_by(client) == other.id


@pytest.mark.parametrize("state", ["draft", "tombstone", "of a later version"])
def test_what_is_no_key_is_unknown(state, catalog, client, clock):
    """To checks, to whoever reads or changes keys, to lists, exports and usage; and it is left as it is."""
    made, other = catalog.create_key(value=VALUE, plans=["gold"]), catalog.create_key("other", plans=["gold"])
    put_record(client, made.id, state=state, enabled=False, digests={DIGEST: 1})
    before = record_of(client, made.id)
    with Limiter(client, deadline=5, clock=clock) as limiter:
        assert limiter.check(VALUE, STAGE, METHOD).detail == "unknown"
    for call in (
        lambda: catalog.get_key(made.id),
        lambda: catalog.update_key(made.id, enabled=True),
        lambda: catalog.rotate_key(made.id),
        lambda: catalog.delete_key(made.id),
        lambda: catalog.remove_key_from_plan(made.id, "gold"),
        lambda: catalog.usage("gold", "2026-03-04", "2026-03-04", made.id),
    ):
        with pytest.raises(NotFound):
            call()
    assert [key.id for key in catalog.keys("")] == [other.id]
    assert [key.id for key in catalog.list_keys(limit=1).items] == [other.id]
    assert list(catalog.usage("gold", "2026-03-04", "2026-03-04").items) == [other.id]
    assert record_of(client, made.id) == before
