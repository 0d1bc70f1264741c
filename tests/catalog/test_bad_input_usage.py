"""Garbage in Redis where metering is read: a clear error or nothing at all, never a loop, never another exception."""

import struct

import pytest
from helpers.commands import run
from helpers.gateway import GET_PETS, QUOTA_ONLY, Gateway

from ratelimit import Quota, StoreError, UsagePlan
from ratelimit.admin.alerts import alert_from
from ratelimit.admin.usage import _by_day
from ratelimit.registry.windows import day_of
from ratelimit.scripts import load

NAN, INF = float("nan"), float("inf")
TODAY = "2026-03-04"


def doubles(*numbers):
    return struct.pack(f"<{len(numbers)}d", *numbers)


def state(calendar=20_000 * 64 * 2**20 + 20_000, used=1, granted=0, day_used=1):
    return doubles(0, 0, 1, calendar, used, granted, day_used)


@pytest.fixture
def gateway(limiter, backend, clock):
    with backend.client() as client:
        made = Gateway(limiter, client, clock, plans=[QUOTA_ONLY])
        assert made.check("k1", GET_PETS).allowed
        yield made


def usage(gateway):
    return gateway.catalog.usage("gold", TODAY, TODAY).items


def today_of(gateway):
    return day_of(gateway.clock.now_us)


FIELDS = [
    ("d:gold:-99999999999", doubles(1, 1)),
    ("d:gold:99999999999", doubles(1, 1)),
    ("d:gold:" + "9" * 400, doubles(1, 1)),
    ("d:gold:", doubles(1, 1)),
    ("d:gold:0x10", doubles(1, 1)),
    ("d:gold:1e3", doubles(1, 1)),
    ("d:gold:20000", b"short"),
    ("d:gold:20000", doubles(1, 1, 1)),
    ("d:gold:20000", doubles(NAN, 1)),
    ("d:gold:20000", doubles(1, INF)),
    ("d:gold:20000", doubles(-1e300, 1)),
    ("d:gold:20000", doubles(0.5, 1)),
    ("p:gold", state(calendar=NAN)),
    ("p:gold", state(calendar=-INF)),
    ("p:gold", state(used=INF)),
    ("p:gold", state(granted=NAN)),
    ("p:gold", state(day_used=1e300)),
    ("p:gold", state(used=1.5)),
]


@pytest.mark.parametrize(("field", "value"), FIELDS)
def test_a_field_that_cannot_be_read_is_reported(gateway, field, value):
    """By its name and the key's id, in the hash of the key and, of a day, in the archive."""
    name, key_id = gateway.key_of("k1"), gateway.ids["k1"]
    places = [(name, field)] + ([(f"{name}:days", field.removeprefix("d:"))] if field.startswith("d:") else [])
    for place, named in places:
        before = gateway.client.hget(place, named)
        gateway.client.hset(place, named, value)
        with pytest.raises(StoreError) as caught:
            usage(gateway)
        assert str(caught.value) == (
            f"what key '{key_id}' used cannot be read: Redis answered with an error: RATELIMIT CORRUPT {named}"
        )
        if before is None:
            gateway.client.hdel(place, named)
        else:
            gateway.client.hset(place, named, before)
    assert usage(gateway) == {gateway.ids["k1"]: [(1, 99)], gateway.ids["k2"]: [(0, 100)]}


@pytest.mark.parametrize("quota", [None, Quota(100, "DAY"), Quota(100, "WEEK", 3), Quota(100, "MONTH", 15)])
@pytest.mark.parametrize("days", [[0, 999_999], [20_516], []])
def test_a_day_far_away_costs_nothing(quota, days):
    """Only the window of the first day that is asked about is looked through, whatever is known before it and after."""
    closed = [number for day in days for number in (day, 1, 7)]
    reply = [20_516 * 64 + 1, 5, 0, 20_516, 5, *closed]
    (day_usage,) = _by_day(quota, reply, 20_516, 20_516, 20_516)
    assert day_usage == (5, None if quota is None else 95)
    assert list(_by_day(quota, [0] * 5, 0, 0, 20_516)) == [(0, None if quota is None else 100)]


@pytest.mark.parametrize("day", ["-99999999999", "1e3", "", "9" * 5000, "soon", "٣"])
def test_a_day_on_which_a_key_left_that_is_none(gateway, day):
    """Told with the name in Redis and the id of the key."""
    gateway.client.hset("{ratelimit}:plan:gold:past", "gone", day)
    with pytest.raises(StoreError, match=r"'{ratelimit}:plan:gold:past' in Redis cannot be read: key 'gone' left on '"):
        usage(gateway)


@pytest.mark.parametrize("field", ["nothing", "gold|", "gold|k|throttled|more", "|||", ""])
def test_a_denial_that_is_named_otherwise_is_passed_over(gateway, field):
    """As a newer version might write it."""
    name = f"ratelimit:denials:{today_of(gateway)}"
    gateway.client.hset(name, mapping={field: 5, f"gold|{gateway.ids['k1']}|throttled": 3})
    denied = gateway.catalog.usage("gold", TODAY, TODAY).denied
    assert denied == {gateway.ids["k1"]: [{"throttled": 3}], gateway.ids["k2"]: [{}]}


@pytest.mark.parametrize("count", ["many", "", "1.5", "9" * 5000, "nan", "٣", "\x1b[31m"])
def test_a_count_that_is_none_is_reported(gateway, count):
    """With the name in Redis, the field, and what stands there."""
    name = f"ratelimit:denials:{today_of(gateway)}"
    gateway.client.hset(name, f"gold|{gateway.ids['k1']}|throttled", count)
    with pytest.raises(StoreError, match=f"'{name}' in Redis cannot be read: 'gold.*, and no count$"):
        usage(gateway)


def test_commands_report_it(server):
    """Exit code 3 and no traceback, of `usage` and of `top`."""
    with server.client() as client:
        assert run("plans", "put", "gold", "--stage", "a/b", RATELIMIT_URL=server.url).exit_code == 0
        today = day_of(client.time()[0] * 1_000_000)
        client.hset(f"ratelimit:denials:{today}", "||throttled", "many\x1b[31m")
        for command in (("usage", "gold"), ("top", "--once")):
            result = run(*command, RATELIMIT_URL=server.url)
            assert (result.exit_code, result.stdout) == (3, "")
            assert "'||throttled' is 'many\\x1b[31m', and no count" in result.stderr
            assert isinstance(result.exception, SystemExit)
        client.delete(f"ratelimit:denials:{today}")
        client.hset(f"ratelimit:denials:{today}", mapping={"||throttled": 2, "a|b": 7, "|||d": 1})
        result = run("top", "--once", RATELIMIT_URL=server.url)
        assert (result.exit_code, "2 throttled." in result.stdout) == (0, True)


def test_archive_leaves_what_is_no_day(backend):
    """It moves and forgets days, and fails at nothing else that stands beside them."""
    with backend.client() as client:
        odd = {"d:": "1", "d:gold": "2", "d:gold:": "3", "d:gold:x": "4", "r": "5"}
        client.hset("{k}", mapping={**odd, "d:gold:20": "6", "d:gold:90": "7"})
        client.hset("{k}:days", mapping={"": "8", "gold:": "9", "gold:x": "10", "20": "11", "gold:19": "12"})
        assert client.eval(load("archive").source, 2, "{k}", "{k}:days", "50") == [2, 2]
        assert client.hgetall("{k}") == {name.encode(): value.encode() for name, value in odd.items()}
        fields = {"": "8", "gold:": "9", "gold:x": "10", "20": "11", "gold:90": "7"}
        assert client.hgetall("{k}:days") == {name.encode(): value.encode() for name, value in fields.items()}


ALERT = {
    "key": "k",
    "plan": "gold",
    "percent": "80",
    "used": "8",
    "limit": "10",
    "window_day": "20000",
    "time_us": "1772625600000000",
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("time_us", "-1"),
        ("time_us", "9" * 30),
        ("time_us", "9" * 4000),
        ("time_us", "9" * 5000),
        ("time_us", "nan"),
        ("window_day", "-99999999999"),
        ("window_day", "9" * 4000),
        ("used", "nan"),
        ("percent", ""),
    ],
)
def test_an_alert_that_is_none_is_reported(name, value):
    """As a StoreError, which `watch` shows before it goes on."""
    assert alert_from(ALERT).percent == 80
    with pytest.raises(StoreError, match="an entry of the stream of alerts cannot be read"):
        alert_from({**ALERT, name: value})


def test_watch_goes_on_behind_it(server):
    """The entry is reported on standard error, the next one is shown."""
    assert run("plans", "put", "gold", "--stage", "a/b", RATELIMIT_URL=server.url).exit_code == 0
    with server.client() as client:
        client.xadd("ratelimit:alerts", {**ALERT, "time_us": "9" * 30})
        client.xadd("ratelimit:alerts", ALERT)
    result = run("watch", "--from-start", "--count", "1", RATELIMIT_URL=server.url)
    assert result.exit_code == 0
    assert "cannot be read" in result.stderr
    assert result.stdout == "2026-03-04 12:00:00   80%  k  gold  8 of 10 used since 2024-10-04\n"


def test_a_plan_of_a_year_ago(gateway):
    """The longest span, with a month's quota: each day is reported."""
    gateway.catalog.put_plan(UsagePlan("gold", None, Quota(100, "MONTH", 27), ["petstore/prod"]))
    usage = gateway.catalog.usage("gold", "2025-03-04", TODAY, gateway.ids["k1"]).items[gateway.ids["k1"]]
    assert (len(usage), usage[0], usage[-1]) == (366, (0, 100), (1, 99))
