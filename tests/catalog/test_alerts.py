"""Alerts: that a share of a quota is used up is reported on a stream, once per window and key, to whoever reads it."""

import struct
from contextlib import contextmanager
from inspect import signature

import pytest
from helpers.check_worker import ask
from helpers.lua_mutation import bug
from helpers.processes import PROCESSES
from helpers.redis_snapshot import exact_snapshot
from helpers.replica import METHOD, STAGE, replica
from redis.exceptions import ResponseError

from ratelimit import Catalog, Quota, Reason, Throttle, UsagePlan

STREAM = "ratelimit:alerts"


def alerting(limit, *percentages, period="DAY", throttle=None, plan_id="gold"):
    return UsagePlan(plan_id, throttle, Quota(limit, period), [STAGE], alerts=percentages or (80, 100))


@contextmanager
def gateway_on(backend, clock):
    """A limiter with a plan of 10 a day that reports 80 % and 100 %, a key of it, and a client."""
    with replica(backend, clock=clock) as limiter, backend.client() as client:
        limiter.catalog.put_plan(alerting(10))
        yield limiter, limiter.catalog.create_key(plans=["gold"]), client


@pytest.fixture
def gateway(backend, clock):
    with gateway_on(backend, clock) as made:
        yield made


def sent_alerts(client):
    """All alerts so far, as (key, percent, used, limit)."""
    entries = (fields for _, fields in client.xrange(STREAM))
    return [(f[b"key"].decode(), *(int(f[name]) for name in (b"percent", b"used", b"limit"))) for f in entries]


def use(limiter, key, *costs):
    return [limiter.check(key.value, STAGE, METHOD, cost).allowed for cost in costs]


def test_each_percentage_is_reported_once(gateway):
    """At 8 of 10 and at 10 of 10, not before, not again, and not by denials."""
    limiter, key, client = gateway
    assert use(limiter, key, *[1] * 7) == [True] * 7
    assert sent_alerts(client) == []
    assert use(limiter, key, *[1] * 5) == [True] * 3 + [False] * 2
    assert sent_alerts(client) == [(key.id, 80, 8, 10), (key.id, 100, 10, 10)]


def test_an_alert_says_whom_when_and_how_much(gateway, clock):
    """The entry has exactly these fields."""
    limiter, key, client = gateway
    assert use(limiter, key, 8) == [True]
    ((_, fields),) = client.xrange(STREAM)
    assert fields == {
        b"key": key.id.encode(),
        b"plan": b"gold",
        b"percent": b"80",
        b"used": b"8",
        b"limit": b"10",
        b"window_day": b"20516",
        b"time_us": str(clock()).encode(),
    }


def test_each_key_is_reported(gateway):
    """Two keys of a plan reach their own percentages."""
    limiter, key, client = gateway
    other = limiter.catalog.create_key(plans=["gold"])
    assert use(limiter, key, 8) == use(limiter, other, 9) == [True]
    assert sent_alerts(client) == [(key.id, 80, 8, 10), (other.id, 80, 9, 10)]


def test_each_plan_of_a_key_is_reported(gateway):
    """A key in two plans reaches the percentages of each."""
    limiter, key, client = gateway
    limiter.catalog.put_plan(UsagePlan("silver", None, Quota(4, "DAY"), ["admin/prod"], alerts=[80]))
    limiter.catalog.add_key_to_plan(key.id, "silver")
    assert use(limiter, key, 8) == [True]
    assert limiter.check(key.value, "admin/prod", METHOD, 4).allowed
    assert [fields[b"plan"] for _, fields in client.xrange(STREAM)] == [b"gold", b"silver"]


def test_the_next_window_is_reported_again(gateway, clock):
    """In every window of a day, of a week and of a month."""
    limiter, key, client = gateway
    windows = (("DAY", "2026-03-05"), ("DAY", "2026-03-09"), ("WEEK", "2026-03-15"), ("MONTH", "2026-04-01"))
    for at, (period, start) in enumerate(windows, 1):
        limiter.catalog.put_plan(alerting(10, period=period))
        clock.set(f"{start}T00:00:00")
        assert use(limiter, key, 9, 1) == [True, True]
        assert sent_alerts(client) == [(key.id, 80, 9, 10), (key.id, 100, 10, 10)] * at


def test_a_cost_that_passes_both_reports_both(gateway):
    """From 7 of 10 to 10 of 10 at once: both, the lower one first, with the same use."""
    limiter, key, client = gateway
    assert use(limiter, key, 7, 3) == [True, True]
    assert sent_alerts(client) == [(key.id, 80, 10, 10), (key.id, 100, 10, 10)]


@pytest.mark.parametrize(
    ("limit", "percent", "reached"),
    [(7, 50, 4), (3, 1, 1), (1000, 1, 10), (999, 99, 990), (1, 100, 1), (10**12, 33, 0)],
)
def test_a_percentage_is_reached_at_the_first_whole_unit(limiter, backend, limit, percent, reached):
    """Of 7, half is reached with 4: what is reported is never less than was asked for."""
    reached = reached or 330_000_000_000
    limiter.catalog.put_plan(alerting(limit, percent))
    key = limiter.catalog.create_key(plans=["gold"])
    with backend.client() as client:
        if reached > 1:
            assert use(limiter, key, reached - 1) == [True]
        assert sent_alerts(client) == []
        assert use(limiter, key, 1) == [True]
        assert sent_alerts(client) == [(key.id, percent, reached, limit)]


def test_what_is_set_by_hand_reports_nothing_twice(gateway):
    """After 80 % was reported, more is left and used: only 100 % is new."""
    limiter, key, client = gateway
    assert use(limiter, key, 8) == [True]
    limiter.catalog.set_remaining("gold", key.id, 20)
    assert use(limiter, key, *[1] * 20) == [True] * 20
    assert sent_alerts(client) == [(key.id, 80, 8, 10), (key.id, 100, 10, 28)]


def test_a_raised_plan_reports_nothing_twice(gateway):
    """80 % of 10, then of 100: reported once in the window; 100 % is reported at 100."""
    limiter, key, client = gateway
    assert use(limiter, key, 8) == [True]
    limiter.catalog.put_plan(alerting(100))
    assert use(limiter, key, *[1] * 92) == [True] * 92
    assert sent_alerts(client) == [(key.id, 80, 8, 10), (key.id, 100, 100, 100)]


def test_a_raised_plan_whose_quota_was_used_up_reports_nothing_twice(gateway):
    """100 % of 10 was reported: neither 80 % nor 100 % of 20 is, in the same window."""
    limiter, key, client = gateway
    assert use(limiter, key, 10) == [True]
    limiter.catalog.put_plan(alerting(20))
    assert use(limiter, key, *[1] * 10) == [True] * 10
    assert sent_alerts(client) == [(key.id, 80, 10, 10), (key.id, 100, 10, 10)]


def test_another_percentage_is_reported_when_it_is_higher(gateway):
    """A plan that gets more percentages reports those that are still to come."""
    limiter, key, client = gateway
    assert use(limiter, key, 8) == [True]
    limiter.catalog.put_plan(alerting(10, 50, 90, 100))
    assert use(limiter, key, 1, 1) == [True, True]
    assert sent_alerts(client) == [(key.id, 80, 8, 10), (key.id, 90, 9, 10), (key.id, 100, 10, 10)]


def test_a_peek_and_a_denial_report_nothing(gateway, backend):
    """At 7 of 10, a peek and a denied cost of 4 change nothing in Redis."""
    limiter, key, client = gateway
    assert use(limiter, key, 7) == [True]
    before = exact_snapshot(backend)
    for cost in (0, 4, 5, 11):
        limiter.check(key.value, STAGE, METHOD, cost)
    limiter.peek(key.value, STAGE, METHOD)
    assert exact_snapshot(backend) == before
    assert sent_alerts(client) == []


def test_a_denial_by_another_limit_reports_nothing(gateway):
    """What the throttle refuses has not reached the percentage."""
    limiter, key, client = gateway
    limiter.catalog.put_plan(alerting(10, throttle=Throttle("1/1000000", 7)))
    assert use(limiter, key, *[1] * 7, 1) == [True] * 7 + [False]
    assert sent_alerts(client) == []


@pytest.mark.parametrize("spoilt", [("SET", STREAM, "x"), ("RPUSH", STREAM, "x"), ("HSET", STREAM, "x", "y")])
def test_a_stream_of_another_type_fails_no_check(gateway, spoilt):
    """Everything is counted, nothing is reported, and nothing is noted as reported."""
    limiter, key, client = gateway
    client.execute_command(*spoilt)
    assert use(limiter, key, *[1] * 11) == [True] * 10 + [False]
    assert limiter.catalog.usage("gold", "2026-03-04", "2026-03-04").items == {key.id: [(10, 0)]}
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        client.xlen(STREAM)
    assert not client.hexists(f"ratelimit:{{{key.id}}}", "a:gold")


def test_what_could_not_be_reported_does_not_hinder_the_next(gateway):
    """80 % is lost while the stream is spoilt; once it is not, 100 % is reported."""
    limiter, key, client = gateway
    client.set(STREAM, "x")
    assert use(limiter, key, 8) == [True]
    client.delete(STREAM)
    assert use(limiter, key, 2) == [True]
    assert sent_alerts(client) == [(key.id, 100, 10, 10)]


def test_a_plan_without_alerts_reports_nothing(gateway):
    """Whether it has none or has none any more."""
    limiter, key, client = gateway
    limiter.catalog.put_plan(UsagePlan("gold", None, Quota(10, "DAY"), [STAGE]))
    assert use(limiter, key, 10) == [True]
    assert not client.exists(STREAM)
    limiter.catalog.put_plan(alerting(10))
    assert use(limiter, key, 1) == [False]
    assert not client.exists(STREAM)


def test_the_stream_keeps_about_a_hundred_thousand(server, clock):
    """It does not grow without end: old entries make room for new ones."""
    with replica(server, clock=clock) as limiter, server.client() as client:
        limiter.catalog.put_plan(alerting(10, *range(1, 101)))
        key = limiter.catalog.create_key(plans=["gold"])
        with client.pipeline(transaction=False) as pipeline:
            for _ in range(100_200):
                pipeline.xadd(STREAM, {"x": "y"})
            pipeline.execute()
        assert use(limiter, key, 10) == [True]
        entries = client.xlen(STREAM)
        assert 100_000 <= entries < 100_300  # whole nodes of the stream go
        assert len([1 for _, fields in client.xrevrange(STREAM, count=200) if b"percent" in fields]) == 100


def test_consumers_of_a_group_share_the_alerts(server, clock):
    """Each alert goes to one consumer, and stays pending until it is acknowledged."""
    with replica(server, clock=clock) as limiter, server.client() as client:
        limiter.catalog.put_plan(alerting(10, 50, 80, 100))
        client.xgroup_create(STREAM, "mailers", id="0", mkstream=True)
        key = limiter.catalog.create_key(plans=["gold"])
        assert use(limiter, key, 10) == [True]
        read = [read_one(client, consumer) for consumer in ("one", "other", "one", "other")]
        assert [fields and fields[b"percent"] for _, fields in read] == [b"50", b"80", b"100", None]
        assert client.xpending(STREAM, "mailers")["pending"] == 3
        assert client.xack(STREAM, "mailers", *(entry for entry, _ in read if entry)) == 3
        assert client.xpending(STREAM, "mailers")["pending"] == 0


def read_one(client, consumer):
    """The next entry for a consumer of the group; (None, None) if there is none."""
    reply = client.xreadgroup("mailers", consumer, {STREAM: ">"}, count=1)
    if not reply:
        return None, None
    # RESP2 sends pairs of stream and entries, RESP3 a map, in which redis-py nests them once more.
    ((entry,),) = reply.values() if isinstance(reply, dict) else [entries for _, entries in reply]
    return entry[0] if isinstance(entry, list) else entry


def test_the_note_of_the_last_alert_is_small(gateway):
    """One field of 16 bytes per key and plan: the window, and the highest percentage that was reported in it."""
    limiter, key, client = gateway
    assert use(limiter, key, 8) == [True]
    note = client.hget(f"ratelimit:{{{key.id}}}", "a:gold")
    assert struct.unpack("<2d", note) == (20_516 * 64 + 1, 80)


# Between processes


def test_eight_processes_report_each_percentage_once(server, processes):
    """All hammer one key: ten percentages of 1,000 units are reported, each once, at its own count."""
    percentages = range(10, 101, 10)
    with server.client() as client:
        catalog = Catalog(client)
        catalog.put_plan(alerting(1000, *percentages, period="MONTH"))
        key = catalog.create_key(plans=["gold"])
        outcomes = processes.starmap(ask, [(server.url, key.value, 200, PROCESSES)] * PROCESSES, chunksize=1)
        assert sum(outcome.get(Reason.ALLOWED.value, 0) for outcome in outcomes) == 1000
        assert sent_alerts(client) == [(key.id, percent, percent * 10, 1000) for percent in percentages]


# Seeded bugs

CROSSED, ONCE = "if before < count and after >= count then", "if percent > last_percent then"
AS_IF_CHARGED = """
if denied then
  local per, level, last, calendar, used, granted, day_used = struct.unpack('<ddddddd', hash_values[2])
  new_plan = struct.pack('<ddddddd', per, level, last, calendar, used + cost, granted, day_used)
end
"""
BUGS = {
    "one too late": (CROSSED, "if before <= count and after > count then", test_each_percentage_is_reported_once),
    "reported of denials": (
        "if has_more and new_plan and not denied and (is_identity or has_alerts or is_lease) then",
        AS_IF_CHARGED + "if has_alerts and new_plan and cost > 0 then",
        test_a_peek_and_a_denial_report_nothing,
    ),
    "usual: reported of denials": (
        "  if denied then return reply end\n",
        AS_IF_CHARGED + "if denied and not has_alerts then return reply end\ndenied = false\n",
        test_a_peek_and_a_denial_report_nothing,
    ),
    "usual: the count is not the quota's": (
        "    used = used + cost\n    if not (cost <= left)",
        "    used = used + 1\n    if not (cost <= left)",
        test_a_cost_that_passes_both_reports_both,
    ),
    "windows not told apart": (
        "if last_window ~= window then last_percent = 0 end",
        "",
        test_the_next_window_is_reported_again,
    ),
    "reported twice": (ONCE, "if true then", test_a_raised_plan_whose_quota_was_used_up_reports_nothing_twice),
    "one of two": ("percent > last_percent then", "last_percent == 0 then", test_a_cost_that_passes_both_reports_both),
    "fails the check": (
        "redis.pcall('XADD'",
        "redis.call('XADD'",
        test_what_could_not_be_reported_does_not_hinder_the_next,
    ),
}


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_is_noticed(backend, clock, name):
    """With each of these bugs, the test that is named beside it fails."""
    right, wrong, test = BUGS[name]
    with bug(right, wrong), gateway_on(backend, clock) as made:
        fixtures = {"gateway": made, "backend": backend, "clock": clock}
        wanted = [fixtures[name] for name in signature(test).parameters]
        with pytest.raises(AssertionError):
            test(*wanted)
