"""Plans, stages and the account throttle: reading and changing them. Pure: see commit.py and flow.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from ratelimit import validation
from ratelimit.admin.applied import ApplyReport, report
from ratelimit.admin.ceilings import refuse_beyond
from ratelimit.admin.commit import MOST_TRIES, Commit, begin, existing_plan, too_busy, two_plans
from ratelimit.admin.preconditions import ANYTHING, Expectation, refuse_other
from ratelimit.effects import Operation, text, texts
from ratelimit.errors import ConfigError, Conflict, NotFound
from ratelimit.model import Stage, Throttle, UsagePlan
from ratelimit.registry import plan_documents
from ratelimit.registry.key_values import generated_token
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.redis_keys import OTHERS
from ratelimit.registry.snapshot import CatalogSnapshot


class PlanAdmin:
    """The plans, stages and account throttle of one namespace."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._names = namespace.names

    def apply(self, path: str | Path, *, dry_run: bool = False) -> Operation[ApplyReport]:
        """Make the plan file hold: what it says is put, what it does not say is removed."""
        wanted = plan_documents.read(path)

        def change(_: CatalogSnapshot) -> CatalogSnapshot:
            return CatalogSnapshot(plans=wanted.plans, stages=wanted.stages, account=wanted.account)

        return (yield from self._change_book(change, dry_run=validation.flag(dry_run, "dry_run")))

    def put_plan(self, plan: UsagePlan, expected: UsagePlan | Expectation | None = ANYTHING) -> Operation[None]:
        """Add a plan, or replace the one of its id."""
        _must_be(plan, UsagePlan, "plan")

        def change(snapshot: CatalogSnapshot) -> CatalogSnapshot:
            refuse_other(snapshot.plans.get(plan.id), expected, f"plan {plan.id!r}", "plan")
            return replace(snapshot, plans={**snapshot.plans, plan.id: plan})

        yield from self._change_book(change)

    def delete_plan(self, plan_id: str, expected: UsagePlan | Expectation = ANYTHING) -> Operation[None]:
        """Remove a plan that no key is in."""

        def change(snapshot: CatalogSnapshot) -> CatalogSnapshot:
            refuse_other(existing_plan(snapshot, plan_id), expected, f"plan {plan_id!r}", "plan_id")
            return replace(snapshot, plans={name: plan for name, plan in snapshot.plans.items() if name != plan_id})

        yield from self._change_book(change)

    def put_stage(self, stage: Stage, expected: Stage | Expectation | None = ANYTHING) -> Operation[None]:
        """Configure a stage, or replace its configuration."""
        _must_be(stage, Stage, "stage")

        def change(snapshot: CatalogSnapshot) -> CatalogSnapshot:
            refuse_other(snapshot.stages.get(stage.id), expected, f"stage {stage.id!r}", "stage")
            return replace(snapshot, stages={**snapshot.stages, stage.id: stage})

        yield from self._change_book(change)

    def delete_stage(self, stage_id: str, expected: Stage | Expectation = ANYTHING) -> Operation[None]:
        """Remove a stage's configuration; plans that name the stage go on opening it."""

        def change(snapshot: CatalogSnapshot) -> CatalogSnapshot:
            if not isinstance(stage_id, str) or stage_id not in snapshot.stages:
                raise NotFound(f"no stage {validation.shown(stage_id)} is configured", field="stage_id")
            refuse_other(snapshot.stages[stage_id], expected, f"stage {stage_id!r}", "stage_id")
            return replace(
                snapshot, stages={name: stage for name, stage in snapshot.stages.items() if name != stage_id}
            )

        yield from self._change_book(change)

    def set_account_throttle(
        self, throttle: Throttle | None, expected: Throttle | Expectation | None = ANYTHING
    ) -> Operation[None]:
        """Set the bucket that all requests share; None removes it."""
        if throttle is not None:
            _must_be(throttle, Throttle, "throttle")

        def change(snapshot: CatalogSnapshot) -> CatalogSnapshot:
            refuse_other(snapshot.account, expected, "the account's throttle", "throttle")
            return replace(snapshot, account=throttle)

        yield from self._change_book(change)

    def plans(self) -> Operation[list[UsagePlan]]:
        """Return all plans, by id."""
        snapshot = yield from self._namespace.load()
        return [snapshot.plans[plan_id] for plan_id in sorted(snapshot.plans)]

    def stages(self) -> Operation[list[Stage]]:
        """Return all configured stages, by id."""
        snapshot = yield from self._namespace.load()
        return [snapshot.stages[stage_id] for stage_id in sorted(snapshot.stages)]

    def account_throttle(self) -> Operation[Throttle | None]:
        """Return the account's throttle."""
        return (yield from self._namespace.load()).account

    def get_plan(self, plan_id: str) -> Operation[UsagePlan]:
        """Return a plan."""
        return existing_plan((yield from self._namespace.load()), plan_id)

    def _change_book(
        self, change: Callable[[CatalogSnapshot], CatalogSnapshot], *, dry_run: bool = False
    ) -> Operation[ApplyReport]:
        for _ in range(MOST_TRIES):
            (members,) = yield [("HGET", self._names.catalog, "members")]
            old = yield from self._namespace.load(for_change=True)
            new = change(old)
            refuse_beyond(self._namespace.ceilings, old, new)
            _refuse_lost_shadows(old, new)
            yield from self._refuse_orphans(old, new)
            yield from self._refuse_double_plans(old, new)
            if dry_run:
                return report(old, new)
            commit = begin(self._namespace, old)
            commit.expect(self._names.catalog, "version", str(old.version) if old.epoch else None)
            commit.expect(self._names.catalog, "members", text(members))
            if self._write_book(commit, old, new) and (yield commit.call())[0] != 1:
                continue
            yield from self._namespace.load()
            return report(old, new)
        raise too_busy()

    def _write_book(self, commit: Commit, old: CatalogSnapshot, new: CatalogSnapshot) -> bool:
        """Write the difference between two snapshots; tell whether there is any."""
        before, after = _as_fields(old), _as_fields(new)
        changed = [part for item in after.items() if before.get(item[0]) != item[1] for part in item]
        gone = [name for name in before if name not in after]
        if not changed and not gone:
            return False
        catalog = self._names.catalog
        if not old.epoch:
            changed += self._namespace.first_fields()
        commit.do("HSET", catalog, *changed, "stamp", generated_token())
        if gone:
            commit.do("HDEL", catalog, *gone)
        for plan_id in old.plans.keys() - new.plans.keys():
            commit.do("UNLINK", self._names.plan_past(plan_id))
        for bucket in self._resized_buckets(old, new):
            # Its expiry goes by the old size: gone too early, it would read as full. The next charges set one again.
            commit.do("PERSIST", bucket)
        commit.do("HINCRBY", catalog, "version", 1)
        commit.do("PUBLISH", None, self._names.changes, old.version + 1)
        return True

    def _resized_buckets(self, old: CatalogSnapshot, new: CatalogSnapshot) -> Iterator[str]:
        """Yield the buckets that all callers share and whose throttle may have changed."""
        for stage_id, stage in new.stages.items():
            if stage != old.stages.get(stage_id):
                for method in (*sorted(old.listed_methods(stage_id) | new.listed_methods(stage_id)), OTHERS):
                    yield self._names.stage_bucket(stage_id, method)
        if new.account != old.account:
            yield self._names.account

    def _refuse_orphans(self, old: CatalogSnapshot, new: CatalogSnapshot) -> Operation[None]:
        gone = [plan_id for plan_id in old.plans if plan_id not in new.plans]
        if not gone:
            return
        counts = yield [("SCARD", self._names.plan_keys(plan_id)) for plan_id in gone]
        told = [
            f"plan {plan_id!r} still has {count} key{'s' if count > 1 else ''}"
            for plan_id, count in zip(gone, counts, strict=True)
            if count
        ]
        if told:
            raise Conflict(f"{', '.join(told)}: move or delete them first", field="plan_id")

    def _refuse_double_plans(self, old: CatalogSnapshot, new: CatalogSnapshot) -> Operation[None]:
        """One plan per key and stage: where a plan comes to open a stage, no key of it may be in another one there."""
        gained = {plan.id: _gained(old, plan) for plan in new.plans.values()}
        gained = {plan_id: stages for plan_id, stages in gained.items() if stages}
        sizes = yield [("SCARD", self._names.plan_keys(plan_id)) for plan_id in gained]
        by_stage: dict[str, list[str]] = {}
        for (plan_id, stages), size in zip(gained.items(), sizes, strict=True):
            for stage in stages if size else ():
                by_stage.setdefault(stage, []).append(plan_id)
        pairs = {
            (*sorted((plan_id, other.id)), opened.stage): None
            for other in new.plans.values()
            for opened in other.stages
            for plan_id in by_stage.get(opened.stage, ())
            if plan_id != other.id
        }
        shared = yield [("SINTER", self._names.plan_keys(one), self._names.plan_keys(other)) for one, other, _ in pairs]
        for (one, other, stage), ids in zip(pairs, shared, strict=True):
            if ids:
                raise two_plans(min(texts(list(ids))), one, other, stage)


def _gained(old: CatalogSnapshot, plan: UsagePlan) -> set[str]:
    """Return the stages that a plan did not open before."""
    before = old.plans.get(plan.id)
    return {opened.stage for opened in plan.stages} - {opened.stage for opened in (before.stages if before else ())}


def _refuse_lost_shadows(old: CatalogSnapshot, new: CatalogSnapshot) -> None:
    for plan in new.plans.values():
        if plan.shadow is None or plan.shadow in new.plans:
            continue
        if plan.shadow in old.plans:
            raise Conflict(
                f"plan {plan.shadow!r} is the shadow of plan {plan.id!r}: end that trial first", field="shadow"
            )
        raise NotFound(f"plan {plan.id!r} has the shadow {plan.shadow!r}, and there is no such plan", field="shadow")


def _as_fields(snapshot: CatalogSnapshot) -> dict[str, str]:
    fields = {f"plan:{plan.id}": plan_documents.plan_json(plan) for plan in snapshot.plans.values()}
    fields |= {f"stage:{stage.id}": plan_documents.stage_json(stage) for stage in snapshot.stages.values()}
    if snapshot.account is not None:
        fields["account"] = plan_documents.throttle_json(snapshot.account)
    return fields


def _must_be(value: object, kind: type, field: str) -> None:
    if not isinstance(value, kind):
        raise ConfigError(f"must be a {kind.__name__}, not {validation.shown(value)}", field=field)
