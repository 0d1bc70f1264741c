"""What a process remembers of keys that exist and of values that do not, and how little a refusal reads."""

import asyncio

import pytest
from helpers.replica import FOREVER, METHOD, STAGE, replica
from helpers.waiting import wait_for
from properties.promises import look_ups
from properties.promises.look_ups import (
    ADMITTED,
    DISABLED,
    ELSEWHERE,
    GOLD,
    NO_PLAN,
    UNKNOWN,
    VALUE,
    administrator,
    ask,
    asking,
)

from ratelimit import AsyncLimiter, Catalog, Limiter, Throttle, UsagePlan
from ratelimit.local import key_cache
from ratelimit.registry.key_record import KeyRecord


@pytest.fixture
def catalog(backend, clock):
    with administrator(backend, clock) as made:
        yield made


@pytest.fixture
def limiter(backend, clock, catalog):
    """One that hears nothing, and has loaded the catalogue."""
    with replica(backend, clock=clock) as made:
        ask(made, "x" * 30)
        yield made


def counted(limiter):
    """How many requests were refused, by the reason that is counted."""
    return {reason: requests for (*_, reason), requests in limiter._checker.denials._counts.items()}


# Values that no key has


@pytest.mark.parametrize("message", ["key", "another key", "keys", "17", None])
def test_a_push_makes_a_new_key_known(backend, clock, message):
    """Of this key, of another, of many, of the catalogue, and a new subscription."""
    tell = {"key": lambda key: f"key:{key.id}", "another key": lambda _: "key:nobody"}.get(message, lambda _: message)
    look_ups.a_new_key_is_known_by_its_push(backend, clock, tell)


@pytest.mark.parametrize(
    "promise",
    [
        look_ups.a_new_key_is_known_within_a_second,
        look_ups.a_look_up_that_a_push_overtook_is_not_kept,
        look_ups.what_is_closed_is_never_remembered,
        look_ups.a_stamp_put_back_opens_nothing,
        look_ups.a_record_that_a_push_overtook_is_not_kept,
        look_ups.a_refusal_that_a_push_overtook_is_not_given,
        look_ups.a_newer_catalogue_is_loaded_before_a_refusal,
    ],
    ids=lambda promise: promise.__name__,
)
def test_what_is_remembered(backend, clock, promise):
    promise(backend, clock)


def test_a_stamp_put_back_opens_no_lease(backend, clock):
    """Nor does what a lease asks for."""
    look_ups.a_stamp_put_back_opens_nothing(
        backend, clock, UsagePlan("gold", Throttle("1/1000", 50), None, [STAGE], lease=1)
    )


def test_a_key_made_through_its_own_catalogue_is_known_at_once(limiter):
    """As it is with what its plan opens."""
    assert ask(limiter, VALUE) == UNKNOWN
    limiter.catalog.create_key(value=VALUE, plans=["gold"])
    assert ask(limiter, VALUE) == ADMITTED
    assert ask(limiter, "y" * 30) == UNKNOWN


def test_a_clock_that_goes_back_ends_it(limiter, catalog, clock):
    """What was asked for later than now says nothing of now."""
    assert ask(limiter, VALUE) == UNKNOWN
    catalog.create_key(value=VALUE, plans=["gold"])
    clock.advance_us(-1)
    assert ask(limiter, VALUE) == ADMITTED


def test_values_are_remembered_up_to_a_bound(limiter, monkeypatch):
    """Beyond, the oldest are looked up again."""
    monkeypatch.setattr(key_cache, "_MAX_ABSENT", 64)
    limiter._namespace.on_change_message("keys")
    values = [f"{number:030}" for number in range(200)]
    assert {ask(limiter, value) for value in values} == {UNKNOWN}
    assert len(limiter._checker.keys._absent) == 64
    with asking(limiter) as reads:
        ask(limiter, values[-1])
        ask(limiter, values[0])
    assert len(reads) == 1


def test_a_new_key_is_known_by_the_push_alone(server, clock):
    """Over the wire, both twins: by a clock that stands still, only the push can tell."""

    async def asked_until(twin, wanted):
        for _ in range(2000):
            if (await twin.check(VALUE, STAGE, METHOD)).status == wanted:
                return
            await asyncio.sleep(0.002)
        raise AssertionError(f"never {wanted}")

    async def both():
        with server.client() as client:
            catalog = Catalog(client, clock=clock)
            catalog.put_plan(GOLD)
            with Limiter.from_url(server.url, deadline=5, clock=clock, max_age=FOREVER) as limiter:
                async with AsyncLimiter.from_url(server.url, deadline=5, clock=clock, max_age=FOREVER) as twin:
                    assert ask(limiter, VALUE) == UNKNOWN
                    await asked_until(twin, 403)

                    def listening():
                        return client.pubsub_numsub("ratelimit:changes")[0][1] == 2

                    await asyncio.to_thread(wait_for, listening)
                    await asyncio.sleep(0.05)  # what the subscription itself ends is over
                    ask(limiter, VALUE)
                    await asked_until(twin, 403)
                    catalog.create_key(value=VALUE, plans=["gold"])
                    await asyncio.to_thread(wait_for, lambda: ask(limiter, VALUE) == ADMITTED)
                    await asked_until(twin, 200)

    asyncio.run(both())


# How little a refusal reads


def refusals(catalog, clock):
    """Keys that are refused, with the stage that is asked for and the reason."""
    disabled = catalog.create_key(plans=["gold"], enabled=False)
    expired = catalog.create_key(plans=["gold"], expires_at=clock() / 1e6 + 1)
    rotated = catalog.create_key(plans=["gold"])
    catalog.rotate_key(rotated.id, grace_s=1)
    return {
        "disabled": (disabled, STAGE, DISABLED),
        "made-up stage": (catalog.create_key(plans=["gold"]), ELSEWHERE, NO_PLAN),
        "without a plan": (catalog.create_key(), STAGE, NO_PLAN),
        "expired": (expired, STAGE, DISABLED),
        "rotated": (rotated, STAGE, UNKNOWN),
    }


KINDS = ["disabled", "made-up stage", "without a plan", "expired", "rotated"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_refusal_reads_one_field(limiter, catalog, clock, kind):
    """Of a key that was met: the stamp in its hash. Each refusal is counted with its reason."""
    key, stage, refused = refusals(catalog, clock)[kind]
    limiter._checker.denials.reset_after_fork()
    if kind in ("expired", "rotated"):
        assert [ask(limiter, key.value, stage) for _ in range(2)] == [ADMITTED] * 2
        clock.advance(1)
    assert ask(limiter, key.value, stage) == refused
    with asking(limiter) as reads:
        assert [ask(limiter, key.value, stage) for _ in range(3)] == [refused] * 3
    assert reads == [[("HGET", limiter._namespace.names.key_hash(key.id), "r")]] * 3
    assert counted(limiter) == {refused[1]: 4}


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_that_was_not_heard_is_seen(limiter, catalog, clock, kind):
    """The stamp is another one: the record is read anew, and the very next check goes by it."""
    key, stage, refused = refusals(catalog, clock)[kind]
    if kind in ("expired", "rotated"):
        ask(limiter, key.value, stage)
        clock.advance(1)
    assert [ask(limiter, key.value, stage) for _ in range(2)] == [refused] * 2
    if kind == "rotated":
        catalog.delete_key(key.id)
        catalog.create_key(value=key.value, plans=["gold"])
    elif kind == "made-up stage":
        catalog.put_plan(UsagePlan("other", GOLD.throttle, None, [ELSEWHERE]))
        catalog.add_key_to_plan(key.id, "other")
    elif kind == "without a plan":
        catalog.add_key_to_plan(key.id, "gold")
    else:
        catalog.update_key(key.id, enabled=True, expires_at=None)
    assert ask(limiter, key.value, stage) == ADMITTED


def test_an_expired_key_opens_again_when_the_clock_was_set_back(limiter, catalog, clock):
    """The script is asked again: at once by an injected clock, else after `max_age`."""
    key = catalog.create_key(plans=["gold"], expires_at=clock() / 1e6 + 1)
    ask(limiter, key.value)
    clock.advance(1)
    assert [ask(limiter, key.value) for _ in range(2)] == [DISABLED] * 2
    clock.advance(-1)
    assert ask(limiter, key.value) == ADMITTED


def test_what_a_server_lost_is_looked_for_once(limiter, backend, catalog):
    """A key that was charged under a catalogue that is gone: one look, not one with each refusal."""
    key = catalog.create_key(plans=["gold"])
    name = limiter._namespace.names.key_hash(key.id)
    with backend.client() as client:
        r = client.hget(name, "r").decode()
        client.hset(name, "r", f"{r[:8]}{int(r[8:18]) + 7:010}{r[18:]}")
    with asking(limiter) as reads:
        assert [ask(limiter, key.value, ELSEWHERE) for _ in range(3)] == [NO_PLAN] * 3
    assert [command[0] for request in reads for command in request] == [
        *("HMGET", "MGET", "GET", "HGET", "HGETALL"),
        *("HGET", "HGET"),
    ]


# What is kept of keys


def test_each_value_is_found_by_its_keys_id(limiter, catalog, monkeypatch):
    """However many keys are met, pushed and pushed out: as many values as records, and none that is not current."""
    monkeypatch.setattr(key_cache, "_MAX_KEYS", 64)
    cache = limiter._checker.keys
    keys = [catalog.create_key(plans=["gold"]) for _ in range(100)]
    met = []
    for key in keys:
        assert ask(limiter, key.value) == ADMITTED
        met.append(cache.get(key.value))
    assert len(cache._by_value) == 64
    assert [cached_key.is_valid for cached_key in met] == [False] * 36 + [True] * 64
    for key in keys[::2]:
        limiter._namespace.on_change_message(f"key:{key.id}")
    assert [cached_key.is_valid for cached_key in met] == [False] * 36 + [False, True] * 32
    assert sorted(cache._values_by_id) == sorted(key.id for key in keys[37::2])
    assert [value for values in cache._values_by_id.values() for value in values] == list(cache._by_value)


def test_a_push_drops_all_values_of_a_key(limiter, catalog):
    """The old one and the new one of a rotated key; another key stays."""
    key, other = catalog.create_key(plans=["gold"]), catalog.create_key(plans=["gold"])
    new = catalog.rotate_key(key.id, grace_s=60)
    values = key.value, new.value, other.value
    assert [ask(limiter, value) for value in values] == [ADMITTED] * 3
    cache = limiter._checker.keys
    met = [cache.get(value) for value in values]
    limiter._namespace.on_change_message(f"key:{key.id}")
    assert [cached_key.is_valid for cached_key in met] == [False, False, True]
    assert list(cache._by_value) == [other.value]
    assert cache._values_by_id == {other.id: (other.value,)}


def test_what_is_read_again_and_is_the_same_stays(limiter, catalog):
    """So that threads which meet a key at once do not take it from each other."""
    key = catalog.create_key(plans=["gold"])
    cache = limiter._checker.keys
    assert ask(limiter, key.value) == ADMITTED
    before = cache.get(key.value)
    assert limiter._store.run(cache.look_up(key.value, None)) is before
    assert before.is_valid
    catalog.update_key(key.id, name="renamed")
    after = limiter._store.run(cache.look_up(key.value, before))
    assert (before.is_valid, after.is_valid, after.record.name) == (False, True, "renamed")


# What the index holds


def test_an_entry_may_have_a_token(limiter, catalog, backend):
    """`<id>:<token>` names a key as `<id>` does."""
    key = catalog.create_key(plans=["gold"])
    with backend.client() as client:
        name = limiter._namespace.names.digest(limiter._namespace.digest(key.value))
        client.set(name, f"{key.id}:Tok-_123")
    assert ask(limiter, key.value) == ADMITTED


def test_a_key_that_is_not_live_is_unknown_and_not_remembered(limiter, catalog, monkeypatch):
    """Its value is in the index: it may be live at any moment."""
    key = catalog.create_key(plans=["gold"])
    with monkeypatch.context() as patched:
        patched.setattr(KeyRecord, "is_live", property(lambda _: False))
        assert ask(limiter, key.value) == UNKNOWN
    assert ask(limiter, key.value) == ADMITTED
