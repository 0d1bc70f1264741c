"""Converts API keys of AWS. The values of keys are in here, but in no note."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from ratelimit.admin.aws.notes import Notes
from ratelimit.admin.aws.shapes import AwsExport, Record
from ratelimit.errors import ConfigError
from ratelimit.model import MICROSECONDS, UsagePlan
from ratelimit.registry.key_values import own_value
from ratelimit.registry.snapshot import overlaps
from ratelimit.validation import EXACT

_SHORTEST_VALUE = 20


@dataclass(frozen=True, slots=True)
class AwsKey:
    """An API key of AWS that can be imported.

    Attributes:
        id: Its id on AWS.
        value: Its value.
        where: What notes call it.
        name: For people.
        enabled: Whether it is accepted.
        plans: Ids of its plans: at most one that opens any given stage.
        description: For people.
        owner: Its customerId on AWS.
        tags: Texts by name.
        created_us: When it was created, in microseconds since 1970; 0 if that is unknown.
    """

    id: str = field(repr=False)
    value: str = field(repr=False)
    where: str
    name: str = ""
    enabled: bool = True
    plans: tuple[str, ...] = ()
    description: str = ""
    owner: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    created_us: int = 0

    @property
    def is_id_secret(self) -> bool:
        """Whether its id must not be shown."""
        return _is_secret(self.id)


def _is_secret(key_id: str) -> bool:
    """Return whether an id may be a value: in old accounts they are the same; else ids are shorter than any value."""
    return len(key_id) >= _SHORTEST_VALUE


def _microseconds(moment: object) -> int:
    """Convert a date, as the AWS CLI prints it or boto3 returns it, to microseconds since 1970; 0 if it is not one."""
    try:
        if isinstance(moment, str):
            moment = datetime.fromisoformat(moment)
        seconds = moment.timestamp() if isinstance(moment, datetime) else moment
        exact = Decimal(str(seconds)) * MICROSECONDS
        return round(exact) if 0 < exact < EXACT - 1 else 0  # rounded, 1e999990 has a million digits
    except (ValueError, ArithmeticError):
        return 0


class KeyConverter:
    """Converts the keys of an export, given the plans that are carried over."""

    def __init__(self, export: AwsExport, notes: Notes, plans: Mapping[str, UsagePlan]) -> None:
        self._export, self._notes, self._plans = export, notes, plans
        self._plans_of_key: dict[str, list[UsagePlan]] = {}
        self._member_values: dict[str, str] = {}

    def keys(self) -> Iterator[AwsKey]:
        """Yield the keys that can be carried over, in the order of the export."""
        self._read_members()
        listed, seen_values = set[str](), set[str]()
        for number, record in enumerate(self._export.keys, 1):
            key_id = str(record["id"])
            listed.add(key_id)
            where = f"key number {number} of get-api-keys" if _is_secret(key_id) else f"key {key_id}"
            obstacle = self._obstacle(record, seen_values)
            if obstacle is None:
                yield self._key(record, where)
            else:
                self._notes.add(where, f"is not carried over: {obstacle}")
        unlisted = len((self._plans_of_key.keys() | self._member_values.keys()) - listed)
        if unlisted:
            self._notes.add("keys", f"{unlisted} of plans are not carried over: get-api-keys does not list them")

    def _obstacle(self, record: Record, seen_values: set[str]) -> str | None:
        """Return why a key cannot be carried over; None if it can."""
        if "enabled" not in record:
            return "the export does not say whether it is enabled"
        value = self._value(record)
        if not value:
            return "its value is not in the export, get-api-keys was called without --include-values"
        try:
            own_value(value)
        except ConfigError as error:
            return str(error)
        if value in seen_values:
            return "another key of the export has the same value"
        seen_values.add(value)
        return None

    def _value(self, record: Record) -> str:
        # A plan's list of its keys shows their values, whatever get-api-keys was asked for.
        return str(record.get("value") or self._member_values.get(record["id"], ""))

    def _key(self, record: Record, where: str) -> AwsKey:
        notes = self._notes
        notes.unknown_members(record, "keys", where)
        if record.get("stageKeys"):
            notes.add(where, "its stageKeys are not carried over: here plans alone open stages")
        if record.get("customerId"):
            notes.add(where, "its customerId is its owner here")
        return AwsKey(
            record["id"],
            self._value(record),
            where,
            notes.text(record.get("name", ""), where, "name"),
            record["enabled"],
            tuple(self._one_per_stage(self._plans_of_key.get(record["id"], []), where)),
            notes.text(record.get("description", ""), where, "description", max_length=125_000),
            notes.text(record.get("customerId", ""), where, "customerId", max_length=256),
            notes.tags(record.get("tags", {}), where),
            _microseconds(record.get("createdDate")),
        )

    def _one_per_stage(self, plans: list[UsagePlan], where: str) -> Iterator[str]:
        accepted = list[UsagePlan]()
        for plan in plans:
            clash = next(iter(overlaps([*accepted, plan])), None)
            if clash is None:
                accepted.append(plan)
                yield plan.id
            else:
                reason = f"plan {clash[0].id}, which it is in, opens {clash[2]}, too"
                self._notes.add(where, f"is not put into plan {plan.id}: {reason}")

    def _read_members(self) -> None:
        for plan_id in self._plans:
            if plan_id not in self._export.members:
                self._notes.add(f"plan {plan_id}", "no key is put into it: there is no get-usage-plan-keys of it")
        for plan_id, members in self._export.members.items():
            where = f"plan {plan_id}"
            if members and plan_id not in self._plans:
                self._notes.add(where, "its keys are not put into it: there is no such plan here")
            for record in members:
                if record.get("type", "API_KEY") != "API_KEY":
                    self._notes.add(where, "a member that is no API_KEY is not carried over")
                    continue
                if plan_id in self._plans:
                    self._plans_of_key.setdefault(record["id"], []).append(self._plans[plan_id])
                self._member_values.setdefault(record["id"], record.get("value", ""))
