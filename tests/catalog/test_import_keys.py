"""Import of keys from CSV: what is stored and what is reported. Rows C06 to C08 of the conformance matrix are here."""

import io
import json
from dataclasses import replace
from pprint import pformat

import pytest
from helpers.gateway import GET_PETS, OK, A, exceeded, invalid, outcome, throttled
from helpers.key_files import ALPHA, BETA, DELTA, GAMMA, GOLD, MANY, file, stored
from helpers.redis_snapshot import snapshot

from ratelimit import Catalog, ConfigError, Limiter, Quota, UsagePlan
from ratelimit.admin.csv.format import RowWarning
from ratelimit.admin.csv.transfer import ImportReport

pytestmark = pytest.mark.usefixtures("three_plans")


TWO_COLUMNS = f"Key,NAME\n{ALPHA},alpha\n"
ALL_COLUMNS = f"""name , ENABLED, key, usageplanids, Team, description
beta, FALSE, {BETA}, "gold01,trial7", ignored, two plans; key off
gamma, tRuE, {GAMMA}, 'gold01,trial7', ignored,
delta,, {DELTA}, gold01, ignored, enabled by default
"""
ONE_BAD = f"Name,Key\nshort,tooShortKey\nok,{ALPHA}\n"
CASES = {
    "C06 two columns": (TWO_COLUMNS, [("alpha", True, (), "")], ()),
    "C06 any order and case, padded, both quotes, unknown column": (
        ALL_COLUMNS,
        [
            ("beta", False, ("gold01", "trial7"), "two plans; key off"),
            ("gamma", True, ("gold01", "trial7"), ""),
            ("delta", True, ("gold01",), "enabled by default"),
        ],
        (),
    ),
    "C06 BOM, CRLF, blank lines at the end": (
        f"\ufeffKey,Name\r\n{ALPHA},alpha\r\n\r\n\r\n",
        [("alpha", True, (), "")],
        (),
    ),
    "C06 second plan of one stage": (
        f"Key,Name,UsagePlanIds\n{ALPHA},alpha,'gold01,other3,trial7'\n",
        [("alpha", True, ("gold01", "trial7"), "")],
        (
            RowWarning(
                2,
                "UsagePlanIds: plans 'gold01' and 'other3' of the list both open stage 'a/prod', "
                "so the second was dropped: leave one of them out",
            ),
        ),
    ),
    "C06 unknown plan": (
        f"Key,Name,UsagePlanIds\n{ALPHA},alpha,'ghost,trial7'\n",
        [("alpha", True, ("trial7",), "")],
        (
            RowWarning(
                2,
                "UsagePlanIds: 'ghost', number 1 of the list, is no plan and was dropped: "
                "correct it, or make the plan and import again",
            ),
        ),
    ),
    "C08 bad row": (
        ONE_BAD,
        [("ok", True, (), "")],
        (RowWarning(2, "Key has 11 characters: give it 20 to 128"),),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_files_of_the_matrix(name, twin):
    """C06, C08: what each file stores, and what it draws in warnings."""
    text, expected, warnings = CASES[name]
    report = twin.import_keys(file(text))
    assert stored(twin, report) == expected
    assert report == ImportReport(report.ids, warnings, created=len(expected), updated=0)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case[2]])
def test_fail_on_warnings_stores_nothing(name, twin, client):
    """C08: a single warning, and all of Redis is as it was."""
    text, _, warnings = CASES[name]
    before, size = snapshot(client), client.dbsize()
    assert twin.import_keys(file(text), fail_on_warnings=True) == ImportReport((), warnings)
    assert client.dbsize() == size
    assert snapshot(client) == before


def test_fail_on_warnings_sees_the_whole_file_first(twin, client):
    """C08: the warning may be in the last row, behind batches of good ones."""
    before = snapshot(client)
    report = twin.import_keys(file(f"{MANY}{ALPHA},alpha,ghost\n"), fail_on_warnings=True)
    assert [warning.line for warning in report.warnings] == [152]
    assert (report.ids, report.created, report.updated) == ((), 0, 0)
    assert snapshot(client) == before


def test_fail_on_warnings_in_an_empty_redis(backend, client):
    """Not even the catalogue comes to be: DBSIZE stays 0."""
    client.flushall()
    report = Catalog(client).import_keys(file(ONE_BAD), fail_on_warnings=True)
    assert report == ImportReport((), CASES["C08 bad row"][2])
    assert client.dbsize() == 0


def test_fail_on_warnings_of_a_good_file(twin):
    """Without a warning, the flag changes nothing."""
    report = twin.import_keys(file(ALL_COLUMNS), fail_on_warnings=True)
    assert stored(twin, report) == CASES["C06 any order and case, padded, both quotes, unknown column"][1]


def test_an_import_into_an_empty_redis(backend, client):
    """The catalogue is made with the first keys."""
    catalog = Catalog(client)
    report = catalog.import_keys(file(TWO_COLUMNS))
    assert stored(catalog, report) == [("alpha", True, (), "")]
    assert Catalog(client).get_key(report.ids[0]).name == "alpha"


def test_an_existing_value_is_overwritten(twin, client):
    """C07: the key keeps its id, takes what the row says, and moves to the row's plans."""
    key = twin.create_key("old", ALPHA, ["gold01"])
    text = f"Key,Name,Description,Enabled,UsagePlanIds\n{ALPHA},new,about,false,other3\n{BETA},b,,,\n"
    report = twin.import_keys(file(text))
    assert report.ids[0] == key.id
    assert (report.created, report.updated, report.warnings) == (1, 1, ())
    assert stored(twin, report) == [("new", False, ("other3",), "about"), ("b", True, (), "")]
    assert twin.get_key(key.id).created_at == key.created_at
    assert client.smembers("{ratelimit}:plan:other3:keys") == {key.id.encode()}
    assert client.exists("{ratelimit}:plan:gold01:keys") == 0


def test_what_a_row_does_not_say_stays(twin, client):
    """A missing column, an empty cell and a list without a plan that exists leave an existing key's part as it is."""
    about = {"expires_at": 2e9, "description": "d", "owner": "o", "tags": {"t": "x"}}
    key = twin.create_key("old", ALPHA, ["gold01", "trial7"], enabled=False, **about)
    for text in (
        f"Key,Name\n{ALPHA},new\n",
        f"Key,Name,Description,Enabled,UsagePlanIds\n{ALPHA},new,,,\n",
        f"Key,Name,UsagePlanIds\n{ALPHA},new,ghost\n",
    ):
        twin.update_key(key.id, name="old")
        report = twin.import_keys(file(text))
        assert report.ids == (key.id,)
        assert twin.get_key(key.id) == replace(key, name="new")
    assert client.smembers("{ratelimit}:plan:gold01:keys") == {key.id.encode()}


@pytest.mark.parametrize("between", [0, 64, 200])
def test_a_value_twice_in_a_file(between, catalog):
    """The last row wins, in the place of the first, in one batch or in several; each key is counted once."""
    rows = "".join(f"tenantFiller{i:012},filler,trial7\n" for i in range(between))
    text = f"Key,Name,UsagePlanIds\n{ALPHA},first,gold01\n{rows}{ALPHA},last,other3\n{BETA},b,\n"
    report = catalog.import_keys(file(text))
    assert (len(report.ids), report.created, report.updated) == (between + 2, between + 2, 0)
    assert stored(catalog, report)[:: between + 1] == [("last", True, ("other3",), ""), ("b", True, (), "")]


def test_every_line_is_warned_of_once_and_in_order(catalog):
    """Warnings come in the order of the file, also of rows that a later row with the same value replaces."""
    text = f"Key,Name,UsagePlanIds\n{ALPHA},a,no1\nshort,b,\n{ALPHA},c,no2\n{BETA},,\n{GAMMA},d,'no3,no4'\n"
    report = catalog.import_keys(file(text))
    assert [(warning.line, warning.message.split(",")[0]) for warning in report.warnings] == [
        (2, "UsagePlanIds: 'no1'"),
        (3, "Key has 5 characters: give it 20 to 128"),
        (4, "UsagePlanIds: 'no2'"),
        (5, "Name is empty: name the key"),
        (6, "UsagePlanIds: 'no3'"),
        (6, "UsagePlanIds: 'no4'"),
    ]
    assert stored(catalog, report) == [("c", True, (), ""), ("d", True, (), "")]


def made_equal(client, key_id):
    """All that Redis holds, without what is random in one key: its id, its digest and its stamp."""
    record = json.loads(client.get(f"ratelimit:{{{key_id}}}:record"))
    (digest,) = record["digests"]
    token = client.get(f"ratelimit:digest:{digest}").decode().partition(":")[2]
    text = pformat(snapshot(client), width=10**6)  # whatever the order of hashes
    placeholders = {key_id: "<id>", digest: "<digest>", record["stamp"]: "<stamp>", token: "<token>"}
    for random, stands_for in placeholders.items():
        text = text.replace(random, stands_for)
    return text


def test_imported_keys_are_stored_as_created_ones(catalog, client, clock):
    """An imported key and a created one differ in nothing but what is random."""
    made = catalog.create_key("alpha", ALPHA, ["gold01"], enabled=False, description="d")
    expected = made_equal(client, made.id)
    catalog.delete_key(made.id)
    client.hset("{ratelimit}:catalog", "members", 0)
    text = f"Key,Name,Enabled,UsagePlanIds,Description\n{ALPHA},alpha,false,gold01,d\n"
    (key_id,) = catalog.import_keys(file(text)).ids
    assert made_equal(client, key_id) == expected


def test_imported_keys_are_checked(limiter):
    """An imported key is let in, throttled and refused by its plan; an import that disables it is obeyed at once."""
    limiter.catalog.import_keys(file(f"Key,Name,UsagePlanIds\n{ALPHA},alpha,gold01\n{BETA},beta,trial7\n"))
    seen = [outcome(limiter.check(ALPHA, *GET_PETS)) for _ in range(6)]
    assert seen == [*5 * [OK], throttled("plan:gold01", 0.1)]
    assert outcome(limiter.check(BETA, *GET_PETS)) == invalid("no_plan_for_stage")
    limiter.catalog.import_keys(file(f"Key,Name,Enabled\n{ALPHA},alpha,false\n"))
    assert outcome(limiter.check(ALPHA, *GET_PETS)) == invalid("disabled")
    limiter.catalog.import_keys(file(f"Key,Name,Enabled\n{ALPHA},alpha,true\n"))
    assert outcome(limiter.check(ALPHA, *GET_PETS)) == throttled("plan:gold01", 0.1)


def test_an_import_gives_no_units_back(limiter):
    """What a key used stays used when its row is imported again under another name."""
    limiter.catalog.put_plan(UsagePlan("gold01", None, Quota(3, "DAY"), [A]))
    for name in ("one", "two", "three"):
        limiter.catalog.import_keys(file(f"Key,Name,UsagePlanIds\n{ALPHA},{name},gold01\n"))
        assert outcome(limiter.check(ALPHA, *GET_PETS)) == OK
    assert outcome(limiter.check(ALPHA, *GET_PETS)) == exceeded("quota:gold01", 43_200.0)


def test_a_value_that_was_rotated_away_is_not_brought_back(twin, client, clock):
    """Neither during the grace nor after it: the row draws a warning that names the key, and changes nothing."""
    key = twin.create_key("old", ALPHA, ["gold01"])
    twin.rotate_key(key.id, grace_s=60, value=BETA)
    message = f"Key is a value that key {key.id!r} had before it was rotated: give the new one, or remove the line"
    for _ in range(2):
        before = snapshot(client)
        for flag in (False, True):
            report = twin.import_keys(file(f"Key,Name\n{ALPHA},new\n"), flag)
            assert report == ImportReport((), (RowWarning(2, message),))
        assert snapshot(client) == before
        clock.advance(120)
    assert twin.import_keys(file(f"Key,Name\n{BETA},new\n")).ids == (key.id,)


def test_an_import_is_repeatable(twin, client):
    """The same file again finds the same keys, and writes nothing."""
    first = twin.import_keys(file(MANY))
    before = snapshot(client)
    assert (first.created, first.updated) == (150, 0)
    again = twin.import_keys(file(MANY))
    assert again == ImportReport(first.ids, (), created=0, updated=150)
    assert snapshot(client) == before


def test_peppers(backend, client):
    """A key that is stored under an older pepper is found; new ones are stored under the newest, which is noted."""
    client.flushall()
    key = Catalog(client, pepper="old").create_key("a", ALPHA)
    report = Catalog(client, pepper=["new", "old"]).import_keys(file(f"Key,Name\n{ALPHA},b\n{BETA},c\n"))
    assert report.ids[0] == key.id
    assert (report.created, report.updated) == (1, 1)
    assert Catalog(client, pepper="new").get_key(report.ids[1]).name == "c"
    with Limiter(client, deadline=5, pepper="new") as limiter:
        limiter.catalog.put_plan(GOLD)
        assert outcome(limiter.check(BETA, *GET_PETS)) == invalid("no_plan_for_stage")
        assert outcome(limiter.check(ALPHA, *GET_PETS)) == invalid("unknown")


PLANTED = "Planted-Secret-Value-0123456789"
LEAKS = {
    "good": f"{PLANTED},a,gold01\n",
    "as a plan": f"{ALPHA},a,{PLANTED}\n",
    "as a name": f"{ALPHA},{PLANTED}\x07,gold01\n",
    "too long": f"{PLANTED * 5},a,gold01\n",
    "with a blank": f"{PLANTED} x,a,gold01\n",
    "in a quote": f'{ALPHA},a,"{PLANTED}\n',
    "NUL": f"{PLANTED},a\0,gold01\n",
    "not UTF-8": f"{PLANTED},a\xff,gold01\n",
}


@pytest.mark.parametrize("name", LEAKS)
def test_values_are_nowhere(name, catalog, client):
    """A key value is in no warning, in no error or what it came from, and not in Redis."""
    content = ("Key,Name,UsagePlanIds\n" + LEAKS[name]).encode("latin-1")
    errors = []
    for make in (io.BytesIO, lambda content: io.TextIOWrapper(io.BytesIO(content), "utf-8")):
        try:
            assert PLANTED not in repr(catalog.import_keys(make(content)))
        except ConfigError as error:
            errors.append(error)
    while errors:
        error = errors.pop()
        assert PLANTED not in f"{error!r} {error} {vars(error)}"
        assert not isinstance(error, UnicodeError)
        errors += filter(None, (error.__context__, error.__cause__))
    assert PLANTED not in repr(snapshot(client))
