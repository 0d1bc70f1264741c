"""Import of keys from CSV where keys lie in slots: each row is stored whole or not at all, whoever crashes or comes."""

import asyncio
from dataclasses import replace

import pytest
from helpers.agreement import contents, disagreements
from helpers.gateway import A, B
from helpers.interception import InterceptedCatalog, Interrupted, Killed, intercepted_steps
from helpers.key_files import ALPHA, BETA, DELTA, GAMMA, file, with_plans

from ratelimit import AsyncCatalog, Catalog, ConfigError, Limiter, StoreUnavailable, Throttle, UsagePlan
from ratelimit.admin.csv import batch_by_slot
from ratelimit.effects import Primaries
from ratelimit.registry.ceilings import Ceilings

RECORD = "ratelimit:{%s}:record"
HEADER = "Key,Name,Enabled,UsagePlanIds\n"
BEFORE = f"{HEADER}{ALPHA},alpha,true,gold01\n{BETA},beta,true,gold01\n{DELTA},delta,true,trial7\n"
FILE = (
    f"{HEADER}{ALPHA},renamed,false,\n{BETA},beta,true,trial7\n{GAMMA},gamma,true,gold01\n{DELTA},delta,true,trial7\n"
)
"""A key is renamed and disabled, one moves, one is new, one stays as it is."""


@pytest.fixture
def client(slots):
    with slots.client() as made:
        yield made


def many(count):
    return HEADER + "".join(f"tenantNumber{i:012},tenant {i},true,gold01\n" for i in range(count))


def after_both(client):
    """The keys after both files, with nothing in between. Empties the server, before and after."""
    client.flushall()
    catalog = with_plans(Catalog(client))
    for text in (BEFORE, FILE):
        catalog.import_keys(file(text))
    found = contents(client)
    client.flushall()
    return found


def test_round_trips(catalog, client):
    """Of 1,000 new rows: each batch of 500 is read in one, and stored in five; so 100,000 rows take 1,203."""
    intercepted = InterceptedCatalog(catalog)
    report = catalog.import_keys(file(many(1000)))
    assert (report.created, report.updated, report.warnings) == (1000, 0, ())
    load, primaries, script, *batches = intercepted.requests
    assert load == [("HGETALL", "{ratelimit}:catalog")]
    assert isinstance(primaries, Primaries)
    assert script[0][:2] == ("SCRIPT", "LOAD")
    assert len(batches) == 12
    for batch in (batches[:6], batches[6:]):
        assert [len(request) for request in batch] == [500, 500, 500, 500, 500, 501]
        assert {request[0][0] for request in batch[1:]} == {"EVALSHA"}
    assert disagreements(client) == []
    assert client.zcard("{ratelimit}:keys") == 1000


def test_the_same_as_on_one_server(catalog, client, valkey):
    """The same reports, warnings and errors, and the same keys."""
    files = [
        BEFORE,
        FILE,
        f"{HEADER}{ALPHA},a,maybe,\nshort,b,true,\n{GAMMA},c,true,nothing\n{GAMMA},d,true,gold01 other3\n",
        f"{HEADER}{ALPHA},first,true,trial7\n{ALPHA},last,true,gold01\n",
        "Name\nx\n",
    ]

    def outcome(catalog, text, **keywords):
        try:
            report = catalog.import_keys(file(text), **keywords)
        except ConfigError as error:
            return str(error)
        return replace(report, ids=len(report.ids))

    with valkey.client() as other_client:
        other = with_plans(Catalog(other_client))
        for text in files:
            for keywords in ({"fail_on_warnings": True}, {}):
                assert outcome(catalog, text, **keywords) == outcome(other, text, **keywords)
                assert contents(client) == contents(other_client)
    assert disagreements(client) == []


def test_keys_are_in_force(catalog, slots):
    """What an import makes and changes holds for gateways, at once."""
    catalog.import_keys(file(BEFORE))
    with slots.client() as made, Limiter(made, deadline=5, on_unavailable="closed") as limiter:
        assert limiter.check(GAMMA, A, "GET /pets").detail == "unknown"
        assert limiter.check(ALPHA, A, "GET /pets").allowed
        assert limiter.check(BETA, A, "GET /pets").allowed
        catalog.import_keys(file(FILE))
        assert limiter.check(ALPHA, A, "GET /pets").detail == "disabled"
        assert limiter.check(BETA, A, "GET /pets").detail == "no_plan_for_stage"
        assert limiter.check(BETA, B, "GET /pets").allowed


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_each_request(client, slots, after):
    """Run again it finishes; and once repaired, nothing is left half done."""
    number, expected = 0, after_both(client)
    while True:
        client.flushall()
        catalog = with_plans(Catalog(client))
        first = catalog.import_keys(file(BEFORE))
        interrupted = Interrupted(catalog, number, after=after)
        try:
            catalog.import_keys(file(FILE))
        except Killed:
            pass
        else:
            assert number == interrupted.count > 8
            return
        with slots.client() as other:
            again = Catalog(other)
            report = again.import_keys(file(FILE))
            assert (report.ids[0], report.ids[1], report.ids[3], report.warnings) == (*first.ids, ())
            assert contents(client) == expected
            again.doctor(repair=True)  # for the drafts that nothing led to
        assert disagreements(client) == []
        number += 1


@pytest.mark.parametrize("number", range(12))
def test_another_imports_the_same_meanwhile(catalog, client, slots, number):
    """Before each request in turn another stores the same file: each value has one key in the end, and both say so."""
    expected, reports = after_both(client), []
    with_plans(catalog).import_keys(file(BEFORE))

    def rival():
        with slots.client() as other:
            reports.append(Catalog(other).import_keys(file(FILE)))

    Interrupted(catalog, number, rival)
    report = catalog.import_keys(file(FILE))
    assert (len(report.ids), report.warnings) == (4, ())
    assert contents(client) == expected
    assert disagreements(client) == []
    assert [each.ids for each in reports] == len(reports) * [report.ids]


def test_plans_change_meanwhile(catalog, client, slots):
    """A plan that is changed between the look and the steps: what was begun is undone, and done by the new plans."""

    def change():
        with slots.client() as other:
            Catalog(other).put_plan(UsagePlan("new", Throttle(1, 1)))

    Interrupted(catalog, 5, change)
    report = catalog.import_keys(file(many(20)))
    assert (report.created, len(report.ids)) == (20, 20)
    assert len(contents(client)) == 20
    assert disagreements(client) == []


@pytest.mark.parametrize("is_away_later", [False, True])
def test_what_cannot_be_finished_is_undone(catalog, client, is_away_later):
    """When nodes are away: a tombstone expires if nothing names its key any more, else it stays for a repair."""

    def answer(number, step, carry_out):
        if number == 4:
            return [StoreUnavailable("away") for _ in step]  # the records are not written
        if number == 6 and is_away_later:
            return [StoreUnavailable("away"), *carry_out(step[1:])]
        return carry_out(step)

    with intercepted_steps(catalog, answer) as steps, pytest.raises(StoreUnavailable):
        catalog.import_keys(file(many(3)))
    assert steps == [3, 3, 3, 3, 3, 6, 2 if is_away_later else 3]
    expiries = sorted(client.ttl(name) for name in client.keys(RECORD % "*"))
    assert [expiry > 0 for expiry in expiries] == [not is_away_later, True, True]
    catalog.doctor(repair=True)
    assert disagreements(client) == []


def test_a_row_that_is_undone_after_another_took_its_value(catalog, client):
    """Nothing is left of its claim, so its tombstone expires."""

    def answer(number, step, carry_out):
        if number == 4:
            return [StoreUnavailable("away") for _ in step]  # the records are not written
        if number == 6:
            (name,) = client.keys("ratelimit:digest:*")
            client.set(name, "nobody1234:token123")  # the rival's: the tombstone stands, so the claim is dead
        return carry_out(step)

    with intercepted_steps(catalog, answer), pytest.raises(StoreUnavailable):
        catalog.import_keys(file(many(1)))
    (name,) = client.keys(RECORD % "*")
    assert client.ttl(name) > 0


def test_dead_claims(catalog, client):
    """Of a key that was never made, or is deleted, or has another value by now: the value is free."""
    report = catalog.import_keys(file(f"{HEADER}{ALPHA},a,true,gold01\n{BETA},b,true,gold01\n{GAMMA},c,true,gold01\n"))
    claims = {key_id: name for name in client.keys("ratelimit:digest:*") for key_id in _claimed(client, name)}
    stored = {key_id: client.get(claims[key_id]) for key_id in report.ids}
    catalog.delete_key(report.ids[0])
    catalog.rotate_key(report.ids[1])
    for key_id in report.ids[:2]:
        client.set(claims[key_id], stored[key_id])
    client.set(claims[report.ids[2]], "nobody1234:token123")
    client.unlink(RECORD % report.ids[2])
    again = catalog.import_keys(file(f"{HEADER}{ALPHA},a,true,gold01\n{GAMMA},c,true,gold01\n"))
    assert (again.created, again.warnings) == (2, ())
    assert not set(again.ids) & set(report.ids)
    assert {_claimed(client, claims[key_id])[0] for key_id in report.ids[::2]} == set(again.ids)


def _claimed(client, name):
    return [client.get(name).decode().partition(":")[0]]


def test_a_claim_that_changes_meanwhile(catalog, client, slots):
    """Dead when it was read, and another's by now: it is not written over, and the row is looked at again."""
    catalog.import_keys(file(f"{HEADER}{ALPHA},a,true,gold01\n"))
    (name,) = client.keys("ratelimit:digest:*")
    catalog.delete_key(catalog.list_keys().items[0].id)
    client.set(name, "nobody1234:token123")
    made = []

    def rival():
        with slots.client() as other:
            made.append(Catalog(other).create_key("rival", ALPHA))

    Interrupted(catalog, 6, rival)
    report = catalog.import_keys(file(f"{HEADER}{ALPHA},a,true,gold01\n"))
    assert (report.created, report.updated, report.ids) == (0, 1, (made[0].id,))
    assert disagreements(client) == []


def test_a_ceiling_on_keys(client, catalog):
    """As many as there may be are stored, in the order of the file."""
    catalog.ceilings = Ceilings(keys=7)
    report = catalog.import_keys(file(many(10)))
    assert (report.created, len(report.warnings)) == (7, 3)
    assert client.zcard("{ratelimit}:keys") == 7
    assert disagreements(client) == []


def test_on_asyncio(slots, client, catalog):
    async def run():
        async with slots.async_client() as made:
            return await AsyncCatalog(made).import_keys(file(FILE))

    catalog.import_keys(file(BEFORE))
    report = asyncio.run(run())
    assert (report.created, report.updated) == (1, 3)
    assert disagreements(client) == []


def test_progress_by_batches(catalog, monkeypatch):
    monkeypatch.setattr(batch_by_slot, "_ROWS_BY_SLOT", 4)
    seen = []
    catalog.import_keys(file(many(10)), progress=seen.append)
    assert seen == [4, 8, 10]
