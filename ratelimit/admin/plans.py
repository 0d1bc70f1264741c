"""Plans, stages and the account throttle: read and changed, one by one or by a plan file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from ratelimit import validation
from ratelimit.admin.by_slot.lost_entries import restore_entries
from ratelimit.admin.by_slot.plan_sets import MAX_KEYS, SetsRepaired, check_members
from ratelimit.admin.ceilings import check_ceilings
from ratelimit.admin.commit import (
    MAX_ATTEMPTS,
    Commit,
    busy_conflict,
    carry_out,
    existing_plan,
    new_commit,
    two_plans_conflict,
)
from ratelimit.admin.key_access import apis_of_plan
from ratelimit.admin.preconditions import NO_PRECONDITION, NoPrecondition, check_precondition
from ratelimit.effects import Operation, text, texts
from ratelimit.errors import ConfigError, Conflict, NotFound
from ratelimit.model import Stage, Throttle, UsagePlan
from ratelimit.registry import plan_documents
from ratelimit.registry.key_values import generated_token
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.plan_documents import Document
from ratelimit.registry.redis_keys import OTHERS
from ratelimit.registry.snapshot import CatalogSnapshot


class PlanChange(NamedTuple):
    """One thing that a plan file changed.

    Attributes:
        change: What happened to it.
        kind: What it is.
        id: The id of the plan or stage; "account" for the account throttle.
    """

    change: Literal["added", "changed", "removed"]
    kind: Literal["plan", "stage", "throttle"]
    id: str


@dataclass(frozen=True, slots=True)
class ApplyReport:
    """What `Catalog.apply` changed; with `dry_run`, what it would change.

    Attributes:
        changes: Each plan, stage and throttle that differs from before.
        warnings: What is unusual about the file as a whole, changed or not.
    """

    changes: tuple[PlanChange, ...]
    warnings: tuple[str, ...] = ()


class PlanAdmin:
    """Administers the plans, stages and account throttle of one namespace."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._names = namespace.names

    def apply(self, document: Document, *, dry_run: bool = False) -> Operation[ApplyReport]:
        """Make the catalogue equal to a plan file's document: plans and stages that it does not name are removed."""
        new = CatalogSnapshot(plans=document.plans, stages=document.stages, account=document.account)
        return (yield from self.change_catalog(lambda _: new, dry_run=validation.flag(dry_run, "dry_run")))

    def put_plan(
        self, plan: UsagePlan, expected: UsagePlan | NoPrecondition | None = NO_PRECONDITION
    ) -> Operation[None]:
        """Add a plan, or replace the one with its id."""
        _check_type(plan, UsagePlan, "plan")

        def change(snapshot: CatalogSnapshot) -> CatalogSnapshot:
            check_precondition(snapshot.plans.get(plan.id), expected, f"plan {plan.id!r}", "plan")
            return replace(snapshot, plans={**snapshot.plans, plan.id: plan})

        yield from self.change_catalog(change)

    def delete_plan(self, plan_id: str, expected: UsagePlan | NoPrecondition = NO_PRECONDITION) -> Operation[None]:
        """Remove a plan that no key is in."""

        def change(snapshot: CatalogSnapshot) -> CatalogSnapshot:
            check_precondition(existing_plan(snapshot, plan_id), expected, f"plan {plan_id!r}", "plan_id")
            return replace(snapshot, plans={name: plan for name, plan in snapshot.plans.items() if name != plan_id})

        yield from self.change_catalog(change)

    def put_stage(self, stage: Stage, expected: Stage | NoPrecondition | None = NO_PRECONDITION) -> Operation[None]:
        """Configure a stage, or replace its configuration."""
        _check_type(stage, Stage, "stage")

        def change(snapshot: CatalogSnapshot) -> CatalogSnapshot:
            check_precondition(snapshot.stages.get(stage.id), expected, f"stage {stage.id!r}", "stage")
            return replace(snapshot, stages={**snapshot.stages, stage.id: stage})

        yield from self.change_catalog(change)

    def delete_stage(self, stage_id: str, expected: Stage | NoPrecondition = NO_PRECONDITION) -> Operation[None]:
        """Remove a stage's configuration; plans that name the stage go on opening it."""

        def change(snapshot: CatalogSnapshot) -> CatalogSnapshot:
            if not isinstance(stage_id, str) or stage_id not in snapshot.stages:
                raise NotFound(f"no stage {validation.shown(stage_id)} is configured", field="stage_id")
            check_precondition(snapshot.stages[stage_id], expected, f"stage {stage_id!r}", "stage_id")
            return replace(
                snapshot, stages={name: stage for name, stage in snapshot.stages.items() if name != stage_id}
            )

        yield from self.change_catalog(change)

    def set_account_throttle(
        self, throttle: Throttle | None, expected: Throttle | NoPrecondition | None = NO_PRECONDITION
    ) -> Operation[None]:
        """Set the throttle that all requests share; None removes it."""
        if throttle is not None:
            _check_type(throttle, Throttle, "throttle")

        def change(snapshot: CatalogSnapshot) -> CatalogSnapshot:
            check_precondition(snapshot.account, expected, "the account's throttle", "throttle")
            return replace(snapshot, account=throttle)

        yield from self.change_catalog(change)

    def plans(self) -> Operation[list[UsagePlan]]:
        """Return all plans, sorted by id."""
        snapshot = yield from self._namespace.load()
        return [snapshot.plans[plan_id] for plan_id in sorted(snapshot.plans)]

    def stages(self) -> Operation[list[Stage]]:
        """Return all configured stages, sorted by id."""
        snapshot = yield from self._namespace.load()
        return [snapshot.stages[stage_id] for stage_id in sorted(snapshot.stages)]

    def account_throttle(self) -> Operation[Throttle | None]:
        """Return the account's throttle."""
        return (yield from self._namespace.load()).account

    def get_plan(self, plan_id: str) -> Operation[UsagePlan]:
        """Return a plan."""
        return existing_plan((yield from self._namespace.load()), plan_id)

    def change_catalog(
        self, change: Callable[[CatalogSnapshot], CatalogSnapshot], *, dry_run: bool = False
    ) -> Operation[ApplyReport]:
        """Change plans, stages and the account throttle in one commit.

        Args:
            change: Returns the new snapshot for the stored one; called again if others changed the catalogue meanwhile.
            dry_run: Only check and report.
        """
        yield from self._namespace.find_slots()
        for _ in range(MAX_ATTEMPTS):
            members_read = ("HGET", self._names.catalog, "members")  # before the keys of plans are read
            old, (members,) = yield from self._namespace.load_and_read([members_read], for_change=True)
            new = change(old)
            check_ceilings(self._namespace.ceilings, old, new)
            _check_shadows(old, new)
            if not dry_run and (yield from self._has_restored_entries(old, new)):
                continue
            try:
                yield from self._check_removed_plans_have_no_keys(old, new, dry_run=dry_run)
                yield from self._check_one_plan_per_stage(old, new, dry_run=dry_run)
            except SetsRepaired:
                continue
            if dry_run:
                return _report(old, new)
            yield from self._keep_resized_buckets(old, new)
            commit = new_commit(self._namespace, old)
            commit.expect(self._names.catalog, "version", str(old.version) if old.epoch else None)
            commit.expect(self._names.catalog, "members", text(members))
            if self._add_changes(commit, old, new) and not (yield from self._carry_out(commit)):
                continue
            yield from self._namespace.load()
            return _report(old, new)
        raise busy_conflict()

    def _carry_out(self, commit: Commit) -> Operation[bool]:
        if self._namespace.has_slots:
            return (yield from carry_out(commit))
        is_done: bool = (yield commit.to_script_call())[0] == 1
        return is_done

    def _add_changes(self, commit: Commit, old: CatalogSnapshot, new: CatalogSnapshot) -> bool:
        """Have the commit write the difference between two snapshots; return whether there is any."""
        before, after = _as_fields(old), _as_fields(new)
        changed = [part for item in after.items() if before.get(item[0]) != item[1] for part in item]
        removed = [name for name in before if name not in after]
        if old.epoch and new.required_schema != old.schema:
            changed += ["schema", str(new.required_schema)]
        if not changed and not removed:
            return False
        catalog = self._names.catalog
        if not old.epoch:
            changed += self._namespace.first_fields(new)
        stamp = generated_token()
        commit.add("HSET", catalog, *changed, "stamp", stamp)
        commit.note_written(catalog, "stamp", stamp)
        if removed:
            commit.add("HDEL", catalog, *removed)
        for plan_id in old.plans.keys() - new.plans.keys():
            commit.add("UNLINK", self._names.plan_past(plan_id))
        if not self._namespace.has_slots:
            for bucket in self._resized_buckets(old, new):
                # Its expiry goes by the old size: deleted too early, it would read as full. The next charge sets one.
                commit.add("PERSIST", bucket)
        commit.add("HINCRBY", catalog, "version", 1)
        commit.add("PUBLISH", None, self._names.changes, old.version + 1)
        return True

    def _keep_resized_buckets(self, old: CatalogSnapshot, new: CatalogSnapshot) -> Operation[None]:
        """Where keys lie in slots: as `_add_changes` does, before the commit, so that no crash is between the two."""
        buckets = list(self._resized_buckets(old, new)) if self._namespace.has_slots else []
        if buckets:
            yield [("PERSIST", bucket) for bucket in buckets]

    def _has_restored_entries(self, old: CatalogSnapshot, new: CatalogSnapshot) -> Operation[bool]:
        """Return whether keys had to be entered again that a failover of the catalogue's node may have lost."""
        if not self._namespace.has_slots or not old.epoch:
            return False
        depends_on_sets = old.plans.keys() - new.plans.keys() or any(_all_gained_stages(old, new))
        return bool(depends_on_sets) and (yield from restore_entries(self._namespace, old))

    def _resized_buckets(self, old: CatalogSnapshot, new: CatalogSnapshot) -> Iterator[str]:
        """Yield the buckets that all callers share and whose throttle may have changed."""
        for stage_id, stage in new.stages.items():
            if stage != old.stages.get(stage_id):
                for method in (*sorted(old.listed_methods(stage_id) | new.listed_methods(stage_id)), OTHERS):
                    yield self._names.stage_bucket(stage_id, method)
        if new.account != old.account:
            yield self._names.account

    def _check_removed_plans_have_no_keys(
        self, old: CatalogSnapshot, new: CatalogSnapshot, *, dry_run: bool
    ) -> Operation[None]:
        removed = [plan_id for plan_id in old.plans if plan_id not in new.plans]
        if not removed:
            return
        counts = yield [("SCARD", self._names.plan_keys(plan_id)) for plan_id in removed]
        if self._namespace.has_slots:
            counts = yield from self._true_counts(removed, counts, dry_run=dry_run)
        problems = [
            f"plan {plan_id!r} still has {count} key{'s' if count > 1 else ''}"
            for plan_id, count in zip(removed, counts, strict=True)
            if count
        ]
        if problems:
            raise Conflict(f"{', '.join(problems)}: move or delete them first", field="plan_id")

    def _true_counts(self, plan_ids: Sequence[str], counts: Sequence[int], *, dry_run: bool) -> Operation[list[int]]:
        """Return how many keys are in plans, 0 if none of those that their sets have is truly in them."""
        true_counts = list[int]()
        for plan_id, count in zip(plan_ids, counts, strict=True):
            sample = (yield [("SRANDMEMBER", self._names.plan_keys(plan_id), MAX_KEYS)])[0] if count else ()
            is_used = yield from check_members(self._namespace, texts(list(sample)), [plan_id], dry_run=dry_run)
            true_counts.append(count if is_used else 0)
        return true_counts

    def _check_one_plan_per_stage(
        self, old: CatalogSnapshot, new: CatalogSnapshot, *, dry_run: bool
    ) -> Operation[None]:
        """Raise Conflict if a plan comes to open a stage that another plan of one of its keys opens."""
        gained = dict(_all_gained_stages(old, new))
        sizes = yield [("SCARD", self._names.plan_keys(plan_id)) for plan_id in gained]
        by_stage: dict[str, list[str]] = {}
        for (plan_id, stages), size in zip(gained.items(), sizes, strict=True):
            for stage in stages if size else ():
                by_stage.setdefault(stage, []).append(plan_id)
        pairs = {
            (*sorted((plan_id, other.id)), plan_stage.stage): None
            for other in new.plans.values()
            for plan_stage in other.stages
            for plan_id in by_stage.get(plan_stage.stage, ())
            if plan_id != other.id
        }
        shared = yield [("SINTER", self._names.plan_keys(one), self._names.plan_keys(other)) for one, other, _ in pairs]
        for (one, other, stage), ids in zip(pairs, shared, strict=True):
            key_ids = sorted(texts(list(ids)))
            if self._namespace.has_slots and not (
                yield from check_members(self._namespace, key_ids, [one, other], dry_run=dry_run)
            ):
                continue
            if key_ids:
                raise two_plans_conflict(key_ids[0], one, other, stage)


def _report(old: CatalogSnapshot, new: CatalogSnapshot) -> ApplyReport:
    return ApplyReport(tuple(_changes(old, new)), tuple(_warnings(new.plans.values())))


def _changes(old: CatalogSnapshot, new: CatalogSnapshot) -> Iterator[PlanChange]:
    before, after = dict(_parts(old)), dict(_parts(new))
    for (kind, name), value in after.items():
        if before.get((kind, name)) != value:
            yield PlanChange("changed" if (kind, name) in before else "added", kind, name)
    for kind, name in before:
        if (kind, name) not in after:
            yield PlanChange("removed", kind, name)


_Part = tuple[Literal["plan", "stage", "throttle"], str]


def _parts(snapshot: CatalogSnapshot) -> Iterator[tuple[_Part, object]]:
    yield from ((("plan", name), plan) for name, plan in snapshot.plans.items())
    yield from ((("stage", name), stage) for name, stage in snapshot.stages.items())
    if snapshot.account is not None:
        yield ("throttle", "account"), snapshot.account


def _warnings(plans: Iterable[UsagePlan]) -> Iterator[str]:
    for plan in plans:
        apis = sorted(apis_of_plan(plan))
        if len(apis) > 1:
            yield f"plan {plan.id} spans {len(apis)} APIs ({', '.join(apis)}): each of its keys opens all of them"


def _all_gained_stages(old: CatalogSnapshot, new: CatalogSnapshot) -> Iterator[tuple[str, set[str]]]:
    """Yield the plans that open stages which they did not open before, with these."""
    for plan in new.plans.values():
        stages = _gained_stages(old, plan)
        if stages:
            yield plan.id, stages


def _gained_stages(old: CatalogSnapshot, plan: UsagePlan) -> set[str]:
    """Return the stages that a plan did not open before."""
    before = old.plans.get(plan.id)
    return {each.stage for each in plan.stages} - {each.stage for each in (before.stages if before else ())}


def _check_shadows(old: CatalogSnapshot, new: CatalogSnapshot) -> None:
    """Raise if a plan has a shadow that does not exist, or is removed."""
    for plan in new.plans.values():
        if plan.shadow is None or plan.shadow in new.plans:
            continue
        if plan.shadow in old.plans:
            raise Conflict(
                f"plan {plan.shadow!r} is the shadow of plan {plan.id!r}: end that trial first", field="shadow"
            )
        raise NotFound(f"plan {plan.id!r} has the shadow {plan.shadow!r}, and there is no such plan", field="shadow")


def _as_fields(snapshot: CatalogSnapshot) -> dict[str, str]:
    """Return the fields of the catalogue's hash in Redis."""
    fields = {f"plan:{plan.id}": plan_documents.plan_json(plan) for plan in snapshot.plans.values()}
    fields |= {f"stage:{stage.id}": plan_documents.stage_json(stage) for stage in snapshot.stages.values()}
    if snapshot.account is not None:
        fields["account"] = plan_documents.throttle_json(snapshot.account)
    return fields


def _check_type(value: object, kind: type, field: str) -> None:
    if not isinstance(value, kind):
        raise ConfigError(f"must be a {kind.__name__}, not {validation.shown(value)}", field=field)
