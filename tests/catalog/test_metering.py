"""The law of sums: what is metered, by day, key and plan, is what was admitted. No unit more, none less, ever."""

import random
import struct
import time
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction

import pytest
from helpers.lua_mutation import bug
from helpers.metering_worker import DONE, FREE, plan_of, spend
from helpers.processes import GATE, PROCESSES
from helpers.replica import METHOD, OTHER, STAGE, replica
from helpers.waiting import wait_for

from ratelimit import Catalog, PlanStage, Quota, Stage, Throttle, UsagePlan
from ratelimit.registry.windows import DAY_US, DAYS_KEPT

TURNS = 80
PLANS = ("gold", "silver", FREE)
SLOW = Fraction(1, 10)


def plan(plan_id, throttle=None, quota=None, entries=(), scope="key"):
    return UsagePlan(plan_id, throttle, quota, [PlanStage(STAGE, dict(entries))], throttle_scope=scope)


ENTRY = {METHOD: Throttle(2000, 20)}
CHANGES = (
    lambda _: (Throttle(3000, 40), Quota(900, "DAY")),
    lambda _: (Throttle(3000, 9), Quota(900, "DAY")),
    lambda turn: (Throttle(3000, 40), Quota(500 + 100 * turn, "DAY")),
    lambda _: (Throttle("10000/7", 40), Quota(2000, "MONTH", 3)),
    lambda _: (Throttle("10000/7", 40), Quota(2000, "WEEK", 5)),
    lambda _: (Throttle(3000, 40), Quota(9000, "DAY"), ENTRY),
    lambda _: (Throttle(3000, 40), Quota(9000, "DAY"), ENTRY, "key_method"),
    lambda _: (Throttle(5000, 40), None),
    lambda turn: (None, Quota(1000 + 300 * turn, "DAY")),
    lambda _: (Throttle(3000, 40), Quota(1, "DAY")),
)


def change_all(catalog, keys, chance):
    """As an administrator, change plans, move keys and rotate them, a few milliseconds apart."""
    at, plans = dict.fromkeys(keys, 0), dict.fromkeys(keys, "gold")
    for turn in range(TURNS):
        change = CHANGES[turn % len(CHANGES)]
        catalog.put_plan(plan(PLANS[turn // len(CHANGES) % 2], *change(turn)))
        key_id = chance.choice(list(keys))
        if turn % 3 == 0:
            at[key_id] += 1
            catalog.rotate_key(key_id, grace_s=chance.choice((0, 0.01)), value=keys[key_id][at[key_id]])
        elif turn % 3 == 1:
            catalog.remove_key_from_plan(key_id, plans[key_id])
            plans[key_id] = chance.choice(PLANS)
            catalog.add_key_to_plan(key_id, plans[key_id])
        time.sleep(0.004)


def metered(catalog, key_ids, first, last):
    """Units by (key, plan), as `usage` reports them: those that are 0 left out."""
    return Counter(
        {
            (key_id, plan_id): total
            for key_id in key_ids
            for plan_id in PLANS
            if (total := sum(used for used, _ in catalog.usage(plan_id, first, last, key_id).items[key_id]))
        }
    )


def in_raw_states(client, key_ids):
    """Units by (key, plan), as lua/PROTOCOL.md describes the state: today's, and those of days that are over."""
    total = Counter()
    for key_id in key_ids:
        for name, packed in client.hgetall(f"ratelimit:{{{key_id}}}").items():
            kind, plan_id, *_ = name.decode().split(":") if b":" in name else ("", "")
            if kind == "p":
                total[key_id, plan_id] += struct.unpack("<7d", packed)[6]
            elif kind == "d":
                total[key_id, plan_id] += struct.unpack("<2d", packed)[0]
        for name, packed in client.hgetall(f"ratelimit:{{{key_id}}}:days").items():
            total[key_id, name.decode().split(":")[0]] += struct.unpack("<2d", packed)[0]
    return total


def test_what_processes_were_admitted_is_metered(server, processes):
    """Eight processes, and an administrator who changes all there is to change meanwhile: the sums are equal."""
    with server.client() as client:
        catalog = Catalog(client)
        today = datetime.now(UTC).date()
        catalog.put_plan(plan("gold", *CHANGES[0](0)))
        catalog.put_plan(plan("silver", *CHANGES[3](0)))
        catalog.put_plan(plan(FREE))
        catalog.put_stage(Stage(STAGE, Throttle(8000, 50)))
        keys = {}
        for number in range(4):
            values = [f"key-{number}-value-{turn:04}-of-many" for turn in range(TURNS)]
            keys[catalog.create_key(value=values[0], plans=["gold"]).id] = values
        tasks = [(server.url, keys, PROCESSES, seed) for seed in range(PROCESSES)]
        running = processes.starmap_async(spend, tasks, chunksize=1)
        wait_for(lambda: client.get(GATE) == b"8", seconds=60)
        try:
            change_all(catalog, keys, random.Random(1))
        finally:
            client.set(DONE, 1)
        admitted, outcomes = Counter(), Counter()
        for units, reasons in running.get():
            admitted += units
            outcomes += reasons
        assert set(outcomes) == {"ALLOWED", "THROTTLED", "QUOTA_EXCEEDED", "INVALID_KEY"}
        assert {plan_id for _, plan_id in admitted} == set(PLANS)
        assert metered(catalog, keys, today, today + timedelta(days=1)) == admitted

        assert in_raw_states(client, keys) == admitted


# Days, with an injected clock


class Meter:
    """The exact model of one key's metering: units by plan and day, and which of them are kept."""

    def __init__(self):
        self.today = dict.fromkeys(PLANS, 0)
        self.used, self.kept, self.forgotten = Counter(), set(), 0

    def admit(self, plan_id, cost, day):
        """Count an admission. Days roll forward only: what comes after a step back is of the later day."""
        before = self.today[plan_id]
        if day > before:
            self.today[plan_id] = day
            if self.used[plan_id, before]:
                old = {at for at in self.kept if at[1] < day - DAYS_KEPT and at[1] != self.today[at[0]]}
                self.forgotten += sum(self.used[at] for at in old)
                self.kept -= old
        self.used[plan_id, self.today[plan_id]] += cost
        self.kept.add((plan_id, self.today[plan_id]))


STEPS_US = (0,) * 6 + (1, 3_600_000_000, 7_200_000_000, DAY_US // 2, DAY_US, DAY_US, 8 * DAY_US)
STEPS_BACK_US = (-1, -1_000_000, -2_000_000, -2_000_001, -3_600_000_000, -DAY_US, -3 * DAY_US)


def every_day_is_metered(backend, clock):
    """Over 400 days, with steps back over midnight and changes of plans: each day that is kept has its exact figure."""
    chance, model = random.Random(7), Meter()
    with replica(backend, clock=clock) as limiter, backend.client() as client:
        catalog = limiter.catalog
        for plan_id in PLANS[:2]:
            catalog.put_plan(plan(plan_id, Throttle(1, 20), Quota(100, "DAY")))
        catalog.put_plan(UsagePlan(FREE, None, None, ["admin/prod"]))
        key, current = catalog.create_key(plans=["gold", FREE]), "gold"
        for turn in range(900):
            clock.advance_us(chance.choice(STEPS_BACK_US if turn % 9 == 8 else STEPS_US))
            if turn % 40 == 39:
                change = CHANGES[chance.randrange(len(CHANGES))]
                catalog.put_plan(plan(current, *change(turn)))
            if turn % 100 == 99:
                catalog.remove_key_from_plan(key.id, current)
                current = "silver" if current == "gold" else "gold"
                catalog.add_key_to_plan(key.id, current)
                key = catalog.rotate_key(key.id)
            cost, stage = chance.choice((1, 1, 2, 5, 19, 0)), chance.choice((STAGE, STAGE, "admin/prod"))
            decision = limiter.check(key.value, stage, chance.choice((METHOD, OTHER)), cost)
            if decision.allowed and cost:
                model.admit(plan_of(decision), cost, clock() // DAY_US)
            if turn % 60 == 59:
                assert_metered(catalog, key.id, model)
        days = {day for _, day in model.used}
        assert max(days) - min(days) > 400
        assert model.forgotten > 1000
        assert sum(in_raw_states(client, [key.id]).values()) == sum(model.used.values()) - model.forgotten
        assert [field for field in client.hkeys(f"ratelimit:{{{key.id}}}") if field.startswith(b"d:")] == []


def assert_metered(catalog, key_id, model):
    """What `usage` reports of each day is the model's: of those that are kept, and 0 of all others."""
    for plan_id in PLANS:
        last = max(day for _, day in model.kept)
        days = range(last - 360, last + 1)
        usage = catalog.usage(plan_id, *(date(1970, 1, 1) + timedelta(days=day) for day in (days[0], last)), key_id)
        used_by_day = {day: used for day, (used, _) in zip(days, usage.items[key_id], strict=True) if used}
        assert used_by_day == {day: model.used[at] for at in model.kept if at[0] == plan_id for day in at[1:]}


def test_every_day_is_metered(backend, clock):
    """The sum law holds day by day; days of the last 90 are kept, older ones are forgotten."""
    every_day_is_metered(backend, clock)


BUGS = {
    "requests counted for units": ("day_used = math.min(day_used + charge, MAX_INTEGER)", "day_used = day_used + 1"),
    "days roll back": ("if today > day then", "if today ~= day then"),
    "closed days lost": ("if day > 0 and not is_identity then", "if false then"),
    "denials metered": (
        "elseif hash_values and not denied then",
        "elseif hash_values then\n  if denied then day_used = day_used + cost end",
    ),
    "usual: requests counted for units": ("day_used = day_used + cost", "day_used = day_used + 1"),
    "usual: a new day ignored": ("left = calendar == current_calendar", "left = calendar <= current_calendar"),
    "usual: a new day ignored without a quota": (
        "calendar % CALENDAR_BASE == today",
        "calendar % CALENDAR_BASE <= today",
    ),
    "usual: denials metered": (
        "  if denied then return reply end\n",
        # Its state with as many units more on its day.
        (
            "  if denied then\n"
            "    local metered = struct.unpack('<d', hash_values[2], 49) + cost\n"
            "    local state = string.sub(hash_values[2], 1, 48) .. struct.pack('<d', metered)\n"
            "    redis.call('HSET', KEYS[1], ARGV[2], state)\n"
            "    return reply\n"
            "  end\n"
        ),
    ),
}


@pytest.mark.parametrize("name", BUGS)
def test_the_law_of_sums_notices(backend, clock, name):
    """Each of these bugs breaks the law, and the test of it fails."""
    with bug(*BUGS[name]), pytest.raises(AssertionError):
        every_day_is_metered(backend, clock)


@pytest.mark.parametrize("right", ["tonumber(ARGV[1]) then", "redis.call('HSET', KEYS[2], string.sub(field, 3)"])
def test_the_archive_is_watched(backend, clock, right):
    """A day too many forgotten, or a closed day written to another name, fails the test too."""
    wrong = right.replace("(ARGV[1])", "(ARGV[1]) + 1").replace("field, 3", "field, 4")
    with bug(right, wrong, "archive"), pytest.raises(AssertionError):
        every_day_is_metered(backend, clock)


# What metering costs a check


@contextmanager
def commands_received(server):
    """Yield a function that returns the commands which the server was sent since its last call, by MONITOR.

    Those that scripts send are left out.
    """
    with server.client() as asking, server.client() as watching, watching.monitor() as monitor:

        def commands():
            asking.echo("until here")
            names = []
            while (command := monitor.next_command())["command"] != "ECHO until here":
                if command["client_type"] != "lua":
                    names.append(command["command"].split()[0])
            return names

        commands()  # what connecting sends
        yield commands


def test_a_check_is_one_command(server, clock):
    """On a day like any other, whatever is limited, metered, reported or tried out: one EVALSHA, admitted or denied."""
    with replica(server, clock=clock, max_age=10**6) as limiter:
        limiter.catalog.put_plan(UsagePlan("next", Throttle(1, 3), Quota(2, "DAY"), [STAGE]))
        limiter.catalog.put_plan(
            UsagePlan("gold", Throttle(SLOW, 5), Quota(9, "MONTH"), [STAGE], alerts=[10, 100], shadow="next")
        )
        limiter.catalog.put_stage(Stage(STAGE, Throttle(SLOW, 100)))
        limiter.catalog.set_account_throttle(Throttle(SLOW, 100))
        value = limiter.catalog.create_key(plans=["gold"]).value
        limiter.check(value, STAGE, METHOD)  # looks at the catalogue and at the key, once
        with commands_received(server) as commands:
            assert [limiter.check(value, STAGE, METHOD).allowed for _ in range(7)] == [True] * 4 + [False] * 3
            assert commands() == ["EVALSHA"] * 7
            limiter.peek(value, STAGE, METHOD)
            assert commands() == ["EVALSHA"]
            # The first admission of a day moves the one before to the archive: once per key and day.
            clock.advance(86_400)
            assert limiter.check(value, STAGE, METHOD).allowed
            assert commands() == ["EVALSHA", "EVALSHA", "EVAL"]
            assert limiter.check(value, STAGE, METHOD).allowed
            assert commands() == ["EVALSHA"]
            clock.advance(86_400)
            assert limiter.check(value, STAGE, METHOD).allowed
            # On the third day the windows of the shadow are past: the reply says so, and the check is sent again.
            assert commands() == ["EVALSHA", "EVALSHA", "EVALSHA"]
            assert limiter.check(value, STAGE, METHOD).allowed
            assert commands() == ["EVALSHA"]


def test_an_archive_that_failed_loses_nothing(server, clock):
    """A key whose closed days could not be moved goes on; the end of a later day moves them."""
    with replica(server, clock=clock) as limiter, server.client() as client:
        limiter.catalog.put_plan(UsagePlan("gold", None, Quota(100, "DAY"), [STAGE]))
        key = limiter.catalog.create_key(plans=["gold"])
        days = f"ratelimit:{{{key.id}}}:days"
        client.set(days, "no hash")
        for expected in (99, 99, 99):
            assert limiter.check(key.value, STAGE, METHOD).limits[0].remaining == expected
            clock.advance(86_400)
        client.delete(days)
        assert limiter.check(key.value, STAGE, METHOD).allowed
        assert len(client.hkeys(days)) == 3
        usage = limiter.catalog.usage("gold", "2026-03-03", "2026-03-07", key.id)
        assert usage.items == {key.id: [(0, 100), (1, 99), (1, 99), (1, 99), (1, 99)]}


def test_what_no_limit_bounds_is_counted_as_far_as_numbers_are_whole(backend, clock):
    """A plan without limits admits any cost; the day's figure stops at 2^53 - 1, and so stays exact until there."""
    with replica(backend, clock=clock) as limiter:
        limiter.catalog.put_plan(UsagePlan(FREE, None, None, [STAGE]))
        key = limiter.catalog.create_key(plans=[FREE])
        for cost, total in ((2**52, 2**52), (1, 2**52 + 1), (2**60, 2**53 - 1), (1, 2**53 - 1)):
            assert limiter.check(key.value, STAGE, METHOD, cost).allowed
            assert limiter.catalog.usage(FREE, "2026-03-04", "2026-03-04").items == {key.id: [(total, None)]}
