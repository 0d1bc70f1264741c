"""What keys used: metered by the check script, read here as AWS' GetUsage reports it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import islice
from struct import Struct

from ratelimit import validation
from ratelimit.admin.commit import Commit, existing_plan
from ratelimit.admin.listing import MAX_PAGE, invalid_cursor
from ratelimit.admin.reading import records_of
from ratelimit.effects import IndependentCommands, Operation, pairs, texts
from ratelimit.engine.protocol import KEY_CHANGED, WINDOWS_PAST
from ratelimit.errors import ConfigError, NotFound, StoreError
from ratelimit.local.denial_counters import denials_of_day
from ratelimit.model import Quota, UsagePlan
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.redis_keys import plan_field
from ratelimit.registry.windows import DAY_US, DAYS_KEPT, EPOCH_ORDINAL, day_of, two_windows
from ratelimit.scripts import ScriptCall, load

_END_DAY = date(2200, 1, 1).toordinal() - EPOCH_ORDINAL
_GRANT = Struct("<6d")
_DAY = re.compile("[0-9]{1,6}")


@dataclass(frozen=True, slots=True)
class Usage:
    """One page of what the keys of a plan used, day by day; also of keys that have left the plan.

    Attributes:
        plan_id: The plan.
        start: The first day (UTC).
        end: The last day (UTC), included.
        items: By key id, one pair (used, remaining) per day, in units: what was admitted on that day, and what was
            left of the quota at its end (for today: now). `remaining` is None for a plan without a quota.
        denied: By key id, one mapping per day from a reason ("throttled", ...) to denied requests.
        cursor: What to pass to get the next page; None at the end.
    """

    plan_id: str
    start: date
    end: date
    items: Mapping[str, Sequence[tuple[int, int | None]]]
    denied: Mapping[str, Sequence[Mapping[str, int]]] = field(default_factory=dict)
    cursor: str | None = None

    def days(self) -> Iterator[date]:
        """Yield each day, in order."""
        return (self.start + timedelta(days=later) for later in range((self.end - self.start).days + 1))


class UsageAdmin:
    """Reads and adjusts the metering of one namespace."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._names = namespace.names

    def usage(
        self,
        plan_id: str,
        start: date | str,
        end: date | str,
        key_id: str | None = None,
        limit: int = MAX_PAGE,
        cursor: str | None = None,
    ) -> Operation[Usage]:
        """Return what the plan's keys used on each day of [start, end]; `cursor` is the last key id of a page."""
        first, last = _days(start, end)
        validation.whole(limit, "limit", least=1, below=MAX_PAGE + 1)
        plan = existing_plan((yield from self._namespace.load()), plan_id)
        today = day_of((yield from self._namespace.server_us()))
        if key_id is None:
            members, past = yield from self._members(plan_id, first, today)
        else:
            members, past = [(yield from self._existing(key_id))], set[str]()
        if cursor is not None:
            _check_cursor(cursor)
        following = [member for member in members if cursor is None or member > cursor]
        page = following[:limit]
        if key_id is not None:
            live = page
        else:
            live, left = yield from self._live(plan_id, page)
            past |= left
        script = load("usage").source  # EVAL: many at once, whether or not the server knows it
        replies = yield IndependentCommands(
            ("EVAL", script, 2, self._names.key_hash(member), self._names.key_days(member), plan_id) for member in live
        )
        for member, reply in zip(live, replies, strict=True):
            if isinstance(reply, StoreError):
                raise type(reply)(f"what key {validation.shown_id(member)} used cannot be read: {reply}")
        items = {
            member: list(_by_day(plan.quota, reply, first, last, today))
            for member, reply in zip(live, replies, strict=True)
        }
        denied = yield from self._denied(plan_id, live, first, last)
        next_cursor = page[-1] if page and len(following) > limit else None
        for member in past.intersection(live):
            if not any(used for used, _ in items[member]) and not any(denied[member]):
                del items[member], denied[member]
        return Usage(plan_id, _date(first), _date(last), items, denied, next_cursor)

    def set_remaining(self, plan_id: str, key_id: str, remaining: int) -> Operation[None]:
        """Set what is left of a key's quota in the current window."""
        # With what is used already it has to be exact as well.
        validation.whole(remaining, "remaining", below=validation.EXACT // 2)
        plan = existing_plan((yield from self._namespace.load()), plan_id)
        if plan.quota is None:
            raise ConfigError(f"plan {plan_id!r} has no quota: there is nothing to set", field="plan_id")
        yield from self._check_membership(plan, key_id)
        server_us = self._namespace.wall_us()  # an estimate; the script answers with the server's time if it is wrong
        for _ in range(2):
            windows = two_windows(plan.quota, server_us)
            packed = _GRANT.pack(self._namespace.script_us(), plan.quota.limit, *windows, remaining)
            keys = (self._names.key_hash(key_id),)
            status, server_us, *_ = yield ScriptCall(load("set_remaining"), keys, (plan_field(plan_id), packed))
            if status == KEY_CHANGED:
                raise NotFound(f"there is no key with the id {validation.shown_id(key_id)}", field="key_id")
            if status != WINDOWS_PAST:
                self._namespace.on_change_message(f"key:{key_id}")  # at once in this process
                yield [("PUBLISH", self._names.changes, f"key:{key_id}")]
                return
        raise StoreError("the server's clock moved past two windows of the quota meanwhile: try again")

    def _existing(self, key_id: str) -> Operation[str]:
        (record,) = yield from records_of(self._namespace, [validation.key_id(key_id)])
        if record is None or not record.is_live:
            raise NotFound(f"there is no key with the id {validation.shown_id(key_id)}", field="key_id")
        return key_id

    def _live(self, plan_id: str, key_ids: list[str]) -> Operation[tuple[list[str], set[str]]]:
        """Return those that are keys; and those of them that are not in the plan.

        The set of a plan may name a key that is being created or is leaving, or was deleted: records are the truth.
        """
        records = yield from records_of(self._namespace, key_ids)
        live = [record for record in records if record is not None and record.is_live]
        return [record.id for record in live], {record.id for record in live if plan_id not in record.plans}

    def _check_membership(self, plan: UsagePlan, key_id: str) -> Operation[None]:
        validation.key_id(key_id)
        (record,) = yield from records_of(self._namespace, [key_id])
        if record is None or not record.is_live or plan.id not in record.plans:
            raise NotFound(f"key {validation.shown_id(key_id)} is not in plan {plan.id!r}", field="key_id")

    def _members(self, plan_id: str, first: int, today: int) -> Operation[tuple[list[str], set[str]]]:
        """Return the keys of a plan, with those that may have left it since the day `first`; and the latter alone."""
        members, past_reply = yield [
            ("SMEMBERS", self._names.plan_keys(plan_id)),
            ("HGETALL", self._names.plan_past(plan_id)),
        ]
        stored_days = pairs(past_reply)
        days_left = {key_id: self._day_left(plan_id, key_id, day) for key_id, day in stored_days.items()}
        expired = {key_id: stored_days[key_id] for key_id, day in days_left.items() if day < today - DAYS_KEPT}
        yield from self._remove_past(plan_id, expired)
        present = set(texts(list(members)))
        # The clock of the administrator who removed a key may have been a little behind.
        past = {key_id for key_id, day in days_left.items() if day >= first - 1} - present
        return sorted(present | past), past

    def _day_left(self, plan_id: str, key_id: str, day: str) -> int:
        if _DAY.fullmatch(day) is None:
            name = self._names.plan_past(plan_id)
            raise StoreError(
                f"{name!r} in Redis cannot be read: key {validation.shown_id(key_id)} left on {validation.shown(day)}, "
                "which is no day since 1970"
            )
        return int(day)

    def _remove_past(self, plan_id: str, days_left: Mapping[str, str]) -> Operation[None]:
        """Delete the entries of keys that left before the days that are stored, a page of them, if unchanged."""
        if not days_left:
            return
        name, commit = self._names.plan_past(plan_id), Commit()
        page = dict(islice(days_left.items(), MAX_PAGE))
        for key_id, day in page.items():
            commit.expect(name, key_id, day)
        commit.add("HDEL", name, *page)
        yield commit.to_script_call()

    def _denied(
        self, plan_id: str, page: Sequence[str], first: int, last: int
    ) -> Operation[dict[str, list[dict[str, int]]]]:
        """Return the denials that the clients counted: per key, one {reason: requests} per day."""
        names = [self._names.denials(day) for day in range(first, last + 1)]
        replies = yield [("HGETALL", name) for name in names]
        denied = {member: [dict[str, int]() for _ in replies] for member in page}
        for index, (name, reply) in enumerate(zip(names, replies, strict=True)):
            for plan, member, reason, requests in denials_of_day(name, reply):
                if plan == plan_id and member in denied:
                    denied[member][index][reason] = requests
        return denied


def _by_day(
    quota: Quota | None, reply: Sequence[int], first: int, last: int, today: int
) -> Iterator[tuple[int, int | None]]:
    """Yield (used, remaining) of each day; on a day without traffic the balance is that of the day before."""
    window, window_used, granted, day, day_used, *closed = reply
    metered = {closed[index]: (closed[index + 1], closed[index + 2]) for index in range(0, len(closed), 3)}
    if quota is None:
        if day:
            metered[day] = (day_used, -1)
        yield from ((metered.get(each, (0, 0))[0], None) for each in range(first, last + 1))
        return
    if day:
        metered[day] = (day_used, max(0, quota.limit + granted - window_used))
    balance, balance_window = quota.limit, None
    for each in range(max(0, two_windows(quota, first * DAY_US)[0]), last + 1):
        start = two_windows(quota, each * DAY_US)[0]
        if start != balance_window:
            balance, balance_window = quota.limit, start
        used, balance = metered.get(each, (0, balance))
        if each == today and window // 64 == start:
            balance = max(0, quota.limit + granted - window_used)
        if each >= first:
            yield used, balance


def _days(start: date | str, end: date | str) -> tuple[int, int]:
    first, last = _day(start, "start"), _day(end, "end")
    if last < first:
        raise ConfigError(f"is before the start ({start} to {end}): exchange them", field="end")
    if last - first > 366:
        raise ConfigError(f"is more than a year after the start: days are kept for {DAYS_KEPT} days", field="end")
    return first, last


def _day(value: date | str, name: str) -> int:
    try:
        moment = date.fromisoformat(value) if isinstance(value, str) else value
        day = moment.toordinal() - EPOCH_ORDINAL
    except (ValueError, AttributeError):
        raise ConfigError(f"must be a day, YYYY-MM-DD, not {validation.shown(value)}", field=name) from None
    if not 0 <= day < _END_DAY:
        raise ConfigError(f"must be a day from 1970 to 2199, not {validation.shown(value)}", field=name)
    return day


def _check_cursor(cursor: object) -> None:
    try:
        validation.identifier(cursor, "cursor")
    except ConfigError:
        raise invalid_cursor(cursor) from None


def _date(day: int) -> date:
    return date.fromordinal(day + EPOCH_ORDINAL)
