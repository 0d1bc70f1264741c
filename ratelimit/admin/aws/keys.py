"""API keys of AWS as keys of this catalogue. Pure; the values of keys are in here, and in no note."""

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
    """An API key to be stored, as it is known to AWS. `where` is what notes call it."""

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
        """Tell whether its id must not be shown."""
        return _is_secret(self.id)


def _is_secret(key_id: str) -> bool:
    """In old accounts the id of a key is its value; ids are shorter than any value otherwise."""
    return len(key_id) >= _SHORTEST_VALUE


def _microseconds(moment: object) -> int:
    """Return microseconds since 1970 of a date as the AWS CLI prints it or boto3 returns it; 0 if it is none."""
    try:
        if isinstance(moment, str):
            moment = datetime.fromisoformat(moment)
        seconds = moment.timestamp() if isinstance(moment, datetime) else moment
        exact = Decimal(str(seconds)) * MICROSECONDS
        return round(exact) if 0 < exact < EXACT - 1 else 0  # rounded, 1e999990 has a million digits
    except (ValueError, ArithmeticError):
        return 0


class KeyConversion:
    """The conversion of what an export says of keys, given the plans that are carried over."""

    def __init__(self, export: AwsExport, notes: Notes, plans: Mapping[str, UsagePlan]) -> None:
        self._export, self._notes, self._plans = export, notes, plans
        self._joined: dict[str, list[UsagePlan]] = {}
        self._values: dict[str, str] = {}

    def keys(self) -> Iterator[AwsKey]:
        """Yield the keys that can be carried over, in the order of the export."""
        self._read_members()
        listed, values = set[str](), set[str]()
        for number, record in enumerate(self._export.keys, 1):
            key_id = str(record["id"])
            listed.add(key_id)
            where = f"key number {number} of get-api-keys" if _is_secret(key_id) else f"key {key_id}"
            why_not = self._why_not(record, values)
            if why_not is None:
                yield self._key(record, where)
            else:
                self._notes.note(where, f"is not carried over: {why_not}")
        unlisted = len((self._joined.keys() | self._values.keys()) - listed)
        if unlisted:
            self._notes.note("keys", f"{unlisted} of plans are not carried over: get-api-keys does not list them")

    def _why_not(self, record: Record, others: set[str]) -> str | None:
        if "enabled" not in record:
            return "the export does not say whether it is enabled"
        value = self._value(record)
        if not value:
            return "its value is not in the export, get-api-keys was called without --include-values"
        try:
            own_value(value)
        except ConfigError as error:
            return str(error)
        if value in others:
            return "another key of the export has the same value"
        others.add(value)
        return None

    def _value(self, record: Record) -> str:
        # A plan's list of its keys shows their values, whatever get-api-keys was asked for.
        return str(record.get("value") or self._values.get(record["id"], ""))

    def _key(self, record: Record, where: str) -> AwsKey:
        notes = self._notes
        notes.unknown(record, "keys", where)
        if record.get("stageKeys"):
            notes.note(where, "its stageKeys are not carried over: here plans alone open stages")
        if record.get("customerId"):
            notes.note(where, "its customerId is its owner here")
        return AwsKey(
            record["id"],
            self._value(record),
            where,
            notes.text(record.get("name", ""), where, "name"),
            record["enabled"],
            tuple(self._one_per_stage(self._joined.get(record["id"], []), where)),
            notes.text(record.get("description", ""), where, "description", most=125_000),
            notes.text(record.get("customerId", ""), where, "customerId", most=256),
            notes.tags(record.get("tags", {}), where),
            _microseconds(record.get("createdDate")),
        )

    def _one_per_stage(self, plans: list[UsagePlan], where: str) -> Iterator[str]:
        kept = list[UsagePlan]()
        for plan in plans:
            clash = next(iter(overlaps([*kept, plan])), None)
            if clash is None:
                kept.append(plan)
                yield plan.id
            else:
                told = f"plan {clash[0].id}, which it is in, opens {clash[2]}, too"
                self._notes.note(where, f"is not put into plan {plan.id}: {told}")

    def _read_members(self) -> None:
        for plan_id in self._plans:
            if plan_id not in self._export.members:
                self._notes.note(f"plan {plan_id}", "no key is put into it: there is no get-usage-plan-keys of it")
        for plan_id, members in self._export.members.items():
            where = f"plan {plan_id}"
            if members and plan_id not in self._plans:
                self._notes.note(where, "its keys are not put into it: there is no such plan here")
            for record in members:
                if record.get("type", "API_KEY") != "API_KEY":
                    self._notes.note(where, "a member that is no API_KEY is not carried over")
                    continue
                if plan_id in self._plans:
                    self._joined.setdefault(record["id"], []).append(self._plans[plan_id])
                self._values.setdefault(record["id"], record.get("value", ""))
