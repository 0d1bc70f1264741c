"""The import of an AWS export: plans and stages in one commit, then the keys, batch by batch. Flows: see flow.py."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from ratelimit.admin.aws.convert import AwsCatalogue, convert
from ratelimit.admin.aws.keys import AwsKey
from ratelimit.admin.aws.shapes import AwsExport, Note
from ratelimit.admin.ceilings import no_room, room_for_keys, tries
from ratelimit.admin.commit import existing_plan, too_busy
from ratelimit.admin.csv.batch import Changes, Entry, looked_up, plans_of_key
from ratelimit.admin.csv.format import Row
from ratelimit.admin.key_fields import About
from ratelimit.admin.keys import KeyAdmin
from ratelimit.admin.plans import PlanAdmin
from ratelimit.effects import Operation
from ratelimit.errors import StoreError
from ratelimit.model import Scope, UsagePlan
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.snapshot import CatalogSnapshot, overlaps

_BATCH = 64


@dataclass(frozen=True, slots=True)
class AwsReport:
    """What an import did.

    plans, stages  ids of those that it put
    ids            AWS' id of a key -> the id it has here; without the keys whose id is their value
    created        how many keys are new
    updated        how many existed before, found by their value; among them those that were as the export says already
    notes          all that was not carried over, or not as it was
    """

    plans: tuple[str, ...]
    stages: tuple[str, ...]
    ids: Mapping[str, str]
    created: int
    updated: int
    notes: tuple[Note, ...]


@dataclass(slots=True)
class _Progress:
    """What has been stored so far."""

    ids: dict[str, str] = field(default_factory=dict)
    created: int = 0
    updated: int = 0
    notes: list[Note] = field(default_factory=list)


class AwsAdmin:
    """Imports into one namespace."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._plans, self._keys = PlanAdmin(namespace), KeyAdmin(namespace)

    def import_aws(
        self, export: AwsExport, *, api_names: bool = False, throttle_scope: Scope = "key"
    ) -> Operation[AwsReport]:
        """Put what an export comes to; what it does not name stays as it is."""
        found = convert(export, api_names=api_names, throttle_scope=throttle_scope)
        yield from self._plans._change_book(lambda snapshot: _merged(snapshot, found))
        told = {plan.id for plan in found.plans} & export.members.keys()
        done = _Progress()
        try:
            for first in range(0, len(found.keys), _BATCH):
                yield from self._store(found.keys[first : first + _BATCH], told, done)
        except StoreError as error:
            error.add_note(f"{done.created + done.updated} keys are done; import the export again to go on")
            raise
        return AwsReport(
            tuple(plan.id for plan in found.plans),
            tuple(stage.id for stage in found.stages),
            done.ids,
            done.created,
            done.updated,
            (*found.notes, *done.notes),
        )

    def _store(self, keys: Collection[AwsKey], told: Collection[str], done: _Progress) -> Operation[None]:
        """Store some keys, all at once; start over if what they rest on moves meanwhile."""
        rows = [Row(0, key.value, key.name, key.description or None, key.enabled) for key in keys]
        for attempt in range(tries(self._namespace)):
            entries = yield from looked_up(self._namespace, rows)
            snapshot = self._namespace.snapshot
            if attempt or not snapshot.epoch:
                snapshot = yield from self._keys._ensure_book()
            changes = Changes(self._namespace, snapshot, (yield from room_for_keys(self._namespace)))
            put = [self._put(changes, key, entry, told, snapshot) for key, entry in zip(keys, entries, strict=True)]
            call = changes.call()
            if call is None or (yield call)[0] == 1:
                break
        else:
            raise too_busy(tries(self._namespace))
        if changes.has_new_pepper:
            yield from self._namespace.load()
        for key, entry, (key_id, notes) in zip(keys, entries, put, strict=True):
            done.notes += notes
            if key_id is None:
                continue
            yield from self._describe(key, entry, key_id)
            done.created += entry.record is None
            done.updated += entry.record is not None
            if not key.is_id_secret:
                done.ids[key.id] = key_id

    def _put(
        self, changes: Changes, key: AwsKey, entry: Entry, told: Collection[str], snapshot: CatalogSnapshot
    ) -> tuple[str | None, list[Note]]:
        """Have a key be as the export says; plans of which the export does not tell keep it, or not, as it was."""
        record, notes = entry.record, list[Note]()
        most = plans_of_key(self._namespace.ceilings, record)
        if record is None:
            if not changes.has_room:
                return None, [Note(key.where, f"is not carried over: {no_room(self._namespace.ceilings)}")]
            plans = tuple(_fitting(snapshot, (), key, notes, most))
            return changes.create(entry, plans, key.created_us or self._namespace.wall_us()), notes
        if not entry.is_current:
            return None, [
                Note(key.where, f"is left as it is: key {record.id} was rotated, and this is its former value")
            ]
        kept = tuple(plan for plan in record.plans if plan not in told)
        changes.update(entry.row, record, entry.stored, (*kept, *_fitting(snapshot, kept, key, notes, most)))
        return record.id, notes

    def _describe(self, key: AwsKey, entry: Entry, key_id: str) -> Operation[None]:
        """Store what is for people alone, if AWS says something that is not here yet."""
        known, about = entry.record, About()
        if key.owner and (known is None or known.owner != key.owner):
            about["owner"] = key.owner
        if key.tags and (known is None or known.tags != key.tags):
            about["tags"] = key.tags
        if about:
            yield from self._keys.update_key(key_id, **about)


def _merged(snapshot: CatalogSnapshot, found: AwsCatalogue) -> CatalogSnapshot:
    plans = {plan.id: _with_own(plan, snapshot.plans.get(plan.id)) for plan in found.plans}
    stages = {stage.id: stage for stage in found.stages}
    account = snapshot.account if found.account is None else found.account
    return replace(snapshot, plans={**snapshot.plans, **plans}, stages={**snapshot.stages, **stages}, account=account)


def _with_own(plan: UsagePlan, before: UsagePlan | None) -> UsagePlan:
    """Return a plan with what the one before it has of its own, and AWS knows nothing of."""
    if before is None:
        return plan
    return replace(
        before,
        throttle=plan.throttle,
        quota=plan.quota,
        stages=plan.stages,
        name=plan.name,
        throttle_scope=plan.throttle_scope,
        alerts=before.alerts if plan.quota else (),
    )


def _fitting(
    snapshot: CatalogSnapshot, kept: Iterable[str], key: AwsKey, notes: list[Note], most: int | None
) -> Iterator[str]:
    """Yield those of the export's plans that a key can be in besides those that it is kept in, `most` in all."""
    plans = [existing_plan(snapshot, plan_id) for plan_id in kept]
    for plan_id in key.plans:
        if plan_id in {plan.id for plan in plans}:
            continue
        if most is not None and len(plans) >= most:
            told = f"it is in {len(plans)} already, and the ceiling (plans_per_key) is {most}"
            notes.append(Note(key.where, f"is not put into plan {plan_id}: {told}"))
            continue
        clash = next(iter(overlaps([*plans, existing_plan(snapshot, plan_id)])), None)
        if clash is None:
            plans.append(snapshot.plans[plan_id])
            yield plan_id
        else:
            told = f"plan {clash[0].id}, which it is in, opens {clash[2]}, too"
            notes.append(Note(key.where, f"is not put into plan {plan_id}: {told}"))
