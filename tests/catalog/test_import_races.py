"""Import of keys from CSV: how it goes about Redis, what others do meanwhile, and what an interruption leaves."""

import asyncio
import json
import threading
from collections import Counter

import pytest
from helpers.gateway import A
from helpers.interception import InterceptedCatalog, before_script
from helpers.key_files import GOLD, MANY, TENANTS, file, stored, with_plans

from ratelimit import AsyncCatalog, Catalog, Conflict, StoreError, Throttle, UsagePlan
from ratelimit.scripts import ScriptCall

pytestmark = pytest.mark.usefixtures("three_plans")


@pytest.fixture
def rival(backend, clock, catalog):
    """Another administrator of the same catalogue."""
    with backend.client() as made:
        yield Catalog(made, clock=clock)


def test_round_trips(catalog):
    """150 new rows are 3 batches: each is one prepared and one script of 3 commands a row and 4 more."""
    catalog._run(catalog._namespace.find_slots())  # asked once
    intercepted = InterceptedCatalog(catalog)
    catalog.import_keys(file(MANY))
    load, *batches = intercepted.requests
    assert load == [("HGETALL", "{ratelimit}:catalog")]
    assert [(len(look), look[0][0], len(look[0])) for look in batches[::2]] == [
        (1, "MGET", n + 1) for n in (64, 64, 22)
    ]
    scripts = [[len(json.loads(part)) for part in call.args] for call in batches[1::2]]
    assert scripts == [[2 * n + 2, 3 * n + 4] for n in (64, 64, 22)]


def test_a_new_pepper_is_noted_once(client):
    """The first batch that stores keys under a new pepper says so in the catalogue; the others need not."""
    client.flushall()
    with_plans(Catalog(client, pepper="old"))
    catalog = Catalog(client, pepper=["new", "old"])
    intercepted = InterceptedCatalog(catalog)
    catalog.import_keys(file(MANY))
    scripts = [request.args[1] for request in intercepted.requests if isinstance(request, ScriptCall)]
    assert ['"pepper"' in commands for commands in scripts] == [True, False, False]


def test_progress(twin):
    """It is called with all rows, good and bad, after each batch."""
    seen = []
    twin.import_keys(file(MANY + "short,a,\n"), progress=seen.append)
    assert seen == [64, 128, 151]


def test_another_makes_a_key_of_the_same_value(catalog, rival, client):
    """Made between the look and the script: the row updates that key, and only its batch starts over."""
    made = []
    intercepted = InterceptedCatalog(
        catalog, before_script(lambda: made.append(rival.create_key("rival", "tenantNumber000000000100")))
    )
    report = catalog.import_keys(file(MANY))
    assert intercepted.scripts == 4
    assert report.ids[100] == made[0].id
    assert (report.created, report.updated, len(report.ids)) == (149, 1, 150)
    assert stored(catalog, report)[100] == ("tenant 100", True, ("gold01",), "")
    assert client.zcard("{ratelimit}:keys") == 150


def test_another_changes_a_key(catalog, rival):
    """Changed between the look and the script: both changes are there in the end."""
    key = catalog.create_key("old", "tenantNumber000000000100", ["trial7"])
    intercepted = InterceptedCatalog(
        catalog, before_script(lambda: rival.update_key(key.id, owner="rival", name="rival"))
    )
    catalog.import_keys(file(MANY))
    assert intercepted.scripts == 4
    stored = catalog.get_key(key.id)
    assert (stored.name, stored.owner, stored.plans) == ("tenant 100", "rival", ("gold01",))


def test_another_deletes_a_key(catalog, rival, client):
    """Deleted between the look and the script: the row makes a new one."""
    key = catalog.create_key("old", "tenantNumber000000000100")
    InterceptedCatalog(catalog, before_script(lambda: rival.delete_key(key.id)))
    report = catalog.import_keys(file(MANY))
    assert key.id not in report.ids
    assert (report.created, report.updated) == (150, 0)
    assert client.scard("{ratelimit}:plan:gold01:keys") == 150


def test_another_changes_plans(catalog, rival, client):
    """A plan that changes meanwhile starts the batch over, so that no key's hash falls back to the older version."""
    intercepted = InterceptedCatalog(
        catalog, before_script(lambda: rival.put_plan(UsagePlan("gold01", Throttle(1, 1), stages=[A])))
    )
    report = catalog.import_keys(file(MANY))
    assert intercepted.scripts == 4
    versions = Counter(client.hget(f"ratelimit:{{{key_id}}}", "r")[8:18] for key_id in report.ids)
    assert versions == {b"0000000003": 64, b"0000000004": 86}


@pytest.mark.parametrize("flag", [False, True], ids=["", "fail_on_warnings"])
def test_another_removes_a_plan(flag, catalog, rival):
    """Rows that were to join a plan that is gone meanwhile are stored without it, and warned of: with either flag."""
    InterceptedCatalog(catalog, before_script(lambda: rival.delete_plan("trial7")))
    report = catalog.import_keys(file(MANY.replace("0149,tenant 149,gold01", "0149,tenant 149,trial7")), flag)
    assert len(report.ids) == report.created == 150
    assert [(warning.line, warning.message[:22]) for warning in report.warnings] == [(151, "UsagePlanIds: 'trial7'")]
    assert catalog.get_key(report.ids[-1]).plans == ()


def test_others_who_never_rest(catalog, rival, client):
    """After 16 tries the batch is given up and the error says so; what is stored is stored, and can be built on."""
    InterceptedCatalog(catalog, lambda number: rival.put_plan(UsagePlan(f"p{number}")) if number > 1 else None)
    with pytest.raises(Conflict, match="others changed the catalogue 16 times meanwhile"):
        catalog.import_keys(file(MANY))
    assert client.zcard("{ratelimit}:keys") == 64
    report = rival.import_keys(file(MANY))
    assert (report.created, report.updated) == (86, 64)


def test_an_interrupted_import_is_repeated(twin, client):
    """An import that ends in its middle leaves whole batches; the second run makes the rest."""

    def interrupt(done):
        if done == 128:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        twin.import_keys(file(MANY), progress=interrupt)
    assert client.zcard("{ratelimit}:keys") == 128
    report = twin.import_keys(file(MANY))
    assert (report.created, report.updated, len(report.ids)) == (22, 128, 150)
    assert client.scard("{ratelimit}:plan:gold01:keys") == 150


def test_an_error_of_redis_says_how_far_the_import_went(server, clock):
    """The error is the caller's, with a note of what is done; once Redis has memory again, the rest is stored."""
    with server.client() as client:
        catalog = Catalog(client, clock=clock)
        catalog.put_plan(GOLD)
        try:
            with pytest.raises(StoreError) as caught:
                catalog.import_keys(file(MANY), progress=lambda _: client.config_set("maxmemory", 1))
        finally:
            client.config_set("maxmemory", 0)
        assert caught.value.__notes__ == ["the first 64 rows of the file are done; import it again to go on"]
        assert client.zcard("{ratelimit}:keys") == 64
        report = catalog.import_keys(file(MANY))
        assert (report.created, report.updated) == (86, 64)


def test_two_import_the_same_file_at_once(server):
    """Whoever comes first makes a key, the other finds it: 300 values are 300 keys, and both report the same ids."""
    text = MANY + TENANTS.replace("Number", "Letter")
    reports, ready = [], threading.Barrier(2)

    def run():
        with server.client() as client:
            ready.wait()
            reports.append(Catalog(client).import_keys(file(text)))

    with server.client() as client:
        Catalog(client).put_plan(GOLD)
        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert reports[0].ids == reports[1].ids
        assert sum(report.created for report in reports) == 300
        assert (client.zcard("{ratelimit}:keys"), client.scard("{ratelimit}:plan:gold01:keys")) == (300, 300)
        assert len(client.keys("ratelimit:digest:*")) == 300


@pytest.mark.asyncio
async def test_an_event_loop_goes_on(server):
    """Others run between any two batches, while the file is checked and while it is stored."""
    turns, seen = 0, []

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with server.async_client() as client:
        catalog = AsyncCatalog(client)
        await catalog.put_plan(GOLD)
        task = asyncio.create_task(others())
        began = turns
        await catalog.import_keys(file(MANY), progress=lambda _: seen.append(turns))
        task.cancel()
    assert seen[0] - began > 3
    assert seen[0] < seen[1] < seen[2]
