"""Redis lost what it should hold: the catalogue, a key's record, a key's hash. 503 and "lost", never 403."""

import pytest

from ratelimit import Catalog, Limiter, Method, Quota, Stage, StoreError, Throttle, UsagePlan
from ratelimit.local.key_cache import KeyCache
from ratelimit.scripts import ScriptCall, load

STAGE, METHOD, OPEN = "petstore/prod", "GET /pets", "GET /health"
CATALOG = "{ratelimit}:catalog"
LOST = ("fail_closed", 503, "lost")


def outcome(decision):
    return decision.source, decision.status, decision.cause


@pytest.fixture
def client(backend):
    with backend.client() as client:
        yield client


@pytest.fixture
def key(client):
    catalog = Catalog(client)
    catalog.put_plan(UsagePlan("gold", Throttle(1, 5), Quota(100, "DAY"), [STAGE]))
    catalog.put_stage(Stage(STAGE, methods={OPEN: Method(key_required=False)}))
    return catalog.create_key(plans=["gold"])


def hash_of(key):
    return f"ratelimit:{{{key.id}}}"


def record_of(key):
    return f"{hash_of(key)}:record"


REQUESTS = {
    "a key": lambda key: (key.value, STAGE, METHOD),
    "an unknown key": lambda _: ("x" * 30, STAGE, METHOD),
    "what is no key": lambda _: ("x", STAGE, METHOD),
    "no key": lambda _: (None, STAGE, METHOD),
    "a method that needs none": lambda _: (None, STAGE, OPEN),
}


@pytest.mark.parametrize("what", ["all", "the catalogue"])
@pytest.mark.parametrize("request_", REQUESTS)
def test_a_process_that_starts_without_a_catalogue(request_, what, client, key):
    """Nobody is unknown, nobody is missing, and nothing is open; once the catalogue is back, all is as it was."""
    request = REQUESTS[request_](key)
    with Limiter(client, deadline=5) as limiter:
        limiter.catalog.plans()  # reading it by hand is no check
        dump = client.dump(CATALOG)
        if what == "all":
            client.flushall()
        else:
            client.delete(CATALOG)
        with Limiter(client, deadline=5) as new:
            for decision in (new.check(*request), new.check(*request), new.peek(*request)):
                assert outcome(decision) == LOST
                assert decision.error.startswith("there is no catalogue in namespace 'ratelimit': apply a plan file")
            client.restore(CATALOG, 0, dump)
            assert new.check(*request).cause is None


def test_a_namespace_in_which_nothing_was_ever_applied(client):
    """The same, and administrators read and write it as before."""
    with Limiter(client, deadline=5) as limiter:
        assert limiter.catalog.plans() == []
        assert outcome(limiter.check(None, STAGE, OPEN)) == LOST
        assert limiter.catalog.plans() == []
        limiter.catalog.put_stage(Stage(STAGE, methods={OPEN: Method(key_required=False)}))
        assert limiter.check(None, STAGE, OPEN).allowed
        assert limiter.check(None, STAGE, METHOD).detail == "missing"


def test_a_catalogue_that_is_lost_while_a_process_runs(client, key):
    """As soon as it looks, which a restart has it do."""
    with Limiter(client, deadline=5) as limiter:
        assert limiter.check(key.value, STAGE, METHOD).allowed
        client.flushall()
        limiter._namespace.on_change_message(None)
        for request in REQUESTS.values():
            decision = limiter.check(*request(key))
            assert outcome(decision) == LOST
            assert "was here and is gone" in decision.error


@pytest.mark.parametrize("state", ["new", "warm"])
def test_a_record_that_is_lost(state, client, key):
    """The index names a key that has none."""
    with Limiter(client, deadline=5) as limiter:
        if state == "warm":
            assert limiter.check(key.value, STAGE, METHOD).allowed
            client.hdel(hash_of(key), "r")
        client.delete(record_of(key))
        for decision in (limiter.check(key.value, STAGE, METHOD), limiter.peek(key.value, STAGE, METHOD)):
            assert outcome(decision) == LOST
            assert f"'{record_of(key)}'" in decision.error
            assert key.value not in decision.error


def test_a_key_that_is_deleted_while_it_is_looked_up(client, key, monkeypatch):
    """Between its entry in the index and its record: it is unknown, and nothing is lost."""
    queries = KeyCache._record_queries

    def deleting(cache, key_id):
        if client.exists(record_of(key)):
            Catalog(client).delete_key(key.id)
        return queries(cache, key_id)

    monkeypatch.setattr(KeyCache, "_record_queries", deleting)
    with Limiter(client, deadline=5) as limiter:
        decision = limiter.check(key.value, STAGE, METHOD)
        assert (decision.status, decision.detail) == (403, "unknown")


@pytest.mark.parametrize("state", ["new", "warm"])
@pytest.mark.parametrize("loss", ["the hash", "its token", "a part of its token"])
def test_a_hash_that_is_lost(loss, state, client, key):
    """Said once, within one round; the next check finds it, with full limits."""
    with Limiter(client, deadline=5) as limiter:
        if state == "warm":
            assert limiter.check(key.value, STAGE, METHOD).limits[0].remaining == 4
        if loss == "the hash":
            client.delete(hash_of(key))
        elif loss == "its token":
            client.hdel(hash_of(key), "r")
        else:
            client.hset(hash_of(key), "r", "epoch")
        before = client.dump(hash_of(key))
        assert outcome(limiter.peek(key.value, STAGE, METHOD)) == LOST
        assert client.dump(hash_of(key)) == before  # a peek writes nothing
        decision = limiter.check(key.value, STAGE, METHOD)
        assert outcome(decision) == LOST
        assert f"Redis has lost the hash '{hash_of(key)}' of a key" in decision.error
        decision = limiter.check(key.value, STAGE, METHOD)
        assert decision.allowed
        kept = state == "warm" and loss != "the hash"
        assert decision.limits[0].remaining == (3 if kept else 4)


def test_a_lost_hash_costs_one_round(server, key, client):
    """The check, a look at the key, the repair: three round trips, six commands."""
    with Limiter(client, deadline=5) as limiter:
        limiter._namespace.before_refresh = lambda: None  # without a push that has the catalogue read
        assert limiter.check(key.value, STAGE, METHOD).allowed
        client.delete(hash_of(key))
        requests = []
        execute = limiter._store._execute

        def counted(request, wait):
            requests.append(request)
            return execute(request, wait)

        limiter._store._execute = counted
        assert outcome(limiter.check(key.value, STAGE, METHOD)) == LOST
        assert [len(request) if isinstance(request, list) else 1 for request in requests] == [4, 1]


def test_a_disabled_key_without_hash_is_disabled(client, key):
    """It opens nothing, whatever was lost."""
    Catalog(client).update_key(key.id, enabled=False)
    client.delete(hash_of(key))
    with Limiter(client, deadline=5) as limiter:
        assert limiter.check(key.value, STAGE, METHOD).detail == "disabled"
    assert not client.exists(hash_of(key))


TOKEN = "epoch--10000000001stamp--1"


@pytest.mark.parametrize(
    ("record", "token", "repaired"),
    [
        ("text", None, 1),
        ("text", "short", 1),
        ("text", "epoch--10000000002stamp--1", 0),
        ("another", None, 0),
        (None, None, 0),
    ],
)
def test_what_is_repaired(record, token, repaired, client):
    """A hash without version token, if the record is the one that was read: a key that was deleted stays so."""
    if record is not None:
        client.set("ratelimit:{k}:record", record)
    if token is not None:
        client.hset("ratelimit:{k}", "r", token)
    assert client.eval(load("repair").source, 1, "ratelimit:{k}", "text", TOKEN) == repaired
    expected = TOKEN if repaired else token
    assert client.hget("ratelimit:{k}", "r") == (None if expected is None else expected.encode())


def test_a_delete_between_look_and_repair_is_not_undone(client, key, monkeypatch):
    """The repair finds no record, and the key is unknown from then on."""
    repair = KeyCache._repair_hash

    def deleted(cache, *args, **options):
        Catalog(client).delete_key(key.id)
        return repair(cache, *args, **options)

    client.delete(hash_of(key))
    monkeypatch.setattr(KeyCache, "_repair_hash", deleted)
    with Limiter(client, deadline=5) as limiter:
        assert limiter.check(key.value, STAGE, METHOD).detail == "unknown"
    assert not client.exists(hash_of(key))


def test_a_repair_that_is_refused_says_so(client, key, monkeypatch):
    def refuse(*_):
        raise StoreError("no more memory")
        yield

    client.delete(hash_of(key))
    with Limiter(client, deadline=5) as limiter:
        execute = limiter._store._execute

        def execute_unless_repair(request, wait):
            is_repair = isinstance(request, ScriptCall) and request.script is load("repair")
            return next(refuse()) if is_repair else execute(request, wait)

        monkeypatch.setattr(limiter._store, "_execute", execute_unless_repair)
        decision = limiter.check(key.value, STAGE, METHOD)
        assert outcome(decision) == LOST
        assert decision.error.endswith("it cannot be made anew: no more memory")
