"""Usage by day, and what is left set by hand. Cases Q12 to Q14, Q18 and Q19 of the conformance matrix are named."""

import asyncio
import io
import struct
from datetime import date, timedelta

import pytest
from helpers.gateway import DAILY, GET_PETS, QUOTA_ONLY, TEN_FIVE, VALUES, A, B, Gateway, exceeded, outcome
from helpers.lua_mutation import bug
from helpers.replica import METHOD, STAGE, replica
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ratelimit import AsyncLimiter, ConfigError, NotFound, Quota, StoreError, UsagePlan
from ratelimit.registry.windows import DAYS_KEPT
from ratelimit.scripts import load

TODAY, TOMORROW = "2026-03-04", "2026-03-05"
EPOCH = date(1970, 1, 1)


@pytest.fixture
def gateway(limiter, backend, clock):
    """The gateway of the matrix under a plan of 100 a day and without throttle."""
    with backend.client() as client:
        yield Gateway(limiter, client, clock, plans=[QUOTA_ONLY])


def use(gateway, units, who="k1"):
    """Check until denied, `units` times at most; return how often it was admitted."""
    for admitted in range(units):
        if not gateway.check(who, GET_PETS).allowed:
            return admitted
    return units


def days(gateway, start=TODAY, end=TODAY, who="k1", plan_id="gold"):
    return gateway.catalog.usage(plan_id, start, end, gateway.ids[who]).items[gateway.ids[who]]


def set_remaining(gateway, remaining, who="k1", plan_id="gold"):
    gateway.catalog.set_remaining(plan_id, gateway.ids[who], remaining)


# The conformance matrix


def q12(gateway):
    assert use(gateway, 101) == 100
    set_remaining(gateway, 50)
    assert use(gateway, 51) == 50
    assert outcome(gateway.check("k1", GET_PETS)) == exceeded("quota:gold", 43_200.0)


def test_q12_an_exhausted_quota_is_extended(gateway):
    """Q12: 50 more are admitted, then the quota is exceeded again; usage says 150 and 0."""
    q12(gateway)
    assert days(gateway) == [(150, 0)]


def test_q13_what_remains_counts_from_now(gateway):
    """Q13: with 10 used, 10 that remain are 10 more, whatever the limit."""
    assert use(gateway, 10) == 10
    set_remaining(gateway, 10)
    assert use(gateway, 11) == 10
    assert days(gateway) == [(20, 0)]


def test_q14_the_next_window_has_the_limit_of_the_plan(gateway):
    """Q14: after Q12, the next day admits 100 and no more."""
    q12(gateway)
    gateway.clock.set("2026-03-05T00:00:00")
    assert use(gateway, 101) == 100
    assert days(gateway, TODAY, TOMORROW) == [(150, 0), (100, 0)]


def test_q18_usage_by_id_and_day(gateway):
    """Q18: of 1000 a month, days of 137, 123 and 84 leave 863, 740 and 656."""
    gateway.catalog.put_plan(UsagePlan("gold", None, Quota(1000, "MONTH"), [A, B]))
    for day, units in ((1, 137), (2, 123), (3, 84)):
        gateway.clock.set(f"2026-03-0{day}T09:00:00")
        assert gateway.check("k1", GET_PETS, units).allowed
    usage = gateway.catalog.usage("gold", "2026-03-01", "2026-03-03", gateway.ids["k1"])
    assert usage.items == {gateway.ids["k1"]: [(137, 863), (123, 740), (84, 656)]}
    assert list(usage.days()) == [date(2026, 3, 1), date(2026, 3, 2), date(2026, 3, 3)]
    assert (usage.plan_id, usage.start, usage.end) == ("gold", date(2026, 3, 1), date(2026, 3, 3))
    assert usage.cursor is None


def test_q19_usage_in_pages(gateway):
    """Q19: of two keys, a limit of 1 gives one and a cursor, then the other and none."""
    assert (use(gateway, 3), use(gateway, 5, "k2")) == (3, 5)
    first, second = sorted(gateway.ids.values())
    whole = gateway.catalog.usage("gold", TODAY, TODAY)
    assert whole.items == {gateway.ids["k1"]: [(3, 97)], gateway.ids["k2"]: [(5, 95)]}
    assert (list(whole.items), whole.cursor) == ([first, second], None)
    page = gateway.catalog.usage("gold", TODAY, TODAY, limit=1)
    assert (page.items, page.cursor) == ({first: whole.items[first]}, first)
    page = gateway.catalog.usage("gold", TODAY, TODAY, limit=1, cursor=page.cursor)
    assert (page.items, page.cursor) == ({second: whole.items[second]}, None)
    page = gateway.catalog.usage("gold", TODAY, TODAY, limit=1, cursor=second)
    assert (page.items, page.cursor) == ({}, None)


# Usage


def test_pages_of_many_keys_have_each_key_once(gateway):
    """Whatever the size of a page, and with keys that come and go, each key that stays is reported once, in order."""
    made = [gateway.catalog.create_key(plans=["gold"]).id for _ in range(23)]
    for limit in (1, 7, 25, 500):
        items, cursor = [], None
        while True:
            page = gateway.catalog.usage("gold", TODAY, TODAY, limit=limit, cursor=cursor)
            assert len(page.items) <= limit
            items += page.items
            cursor = page.cursor
            if cursor is None:
                break
        assert items == sorted([*made, *gateway.ids.values()])
    page = gateway.catalog.usage("gold", TODAY, TODAY, limit=10)
    gateway.catalog.remove_key_from_plan(page.cursor, "gold")
    rest = gateway.catalog.usage("gold", TODAY, TODAY, cursor=page.cursor)
    assert [*page.items, *rest.items] == items


def test_a_key_that_used_nothing_has_the_whole_quota(gateway):
    """Days without traffic, past and to come, are 0 used and all left."""
    assert days(gateway, "2026-03-03", "2026-03-06") == [(0, 100)] * 4


def test_idle_days_keep_the_balance_within_their_window(gateway):
    """On a day without traffic the balance is that of the day before; in a new window it is the limit."""
    gateway.catalog.put_plan(UsagePlan("gold", None, Quota(100, "WEEK", 5), [A, B]))  # windows start on Fridays
    assert use(gateway, 30) == 30
    assert days(gateway, "2026-03-02", "2026-03-07") == [(0, 100)] * 2 + [(30, 70)] * 1 + [(0, 70)] + [(0, 100)] * 2
    gateway.clock.set("2026-03-08T01:00:00")
    assert days(gateway, "2026-03-04", "2026-03-08") == [(30, 70), (0, 70), (0, 100), (0, 100), (0, 100)]
    assert use(gateway, 1) == 1
    assert days(gateway, "2026-03-04", "2026-03-08") == [(30, 70), (0, 70), (0, 100), (0, 100), (1, 99)]


def test_a_plan_without_quota_has_no_balance(gateway):
    """Remaining is None on every day, used is counted all the same."""
    gateway.catalog.put_plan(UsagePlan("gold", TEN_FIVE, None, [A, B]))
    assert use(gateway, 5) == 5
    gateway.clock.set("2026-03-06T00:00:00")
    assert use(gateway, 2) == 2
    assert days(gateway, "2026-03-03", "2026-03-06") == [(0, None), (5, None), (0, None), (2, None)]


def test_a_raised_limit_leaves_days_that_are_over(gateway):
    """A limit of 100 becomes 200 on the second day: it has 200, the first ended with 70."""
    assert use(gateway, 30) == 30
    gateway.clock.set("2026-03-05T12:00:00")
    assert use(gateway, 1) == 1
    gateway.catalog.put_plan(UsagePlan("gold", None, Quota(200, "DAY"), [A, B]))
    assert days(gateway, TODAY, TOMORROW) == [(30, 70), (1, 199)]
    assert use(gateway, 4) == 4
    assert days(gateway, TODAY, TOMORROW) == [(30, 70), (5, 195)]


def test_the_last_day_of_traffic_goes_by_the_limit_of_now(gateway):
    """A limit that is raised before the next day's first request raises what the last day is reported to have left."""
    assert use(gateway, 30) == 30
    gateway.clock.set("2026-03-05T12:00:00")
    gateway.catalog.put_plan(UsagePlan("gold", None, Quota(200, "DAY"), [A, B]))
    assert days(gateway, TODAY, TOMORROW) == [(30, 170), (0, 200)]


def test_a_lowered_limit_leaves_nothing_rather_than_less(gateway):
    """With 30 used of what is now 20, 0 remain."""
    assert use(gateway, 30) == 30
    gateway.catalog.put_plan(UsagePlan("gold", None, Quota(20, "DAY"), [A, B]))
    assert days(gateway) == [(30, 0)]


def leave(gateway, who="k1"):
    gateway.catalog.remove_key_from_plan(gateway.ids[who], "gold")


def listed(gateway, start=TODAY, end=TODAY):
    return gateway.catalog.usage("gold", start, end).items


def test_a_key_that_left_its_plan_is_listed_still(gateway):
    """What it used under the plan stays in the plan's list, once, and is there when it joins again."""
    assert use(gateway, 3) == 3
    k1, k2 = gateway.ids["k1"], gateway.ids["k2"]
    leave(gateway)
    assert listed(gateway) == {k1: [(3, 97)], k2: [(0, 100)]}
    assert days(gateway) == [(3, 97)]
    gateway.catalog.add_key_to_plan(k1, "gold")
    assert use(gateway, 1) == 1
    assert listed(gateway) == {k1: [(4, 96)], k2: [(0, 100)]}


def test_a_key_that_left_without_a_trace_is_not_listed(gateway):
    """It is listed where it used something, or was refused, on one of the days; a deleted one nowhere."""
    k1, k2 = gateway.ids["k1"], gateway.ids["k2"]
    assert (use(gateway, 3), use(gateway, 101, "k2")) == (3, 100)
    gateway.clock.set("2026-03-05T00:00:00")
    assert gateway.check("k2", GET_PETS, 101).limited_by == "quota:gold"
    gateway.limiter.close()
    leave(gateway)
    leave(gateway, "k2")
    assert (set(listed(gateway)), set(listed(gateway, TOMORROW, TOMORROW))) == ({k1, k2}, {k2})
    assert gateway.catalog.usage("gold", TOMORROW, TOMORROW).denied == {k2: [{"QUOTA_EXCEEDED": 1}]}
    assert listed(gateway, "2026-03-03", "2026-03-03") == {}
    gateway.catalog.delete_key(k1)
    assert set(listed(gateway)) == {k2}


def test_a_key_that_left_takes_its_place_in_the_pages(gateway):
    """Each key once, in order; a page of keys that left without a trace is empty, and says where to go on."""
    made = [gateway.catalog.create_key(value=f"{'v' * 20}{at}", plans=["gold"]) for at in range(8)]
    for key in made[:6]:
        gateway.catalog.remove_key_from_plan(key.id, "gold")
    items, cursor, pages = [], None, 0
    while pages == 0 or cursor is not None:
        page = gateway.catalog.usage("gold", TODAY, TODAY, limit=1, cursor=cursor)
        items, cursor, pages = items + list(page.items), page.cursor, pages + 1
    assert items == sorted([*gateway.ids.values(), made[6].id, made[7].id])
    assert pages == 10


def test_a_key_that_left_long_ago_is_forgotten(gateway, backend):
    """After 90 days nothing is known of what it used: looking at the usage forgets that it was in the plan."""
    assert use(gateway, 3) == 3
    leave(gateway)
    leave(gateway, "k2")
    gateway.clock.set("2026-06-02T12:00:00")  # 90 days later
    assert listed(gateway)[gateway.ids["k1"]] == [(3, 97)]
    gateway.catalog.add_key_to_plan(gateway.ids["k2"], "gold")
    leave(gateway, "k2")
    gateway.clock.set("2026-06-03T00:00:00")
    listed(gateway)
    with backend.client(decode_responses=True) as client:
        assert list(client.hgetall("{ratelimit}:plan:gold:past")) == [gateway.ids["k2"]]
        gateway.catalog.delete_plan("gold")
        assert client.exists("{ratelimit}:plan:gold:past") == 0


def test_a_key_that_an_import_moved_is_listed_still(gateway):
    """As one that was moved by hand."""
    assert use(gateway, 3) == 3
    gateway.catalog.put_plan(UsagePlan("other"))
    text = f"Key,Name,UsagePlanIds\n{VALUES['k1']},k1,other\n"
    assert gateway.catalog.import_keys(io.StringIO(text)).warnings == ()
    assert gateway.catalog.get_key(gateway.ids["k1"]).plans == ("other",)
    assert listed(gateway)[gateway.ids["k1"]] == [(3, 97)]


def test_a_deleted_key_has_used_nothing(gateway):
    """With a key go its days; one of the same value starts anew."""
    assert use(gateway, 3) == 3
    gateway.catalog.delete_key(gateway.ids["k1"])
    gateway.ids["k1"] = gateway.catalog.create_key(value=VALUES["k1"], plans=["gold"]).id
    assert days(gateway) == [(0, 100)]
    assert use(gateway, 1) == 1
    assert days(gateway) == [(1, 99)]


def test_a_peek_and_a_denial_use_nothing(gateway):
    """Only what is admitted is used."""
    assert use(gateway, 101) == 100
    gateway.peek("k1", GET_PETS)
    gateway.check("k1", GET_PETS, 7)
    assert days(gateway) == [(100, 0)]


def test_an_unknown_plan_is_reported(gateway):
    """NotFound names the plan."""
    with pytest.raises(NotFound, match="there is no plan 'silver'"):
        gateway.catalog.usage("silver", TODAY, TODAY)


def test_an_unknown_key_is_reported(gateway):
    """A key that does not exist is NotFound, not one that used nothing: bills must not rest on a misspelt id."""
    with pytest.raises(NotFound, match="nobody"):
        gateway.catalog.usage("gold", TODAY, TODAY, "nobody")


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("2026-03-32", TODAY), "start"),
        ((TODAY, "4.3.2026"), "end"),
        ((20_000, TODAY), "start"),
        ((None, TODAY), "start"),
        ((TODAY, ""), "end"),
        ((TOMORROW, TODAY), "end"),
        (("2025-03-01", TODAY), "end"),
        ((TODAY, TODAY, "no|id"), "key_id"),
        ((TODAY, TODAY, ""), "key_id"),
        ((TODAY, TODAY, None, 0), "limit"),
        ((TODAY, TODAY, None, 501), "limit"),
        ((TODAY, TODAY, None, "all"), "limit"),
        ((TODAY, TODAY, None, 1, 7), "cursor"),
    ],
)
def test_what_cannot_be_asked_is_named(gateway, arguments, field):
    """Days that are none, an end before the start, more than a year, pages of no or too many keys: ConfigError."""
    with pytest.raises(ConfigError) as caught:
        gateway.catalog.usage("gold", *arguments)
    assert caught.value.field == field


def test_days_are_dates_or_their_text(gateway):
    """Both name the same days; a year is not too long."""
    by_date = gateway.catalog.usage("gold", date(2026, 3, 4), date(2027, 3, 4))
    assert by_date == gateway.catalog.usage("gold", "2026-03-04", "2027-03-04")
    assert len(by_date.items[gateway.ids["k1"]]) == 366


# What is left, set by hand


@pytest.mark.parametrize("remaining", [0, 1, 60, 70, 90, 100, 250])
def test_exactly_what_is_set_is_left(gateway, remaining):
    """Down, up, to nothing and above the limit: as many as were set are admitted, and usage says so."""
    assert use(gateway, 30) == 30
    set_remaining(gateway, remaining)
    assert days(gateway) == [(30, remaining)]
    assert gateway.peek("k1", GET_PETS).limits[-1].remaining == remaining
    assert use(gateway, remaining + 1) == remaining
    assert days(gateway) == [(30 + remaining, 0)]
    assert days(gateway, who="k2") == [(0, 100)]


def test_what_was_set_last_holds(gateway):
    """Set again, what is left is what the last call said, not their sum."""
    for remaining in (5, 500, 20):
        set_remaining(gateway, remaining)
    assert use(gateway, 21) == 20


def test_a_key_without_traffic_can_be_set(gateway):
    """What is left of a key that was never checked, and its next window."""
    set_remaining(gateway, 3)
    assert days(gateway) == [(0, 3)]
    assert use(gateway, 4) == 3
    gateway.clock.set("2026-03-05T00:00:00")
    assert days(gateway, TODAY, TOMORROW) == [(3, 0), (0, 100)]
    assert use(gateway, 101) == 100


def test_what_was_set_moves_with_the_limit(gateway):
    """Set to 10 above the limit, a plan that is raised by 100 leaves 100 more."""
    set_remaining(gateway, 110)
    gateway.catalog.put_plan(UsagePlan("gold", None, Quota(200, "DAY"), [A, B]))
    assert days(gateway) == [(0, 210)]


def test_setting_leaves_bucket_and_meter(gateway):
    """What is left of the quota is all that changes: the bucket's tokens and the day's use stay."""
    gateway.catalog.put_plan(UsagePlan("gold", TEN_FIVE, DAILY, [A, B]))
    assert use(gateway, 5) == 5
    before = struct.unpack("<7d", gateway.hash_of("k1")[b"p:gold"])
    set_remaining(gateway, 50)
    *bucket, calendar, used, granted, day_used = struct.unpack("<7d", gateway.hash_of("k1")[b"p:gold"])
    assert (*bucket, calendar, used, day_used) == (*before[:5], before[6])
    assert granted == 50 + 5 - DAILY.limit
    assert gateway.check("k1", GET_PETS).retry_after == 0.1


@pytest.mark.parametrize("period", ["DAY", "MONTH"])
def test_setting_on_a_new_day_leaves_the_days_before(gateway, period):
    """Before its first request of a day a key is given 50: the day before still ended with 70, in any window."""
    gateway.catalog.put_plan(UsagePlan("gold", None, Quota(100, period), [A, B]))
    assert use(gateway, 30) == 30
    gateway.clock.set("2026-03-05T09:00:00")
    set_remaining(gateway, 50)
    assert days(gateway, TODAY, TOMORROW) == [(30, 70), (0, 50)]
    assert use(gateway, 2) == 2
    assert days(gateway, TODAY, TOMORROW) == [(30, 70), (2, 48)]


def test_setting_in_a_new_window_counts_from_there(gateway, backend):
    """What another window counted does not go on in this one, and the script reports the window and its count."""
    assert use(gateway, 30) == 30
    gateway.clock.set("2026-03-05T09:00:00")
    set_remaining(gateway, 50)
    assert use(gateway, 2) == 2
    day = (date.fromisoformat(TOMORROW) - EPOCH).days
    with backend.client() as client:
        name = f"ratelimit:{{{gateway.ids['k1']}}}"
        reply = client.eval(load("usage").source, 2, name, f"{name}:days", "gold")
    assert reply[:5] == [day * 64 + 1, 2, -50, day, 2]


def test_setting_by_a_clock_that_went_back_leaves_the_day(gateway):
    """Days never go back: what was metered tomorrow stays tomorrow's."""
    gateway.clock.set("2026-03-05T09:00:00")
    assert use(gateway, 30) == 30
    gateway.clock.set("2026-03-04T09:00:00")
    set_remaining(gateway, 50)
    *_, calendar, used, granted, day_used = struct.unpack("<7d", gateway.hash_of("k1")[b"p:gold"])
    assert (calendar % 2**20, used, granted, day_used) == ((date(2026, 3, 5) - EPOCH).days, 30, -20, 30)


def test_a_state_of_another_length_is_reported(gateway, backend):
    """As by a check: it may be of another version, and is neither read nor written."""
    with backend.client() as client:
        name = f"ratelimit:{{{gateway.ids['k1']}}}"
        client.hset(name, "p:gold", bytes(64))
        for call in (days, lambda gateway: set_remaining(gateway, 50)):
            with pytest.raises(StoreError, match="RATELIMIT CORRUPT p:gold"):
                call(gateway)
        assert client.hget(name, "p:gold") == bytes(64)


def test_who_cannot_be_set_is_named(gateway):
    """An unknown plan or key, a key of another plan, a plan without quota, a number that is none: nothing is set."""
    gateway.catalog.put_plan(UsagePlan("free", None, None, ["c/prod"]))
    gateway.catalog.put_plan(UsagePlan("other", None, DAILY, ["c/prod"]))
    gateway.catalog.add_key_to_plan(gateway.ids["k1"], "free")
    before = gateway.hash_of("k1")
    for error, arguments, message in (
        (NotFound, ("silver", gateway.ids["k1"], 5), "there is no plan 'silver'"),
        (NotFound, ("gold", "nobody", 5), "'nobody'"),
        (NotFound, ("other", gateway.ids["k1"], 5), "is not in plan 'other'"),
        (ConfigError, ("free", gateway.ids["k1"], 5), "has no quota"),
        (ConfigError, ("gold", gateway.ids["k1"], -1), "remaining"),
        (ConfigError, ("gold", gateway.ids["k1"], 1.5), "remaining"),
        (ConfigError, ("gold", gateway.ids["k1"], True), "remaining"),
        (ConfigError, ("gold", gateway.ids["k1"], 2**53), "remaining"),
    ):
        with pytest.raises(error, match=message):
            gateway.catalog.set_remaining(*arguments)
    assert gateway.hash_of("k1") == before
    assert not gateway.client.exists("ratelimit:{nobody}")


def test_asyncio_returns_and_sets_the_same(backend, gateway):
    """The twin's answers are equal."""
    assert use(gateway, 3) == 3

    async def ask():
        client = backend.async_client()
        async with AsyncLimiter(client, deadline=5.0, clock=gateway.clock) as limiter:
            await limiter.catalog.set_remaining("gold", gateway.ids["k2"], 7)
            report = await limiter.catalog.usage("gold", TODAY, TODAY)
        await client.aclose()
        return report

    assert asyncio.run(ask()) == gateway.catalog.usage("gold", TODAY, TODAY)
    assert days(gateway, who="k2") == [(0, 7)]


# Random traffic against a model


def window_start(quota, day):
    """The first day of the window that holds `day`, counted back one day at a time."""
    while True:
        if quota.period == "DAY":
            return day
        if quota.period == "WEEK" and (day.weekday() + 1) % 7 == quota.offset:
            return day
        if quota.period == "MONTH" and day.day == quota.offset + 1:
            return day
        day -= timedelta(days=1)


class Ledger:
    """One key under one quota: admissions and grants are entries, and all figures are sums of entries."""

    def __init__(self, quota):
        self.quota, self.admitted, self.granted = quota, [], []

    def remaining(self, day):
        """What is left of the window of `day` at that day's end."""
        start = window_start(self.quota, day)
        used, granted = (
            sum(units for at, units in entries if start <= at <= day) for entries in (self.admitted, self.granted)
        )
        return self.quota.limit + granted - used

    def check(self, day, cost):
        admitted = cost <= self.remaining(day)
        if admitted:
            self.admitted.append((day, cost))
        return admitted

    def set_remaining(self, day, remaining):
        self.granted.append((day, remaining - self.remaining(day)))

    def usage(self, first, last):
        days = [first + timedelta(days=later) for later in range((last - first).days + 1)]
        return [(sum(cost for at, cost in self.admitted if at == day), self.remaining(day)) for day in days]


quotas = st.one_of(
    st.builds(Quota, st.sampled_from((5, 20)), st.just("DAY")),
    st.builds(Quota, st.sampled_from((5, 20)), st.just("WEEK"), st.integers(0, 6)),
    st.builds(Quota, st.sampled_from((5, 20, 60)), st.just("MONTH"), st.integers(0, 27)),
)
hours = st.sampled_from((0, 0, 1, 9, 24, 24, 47, 120, 24 * 20))
checks = st.tuples(hours, st.just("check"), st.sampled_from((1, 1, 2, 3, 5, 8)))
grants = st.tuples(hours, st.just("set_remaining"), st.sampled_from((0, 1, 4, 30)))


def usage_equals_the_model(backend, clock, examples, *, granting):
    """Whatever a key does over days and windows, each day's used and remaining are the model's."""
    with replica(backend, clock=clock) as limiter, backend.client() as client:

        @settings(
            max_examples=examples,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )
        @given(quotas, st.lists(checks | grants if granting else checks, min_size=5, max_size=40))
        def run(quota, events):
            client.flushall()
            clock.set("2026-03-04T12:00:00")
            limiter.catalog.put_plan(UsagePlan("gold", None, quota, [STAGE]))
            key, model = limiter.catalog.create_key(plans=["gold"]), Ledger(quota)
            for later, what, units in events:
                clock.advance(later * 3600)
                day = EPOCH + timedelta(microseconds=clock())
                if what == "check":
                    decision = limiter.check(key.value, STAGE, METHOD, units)
                    assert decision.allowed == model.check(day, units)
                    assert decision.limits[0].remaining == model.remaining(day)
                else:
                    limiter.catalog.set_remaining("gold", key.id, units)
                    model.set_remaining(day, units)
            last = EPOCH + timedelta(microseconds=clock())
            first, kept_from = last - timedelta(days=88), last - timedelta(days=DAYS_KEPT)
            # Of a window that was charged before the days that are kept, what was left cannot be known.
            while any(window_start(quota, first) <= at < kept_from for at, _ in model.admitted):
                first += timedelta(days=1)
            usage = limiter.catalog.usage("gold", first, last, key.id).items[key.id]
            assert usage == model.usage(first, last)

        run()


def test_usage_equals_the_model(backend, clock):
    """Under quotas by day, week and month with every offset."""
    usage_equals_the_model(backend, clock, 25 if backend.server is None else 100, granting=False)


def test_usage_equals_the_model_with_grants(backend, clock):
    """Also where what is left is set by hand in between."""
    usage_equals_the_model(backend, clock, 25 if backend.server is None else 100, granting=True)


BUGS = {
    "the balance after the next window began": ("balance = math.max(0, quota + granted - used)", "balance = quota"),
    "grants outlive their window": ("if not goes_on then used, granted = 0, 0 end", "if not goes_on then used = 0 end"),
    "windows compared by length alone": ("stored == window", "days == window % WINDOW_BASE"),
}


@pytest.mark.parametrize("name", BUGS)
def test_the_model_notices(server, clock, name):
    """Each of these bugs breaks the equality, and the test of it fails."""
    with bug(*BUGS[name]), pytest.raises(AssertionError):
        usage_equals_the_model(server, clock, 100, granting=True)
