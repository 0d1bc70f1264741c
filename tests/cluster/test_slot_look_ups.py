"""Where index, record and catalogue may lie on different servers: how a key is found."""

from contextlib import contextmanager

import pytest
from helpers.clock import FakeClock
from helpers.replica import METHOD, STAGE
from helpers.slot_data import NodesAway, copy_all

from ratelimit import Catalog, Limiter, Quota, Throttle, UsagePlan
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.redis_keys import RedisKeys

NAMES = RedisKeys("ratelimit")
DAILY = Quota(100, "DAY")


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def catalog(plain):
    """A catalogue on a server without slots, with one plan."""
    with plain.client() as client:
        made = Catalog(client)
        made.put_plan(UsagePlan("gold", Throttle(1, 5), DAILY, [STAGE]))
        yield made


@pytest.fixture
def key(catalog):
    return catalog.create_key(plans=["gold"])


@contextmanager
def slot_limiter(slots, plain, clock, **options):
    """A limiter on the server with slots, which has what the other one has."""
    with plain.client() as source:
        copy_all(source, slots)
    options = {"clock": clock, "deadline": 5, "on_unavailable": "closed"} | options
    with slots.client() as client, Limiter(client, **options) as limiter:
        limiter._namespace.before_refresh = lambda: None
        yield limiter


def test_slots_are_found_by_a_read_of_two_names_in_different_slots(slots, plain):
    for server, expected in ((slots, True), (plain, False)):
        with server.client() as client:
            catalog = Catalog(client)
            namespace: Namespace = catalog._namespace
            for _ in range(2):
                catalog._run(namespace.find_slots())
            assert namespace.has_slots is expected
            assert namespace.is_checked_for_slots


def test_the_first_check_finds_slots_without_a_further_round_trip(slots, plain, clock, key):
    with slot_limiter(slots, plain, clock) as limiter:
        away = NodesAway(limiter)
        assert limiter.check(key.value, STAGE, METHOD).allowed
        assert limiter._namespace.has_slots
        assert len(away.requests) == 3  # first reads; the record; the check


def test_who_loads_the_catalogue_after_another_gave_up_finds_slots_too(slots, plain, clock, key):
    """The first caller's deadline was over while it waited, and others waited for what it would have loaded."""
    with slot_limiter(slots, plain, clock) as limiter:
        namespace = limiter._namespace
        first = limiter._checker.check(key.value, STAGE, METHOD, 1)
        next(first)
        assert namespace.is_first_load_under_way
        second = limiter._checker.check(key.value, STAGE, METHOD, 1)
        reads = next(second)
        first.close()
        request = second.send(limiter._store._execute(reads, limiter._store._wait(None)))
        while not namespace.is_refreshed:
            request = second.send(limiter._store._execute(request, limiter._store._wait(None)))
        second.close()
        assert namespace.has_slots


def test_a_key_is_found_under_either_of_two_peppers(slots, plain, clock, catalog):
    """Digests of one value lie in different slots."""
    with plain.client() as client:
        former = Catalog(client, namespace="peppered", pepper="former")
        former.put_plan(UsagePlan("gold", None, DAILY, [STAGE]))
        key = former.create_key(plans=["gold"])
    with slot_limiter(slots, plain, clock, namespace="peppered", pepper=["newest", "former"]) as limiter:
        assert limiter.check(key.value, STAGE, METHOD).allowed
        assert limiter.check("a-value-that-no-key-has-ever-had", STAGE, METHOD).detail == "unknown"


def test_a_look_up_does_not_read_the_catalogue(slots, plain, clock, catalog, key):
    other = catalog.create_key(plans=["gold"])
    with slot_limiter(slots, plain, clock) as limiter:
        assert limiter.check(other.value, STAGE, METHOD).allowed
        away = NodesAway(limiter, lambda name: name == NAMES.catalog)
        assert limiter.check(key.value, STAGE, METHOD).allowed
        assert not any(NAMES.catalog in names for names in away.requests)


def change(slots, plain, change_it):
    """Change something on the server without slots, and copy it."""
    with plain.client() as client:
        change_it(Catalog(client))
        copy_all(client, slots)


def test_a_key_met_before_needs_its_own_node_alone(slots, plain, clock, catalog, key):
    """Its record says that the value is still its own, also when the record has changed."""
    digest = catalog._namespace.digest(key.value)
    with slot_limiter(slots, plain, clock) as limiter:
        assert limiter.check(key.value, STAGE, METHOD).allowed
        NodesAway(limiter, lambda name: name in (NAMES.digest(digest), NAMES.catalog))
        assert limiter.check(key.value, STAGE, METHOD).allowed
        change(slots, plain, lambda catalog: catalog.update_key(key.id, name="another"))
        assert limiter.check(key.value, STAGE, METHOD).allowed  # the script says that the record has changed
        limiter._namespace.on_change_message(f"key:{key.id}")
        assert limiter.check(key.value, STAGE, METHOD).allowed  # forgotten, but who had the value is known
        change(slots, plain, lambda catalog: catalog.update_key(key.id, enabled=False))
        assert limiter.check(key.value, STAGE, METHOD).detail == "disabled"


def test_a_key_that_was_met_while_others_changed_needs_its_own_node_alone(slots, plain, clock, catalog, key):
    """What was read beside a push is not kept, but who had the value is known."""
    digest = catalog._namespace.digest(key.value)
    with slot_limiter(slots, plain, clock) as limiter:

        def push_beside(name):
            if name == NAMES.key_record(key.id):
                limiter._namespace.on_change_message("key:another")
            return False

        nodes = NodesAway(limiter, push_beside)
        assert limiter.check(key.value, STAGE, METHOD).allowed
        nodes.is_away = lambda name: name in (NAMES.digest(digest), NAMES.catalog)
        assert limiter.check(key.value, STAGE, METHOD).allowed


def test_a_key_never_met_needs_the_node_of_its_digest(slots, plain, clock, catalog, key):
    other = catalog.create_key(plans=["gold"])
    digest = catalog._namespace.digest(key.value)
    with slot_limiter(slots, plain, clock) as limiter:
        assert limiter.check(other.value, STAGE, METHOD).allowed
        NodesAway(limiter, lambda name: name == NAMES.digest(digest))
        assert limiter.check(key.value, STAGE, METHOD).status == 503
        assert limiter.check(other.value, STAGE, METHOD).allowed


def test_a_value_that_passed_to_another_key_is_looked_up_in_the_index(slots, plain, clock, catalog, key):
    """The record of the key that had it before does not name its digest any more."""
    with slot_limiter(slots, plain, clock) as limiter:
        assert limiter.check(key.value, STAGE, METHOD).allowed

        others = []

        def pass_on(catalog):
            catalog.rotate_key(key.id)
            others.append(catalog.create_key(value=key.value, plans=["gold"]).id)

        change(slots, plain, pass_on)
        assert limiter.check(key.value, STAGE, METHOD).allowed
        assert [limiter._checker.keys.get(key.value).record.id] == others


def test_a_newer_catalogue_is_loaded_before_a_key_is_said_to_have_no_plan(slots, plain, clock, catalog, key):
    with slot_limiter(slots, plain, clock, max_age=300) as limiter:
        assert limiter.check(key.value, STAGE, METHOD).allowed

        def join(catalog):
            catalog.put_plan(UsagePlan("silver", None, DAILY, ["another/prod"]))
            catalog.add_key_to_plan(key.id, "silver")

        change(slots, plain, join)
        assert limiter.check(key.value, "another/prod", METHOD).allowed


def test_a_key_that_left_the_known_catalogue_behind_is_503_while_that_cannot_be_read(slots, plain, clock, catalog, key):
    """Under every policy: nobody decides by limits that are known to be others."""
    with slot_limiter(slots, plain, clock, max_age=300, on_unavailable="open") as limiter:
        assert limiter.check(key.value, STAGE, METHOD).allowed

        def join(catalog):
            catalog.put_plan(UsagePlan("silver", None, DAILY, ["another/prod"]))
            catalog.add_key_to_plan(key.id, "silver")

        change(slots, plain, join)
        NodesAway(limiter, lambda name: name == NAMES.catalog)
        for stage in (STAGE, "another/prod"):
            decision = limiter.check(key.value, stage, METHOD)
            assert (decision.status, decision.source) == (503, "fail_closed")


@pytest.mark.parametrize("state", ["draft", "tombstone", "of a later version"])
def test_a_record_that_is_no_key_is_unknown(slots, plain, clock, key, state):
    with slot_limiter(slots, plain, clock) as limiter:
        name = NAMES.key_record(key.id)
        slots.admin.set(name, slots.admin.get(name).replace('"enabled":true', f'"enabled":false,"state":"{state}"'))
        assert limiter.check(key.value, STAGE, METHOD).detail == "unknown"


def test_an_entry_of_the_index_whose_record_is_absent_twice_is_lost(slots, plain, clock, key):
    with slot_limiter(slots, plain, clock, on_unavailable="open") as limiter:
        slots.admin.delete(NAMES.key_record(key.id))
        decision = limiter.check(key.value, STAGE, METHOD)
        assert (decision.status, decision.cause) == (503, "lost")
