"""Random histories of check.lua with what each reply and everything that is stored has to be, by the exact model.

Of one namespace: three callers of one plan, whose limits change, as do its shadow, stage and account, while a clock
jumps. All of it is worked out once; a history is then a list of commands, and sending it costs a millisecond.
"""

import struct
from dataclasses import dataclass, field
from random import Random

from properties.machine_inputs import AT_THE_EDGE, BURSTS, NOT_TOLERATED, RATES, SMALL_STEPS, START_US, TOLERATED
from properties.machine_model import as_modelled, as_told, would
from vectors.packing import version_token

from ratelimit import Method, PlanStage, Quota, Stage, Throttle, UsagePlan
from ratelimit.engine import protocol
from ratelimit.engine.compile import compile_limits
from ratelimit.engine.limits import Bucket, QuotaCount
from ratelimit.engine.reference_model import Reference
from ratelimit.errors import RateLimitError
from ratelimit.registry.redis_keys import RedisKeys, identity_id
from ratelimit.registry.snapshot import CatalogSnapshot
from ratelimit.registry.windows import DAY_US, two_windows

NAMES = RedisKeys("ratelimit")
STAGE, METHODS = "petstore/prod", ("GET /pets", "POST /pets")
PLAN, NEXT = "gold", "next"
KEPT_US = 60_000_000
REPORTED = ("key", "plan", "percent", "used", "limit", "window_day", "time_us")
"""What an alert tells."""
DIGESTS = tuple(letter * 22 for letter in "abc")


@dataclass
class Counts:
    """What was counted for one caller besides its limits."""

    version: int | None = None
    day: int = 0
    day_used: int = 0
    closed: dict[int, tuple[int, int]] = field(default_factory=dict)
    alert: tuple[int, int] = (0, 0)
    shadow: list[int] = field(default_factory=lambda: [0, 0, 0])
    """Requests that it would have throttled, that were over its quota, and all that it saw."""


@dataclass(frozen=True)
class Asked:
    """A check, and what its reply has to say."""

    keys: tuple[str, ...]
    arguments: tuple[bytes | str, ...]
    judge: object
    """Takes the reply; returns whether it is right."""


class History:
    """One history. `asked` are its checks, `expected` is what is stored in the end, by key.

    The models know P of a state from the limit under which it was written.
    """

    def __init__(self, seed, length=40):
        self.seed = seed
        self._random = random = Random(seed)
        self.is_of_identities = random.random() < 0.35
        self.callers = [identity_id(digest) for digest in DIGESTS] if self.is_of_identities else ["k1", "k2", "k3"]
        self._now_us = START_US + random.choice((0, 0, 1, 12 * 3_600_000_000 - 5))
        self._version = 7
        self._limits = Reference()
        self._shadow = Reference()
        self._pers = {}
        self._counts = {caller: Counts() for caller in self.callers}
        self._reports = []
        self.asked = []
        self._has_alerts, self._has_shadow = random.random() < 0.5, random.random() < 0.4
        self._bound = random.choice((1, 2)) if self.is_of_identities and random.random() < 0.6 else None
        self._put_plan()
        for _ in range(length):
            self._step()
        self.expected = self._expected()

    # What happens

    def _throttle(self):
        random = self._random
        if random.random() < 0.08:
            return random.choice(AT_THE_EDGE)
        if random.random() < 0.3:
            return Throttle(random.choice(RATES), random.choice(BURSTS))
        return Throttle(random.choice(("1/3", 1, "3/2", "7/5", 10, "1000000/7")), random.choice((3, 5, 10, 30)))

    def _quota(self):
        random = self._random
        period = random.choice(("DAY", "DAY", "WEEK", "MONTH"))
        offset = {"DAY": 0, "WEEK": random.randrange(7), "MONTH": random.randrange(28)}[period]
        return Quota(random.choice((0, 3, 5, 10, 20, 20, 50, 100)), period, offset)

    def _some(self, make, share):
        return make() if self._random.random() < share else None

    def _plan(self, plan_id, **more):
        throttle = self._some(self._throttle, 0.75)
        entries = {name: self._throttle() for name in METHODS if throttle and self._random.random() < 0.3}
        scope = "key_method" if throttle and self._random.random() < 0.15 else "key"
        quota = self._some(self._quota, 0.7)
        if quota is None:
            more.pop("alerts", None)
        return UsagePlan(plan_id, throttle, quota, [PlanStage(STAGE, entries)], throttle_scope=scope, **more)

    def _put_plan(self):
        alerts = (50, 80, 100) if self._has_alerts else ()
        shadow = NEXT if self._has_shadow else None
        plan = self._plan(PLAN, shadow=shadow, alerts=alerts, max_identities=self._bound)
        methods = {name: Method(self._some(self._throttle, 0.5)) for name in METHODS if self._random.random() < 0.3}
        stage = Stage(STAGE, self._some(self._throttle, 0.3), methods)
        account = self._some(self._throttle, 0.3)
        self._snapshot = CatalogSnapshot(
            plans={PLAN: plan, NEXT: self._plan(NEXT)}, stages={STAGE: stage}, account=account
        )

    def _step(self):
        random = self._random
        chance = random.random()
        if chance < 0.04:
            self._version += 1
            self._put_plan()
        elif chance < 0.07:
            self._now_us -= random.choice(TOLERATED)
        elif chance < 0.09:
            self._now_us -= random.choice(NOT_TOLERATED)
        elif chance < 0.12:
            quota = self._snapshot.plans[PLAN].quota or Quota(1, "DAY")
            edge = random.choice(two_windows(quota, self._now_us)[:2])
            self._now_us = edge * DAY_US + random.choice((-1, 0, 1))
        elif chance < 0.17:
            self._now_us += random.choice((60_000_000, 3_600_000_000, DAY_US, 8 * DAY_US, 40 * DAY_US))
        elif chance < 0.8:
            self._now_us += random.choice(SMALL_STEPS)
        cost = random.choice((1,) * 30 + (2, 2, 2, 3, 3, 5, 6, 11, 101, 9007, 0, 2**53))
        self._ask(random.choice(self.callers), random.choice(METHODS), cost, peeks=random.random() < 0.06)

    # What it has to lead to

    def _ask(self, caller, method, cost, *, peeks):
        plan = self._snapshot.plans[PLAN]
        call = compile_limits(self._snapshot, plan, STAGE, method, NAMES, is_identity=self.is_of_identities)
        if not call.limits:
            cost = min(cost, 1000)  # what no limit bounds is still added up, and has to stay below 2^53
        call.update_windows(self._now_us)
        stamp = "--------" if self.is_of_identities else "stamp--1"
        request = call.request(
            now_us=self._now_us,
            cost=cost,
            valid_until_us=KEPT_US if self.is_of_identities else 0,
            flags=protocol.PEEK if peeks else 0,
            version_token=version_token(self._version, stamp=stamp),
            estimate_us=lambda: self._now_us,
        )
        bound = {"identity_bound": (PLAN, self._bound) if self._bound else None}
        quota_place = (caller, f"quota:{PLAN}")
        had = self._limits._states.get(quota_place)
        ask = would if peeks else Reference.check
        before = dict(self._limits._states)
        verdict = ask(self._limits, caller, call.limits, cost, self._now_us, **bound)
        self._note_pers(self._limits, before, caller, call.limits)
        statuses = self._statuses(verdict, cost, peeks)
        if verdict.allowed and cost and not peeks:
            statuses = self._charge(caller, plan, cost, had.used if had else 0) or statuses
            self._judge_by_shadow(caller, call, cost)
        expected, now_us = as_modelled(verdict, call.limits, self._now_us), self._now_us

        def judge(reply):
            try:
                decision = call.decision(reply, cost or 1)  # of cost 0: what a cost of 1 would get
                return (
                    protocol.status(reply) in statuses
                    and decision.time_us == now_us
                    and as_told(decision) == expected
                    and (isinstance(reply, bytes) or len(reply[2]) == 16 * len(call.limits))
                )
            except (RateLimitError, struct.error, TypeError, ValueError, IndexError, OverflowError, ZeroDivisionError):
                return False

        self.asked.append(Asked((NAMES.key_hash(caller), *call.shared_keys), (request, *call.fields), judge))

    def _statuses(self, verdict, cost, peeks):
        if not verdict.allowed:
            beyond = verdict.limited_by == "identities"
            return {protocol.TOO_MANY_IDENTITIES if beyond else protocol.DENIED}
        return {protocol.ADMITTED} if cost and not peeks else {protocol.WOULD_ADMIT}

    def _note_pers(self, reference, before, caller, limits):
        for limit in limits:
            place = "" if limit.shared else caller, limit.field_or_key or limit.name
            if isinstance(limit, Bucket) and reference._states.get(place) is not before.get(place):
                self._pers[reference is self._shadow, *place] = limit.throttle.ratio[1]

    def _charge(self, caller, plan, cost, used):
        """Meter what was admitted; return the statuses of which one is due, if a day is over."""
        counts, today, statuses = self._counts[caller], self._now_us // DAY_US, None
        counts.version = self._version
        if today > counts.day:
            if counts.day and not self.is_of_identities:
                left = max(0, plan.quota.limit - used) if plan.quota else -1
                counts.closed[counts.day] = counts.day_used, left
                statuses = {protocol.ADMITTED_DAY_OVER}
            counts.day, counts.day_used = today, 0
        counts.day_used += cost
        if plan.quota and plan.alerts and not self.is_of_identities:
            self._report(caller, plan, cost)
        return statuses

    def _report(self, caller, plan, cost):
        held = self._limits._states[caller, f"quota:{PLAN}"]
        window, counts = window_number(held), self._counts[caller]
        for percent in plan.alerts:
            count = -(-plan.quota.limit * percent // 100)
            last = counts.alert[1] if counts.alert[0] == window else 0
            if held.used - cost < count <= held.used and percent > last:
                counts.alert = window, percent
                report = caller, PLAN, percent, held.used, plan.quota.limit, window // 64, self._now_us
                entry = zip(REPORTED, report, strict=True)
                self._reports.append(tuple(str(each).encode() for item in entry for each in item))

    def _judge_by_shadow(self, caller, call, cost):
        if call._shadow is None:
            return
        (throttle, quota), fields = call._shadow
        limits = [Bucket("shadow", throttle, fields[-1])] if throttle else []
        limits += [QuotaCount("shadow:quota", quota)] if quota else []
        before = dict(self._shadow._states)
        verdict = self._shadow.check(caller, limits, cost, self._now_us)
        self._note_pers(self._shadow, before, caller, limits)
        counts = self._counts[caller].shadow
        counts[2] += 1
        if throttle and verdict.limits[0].retry_us != 0:
            counts[0] += 1
        elif not verdict.allowed:
            counts[1] += 1

    # What is stored in the end

    def is_stored(self, held):
        """Whether what a server holds, by key as HGETALL, GET, XRANGE or ZRANGE tell it, is what was to be written."""
        expected = self.expected
        return set(held) == set(expected) and all(self._is_same(held[name], expected[name]) for name in expected)

    def _is_same(self, held, expected):
        if not isinstance(expected, dict):
            return held == expected
        if not isinstance(held, dict) or set(held) != set(expected):
            return False
        for name, value in expected.items():
            if isinstance(value, bytes):
                if held[name] != value:
                    return False
            elif len(held[name]) != 8 * len(value):
                return False
            else:
                numbers = struct.unpack(f"<{len(value)}d", held[name])
                if any(right is not None and right != number for right, number in zip(value, numbers, strict=True)):
                    return False
        return True

    def _expected(self):
        stored = {}
        for caller, counts in self._counts.items():
            fields = {}
            if counts.version is not None:
                fields |= self._fields(caller, counts)
            if counts.version is not None or not self.is_of_identities:
                stamp = "--------" if self.is_of_identities else "stamp--1"
                fields[b"r"] = version_token(counts.version or 7, stamp=stamp)
                stored[NAMES.key_hash(caller).encode()] = fields
        for owner, place in self._limits._states:
            if owner == "":
                stored[place.encode()] = struct.pack("<3d", *self._bucket("", place))
        if self._reports:
            stored[NAMES.alerts.encode()] = self._reports
        identities = self._limits._identities.get(PLAN, set())
        if identities:
            stored[NAMES.identities(PLAN, 1).encode()] = sorted(caller[1:].encode() for caller in identities)
        return stored

    def _fields(self, caller, counts):
        window = self._limits._states.get((caller, f"quota:{PLAN}"))
        calendar = (window_number(window) if window else 0) * 2**20 + counts.day
        bucket = self._bucket(caller, f"plan:{PLAN}") or (0, 0, None)
        fields = {b"p:gold": (*bucket, calendar, window.used if window else 0, 0, counts.day_used)}
        for owner, place in self._limits._states:
            if owner == caller and place.startswith("b:"):
                fields[place.encode()] = self._bucket(caller, place)
        fields |= {f"d:gold:{day}".encode(): closed for day, closed in counts.closed.items()}
        if counts.alert[0]:
            fields[b"a:gold"] = counts.alert
        if counts.shadow[2]:
            window = self._shadow._states.get((caller, "shadow:quota"))
            own = self._bucket(caller, "s:p:next", shadow=True) or (0, 0, 0)
            count = (window_number(window), window.used) if window else (0, 0)
            fields[b"s:p:next"] = (*own, *count, *counts.shadow)
            for owner, place in self._shadow._states:
                if owner == caller and place.startswith("s:b:"):
                    fields[place.encode()] = self._bucket(caller, place, shadow=True)
        return fields

    def _bucket(self, owner, place, *, shadow=False):
        tokens = (self._shadow if shadow else self._limits)._states.get((owner, place))
        if tokens is None:
            return None
        per = self._pers[shadow, owner, place]
        return per, int(tokens.level * per), tokens.last_us


def window_number(window):
    """A window of the model as one number."""
    return window.start // DAY_US * 64 + (window.stop - window.start) // DAY_US
