"""Imports an export of AWS: plans and stages in one commit, then the keys, batch by batch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ratelimit.admin.aws.convert import AwsConversion, convert
from ratelimit.admin.aws.keys import AwsKey
from ratelimit.admin.aws.shapes import AwsExport, AwsNote
from ratelimit.admin.ceilings import catalogue_full, key_headroom, max_attempts
from ratelimit.admin.commit import busy_conflict, existing_plan
from ratelimit.admin.csv.batch import KeyBatch, ResolvedRow, max_plans_of_key, resolve_rows
from ratelimit.admin.csv.batch_by_slot import UnfinishedKeys, new_batch, rows_of_a_batch
from ratelimit.admin.csv.format import Row
from ratelimit.admin.keys import KeyAdmin, KeyDetails
from ratelimit.admin.plans import PlanAdmin
from ratelimit.effects import Operation
from ratelimit.errors import StoreError
from ratelimit.model import ThrottleScope, UsagePlan
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.snapshot import CatalogSnapshot, overlaps


@dataclass(frozen=True, slots=True)
class AwsReport:
    """What an import from AWS did.

    Attributes:
        plans: Ids of the plans that it put.
        stages: Ids of the stages that it put.
        ids: By AWS' id of a key, the id it has here; without the keys whose id on AWS is their value.
        created: How many keys are new.
        updated: How many existed before, found by their value; among them those that were as the export says already.
        notes: Everything that was not carried over, or not as it was.
    """

    plans: tuple[str, ...]
    stages: tuple[str, ...]
    ids: Mapping[str, str]
    created: int
    updated: int
    notes: tuple[AwsNote, ...]


@dataclass(slots=True)
class _Progress:
    """What has been stored so far."""

    ids: dict[str, str] = field(default_factory=dict)
    created: int = 0
    updated: int = 0
    notes: list[AwsNote] = field(default_factory=list)


class AwsImporter:
    """Imports into one namespace."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._plans, self._keys = PlanAdmin(namespace), KeyAdmin(namespace)

    def import_aws(
        self, export: AwsExport, *, api_names: bool = False, throttle_scope: ThrottleScope = "key"
    ) -> Operation[AwsReport]:
        """Put the plans, stages and keys of an export; everything else stays as it is."""
        conversion = convert(export, api_names=api_names, throttle_scope=throttle_scope)
        yield from self._plans.change_catalog(lambda snapshot: _merged(snapshot, conversion))
        listed_plans = {plan.id for plan in conversion.plans} & export.members.keys()
        progress = _Progress()
        try:
            size = yield from rows_of_a_batch(self._namespace)
            for start in range(0, len(conversion.keys), size):
                yield from self._store(conversion.keys[start : start + size], listed_plans, progress)
        except StoreError as error:
            done = progress.created + progress.updated
            error.add_note(f"{done} keys are done; import the export again to go on")
            raise
        return AwsReport(
            tuple(plan.id for plan in conversion.plans),
            tuple(stage.id for stage in conversion.stages),
            progress.ids,
            progress.created,
            progress.updated,
            (*conversion.notes, *progress.notes),
        )

    def _store(self, keys: Sequence[AwsKey], listed_plans: Collection[str], progress: _Progress) -> Operation[None]:
        """Store some keys; start over with those for which others change what they depend on."""
        rows = {at: _row(at, key) for at, key in enumerate(keys)}
        stored = dict[int, tuple[ResolvedRow, str | None, list[AwsNote]]]()
        unfinished = UnfinishedKeys(self._namespace)
        for attempt in range(max_attempts(self._namespace)):
            resolved_rows = yield from resolve_rows(self._namespace, [rows[at] for at in rows if at not in stored])
            snapshot = self._namespace.snapshot
            if attempt or not snapshot.epoch:
                snapshot = yield from self._keys.ensure_catalog()
            waiting = yield from unfinished.take_over(resolved_rows)
            batch = new_batch(self._namespace, snapshot, (yield from key_headroom(self._namespace)))
            put = {
                each.row.line: (each, *self._put(batch, keys[each.row.line], each, listed_plans, snapshot))
                for each in resolved_rows
                if each.digests[0] not in waiting
            }
            overtaken = yield from batch.store()
            if overtaken or waiting:
                stored |= {at: key for at, key in put.items() if key[1] is not None and key[1] not in overtaken}
            else:
                stored |= put
            if batch.has_new_pepper:
                yield from self._namespace.load()
            if len(stored) == len(keys):
                break
        else:
            raise busy_conflict(max_attempts(self._namespace))
        for at, key in enumerate(keys):
            resolved, key_id, notes = stored[at]
            progress.notes += notes
            if key_id is None:
                continue
            yield from self._update_details(key, resolved, key_id)
            progress.created += resolved.record is None
            progress.updated += resolved.record is not None
            if not key.is_id_secret:
                progress.ids[key.id] = key_id

    def _put(
        self,
        batch: KeyBatch,
        key: AwsKey,
        resolved: ResolvedRow,
        listed_plans: Collection[str],
        snapshot: CatalogSnapshot,
    ) -> tuple[str | None, list[AwsNote]]:
        """Have the batch make a key what the export says.

        Args:
            batch: The batch.
            key: The key.
            resolved: Its row, with what Redis has for its value.
            listed_plans: Ids of the plans whose keys the export lists; the key's other plans stay as they are.
            snapshot: The catalogue.

        Returns:
            The id of the key here, None if it is not stored; and notes.
        """
        record, notes = resolved.record, list[AwsNote]()
        max_plans = max_plans_of_key(self._namespace.ceilings, record)
        if record is None:
            if not batch.has_headroom:
                return None, [AwsNote(key.where, f"is not carried over: {catalogue_full(self._namespace.ceilings)}")]
            plans = tuple(_joinable(snapshot, (), key, notes, max_plans))
            return batch.create(resolved, plans, key.created_us or self._namespace.wall_us()), notes
        if not resolved.is_current:
            problem = f"is left as it is: key {record.id} was rotated, and this is its former value"
            return None, [AwsNote(key.where, problem)]
        other_plans = tuple(plan for plan in record.plans if plan not in listed_plans)
        plans = (*other_plans, *_joinable(snapshot, other_plans, key, notes, max_plans))
        batch.update(resolved, record, plans)
        return record.id, notes

    def _update_details(self, key: AwsKey, resolved: ResolvedRow, key_id: str) -> Operation[None]:
        """Store the key's owner and tags, if AWS has some that differ from those here."""
        record, details = resolved.record, KeyDetails()
        if key.owner and (record is None or record.owner != key.owner):
            details["owner"] = key.owner
        if key.tags and (record is None or record.tags != key.tags):
            details["tags"] = key.tags
        if details:
            yield from self._keys.update_key(key_id, **details)


def _row(number: int, key: AwsKey) -> Row:
    return Row(number, key.value, key.name, key.description or None, key.enabled)


def _merged(snapshot: CatalogSnapshot, conversion: AwsConversion) -> CatalogSnapshot:
    """Return the snapshot with the plans, stages and account throttle of the export."""
    plans = {plan.id: _with_local_settings(plan, snapshot.plans.get(plan.id)) for plan in conversion.plans}
    stages = {stage.id: stage for stage in conversion.stages}
    account = snapshot.account if conversion.account is None else conversion.account
    return replace(snapshot, plans={**snapshot.plans, **plans}, stages={**snapshot.stages, **stages}, account=account)


def _with_local_settings(plan: UsagePlan, before: UsagePlan | None) -> UsagePlan:
    """Return a plan with the settings of the plan it replaces that AWS does not have: alerts, shadow and lease."""
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


def _joinable(
    snapshot: CatalogSnapshot, other_plans: Iterable[str], key: AwsKey, notes: list[AwsNote], max_plans: int | None
) -> Iterator[str]:
    """Yield those of the export's plans that a key can be in besides `other_plans`, `max_plans` in all."""
    plans = [existing_plan(snapshot, plan_id) for plan_id in other_plans]
    for plan_id in key.plans:
        if plan_id in {plan.id for plan in plans}:
            continue
        if max_plans is not None and len(plans) >= max_plans:
            reason = f"it is in {len(plans)} already, and the ceiling (plans_per_key) is {max_plans}"
            notes.append(AwsNote(key.where, f"is not put into plan {plan_id}: {reason}"))
            continue
        clash = next(iter(overlaps([*plans, existing_plan(snapshot, plan_id)])), None)
        if clash is None:
            plans.append(snapshot.plans[plan_id])
            yield plan_id
        else:
            reason = f"plan {clash[0].id}, which it is in, opens {clash[2]}, too"
            notes.append(AwsNote(key.where, f"is not put into plan {plan_id}: {reason}"))
