"""Plans, stages and the account throttle: reading and changing them. Pure: see commit.py and flow.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from ratelimit.admin.applied import ApplyReport, report
from ratelimit.admin.ceilings import refuse_beyond
from ratelimit.admin.commit import MOST_TRIES, Commit, begin, existing_plan, too_busy, two_plans
from ratelimit.admin.expected import ANYTHING, Expectation, refuse_other
from ratelimit.core import document, validate
from ratelimit.core.book import PlanBook
from ratelimit.core.digest import generated_token
from ratelimit.core.flow import Flow, text, texts
from ratelimit.core.names import OTHERS
from ratelimit.core.state import Namespace
from ratelimit.errors import ConfigError, Conflict, NotFound
from ratelimit.model import Stage, Throttle, UsagePlan


class PlanAdmin:
    """The plans, stages and account throttle of one namespace."""

    def __init__(self, state: Namespace) -> None:
        self._state = state
        self._names = state.names

    def apply(self, path: str | Path, *, dry_run: bool = False) -> Flow[ApplyReport]:
        """Make the plan file hold: what it says is put, what it does not say is removed."""
        wanted = document.read(path)

        def change(_: PlanBook) -> PlanBook:
            return PlanBook(plans=wanted.plans, stages=wanted.stages, account=wanted.account)

        return (yield from self._change_book(change, dry_run=validate.flag(dry_run, "dry_run")))

    def put_plan(self, plan: UsagePlan, expected: UsagePlan | Expectation | None = ANYTHING) -> Flow[None]:
        """Add a plan, or replace the one of its id."""
        _must_be(plan, UsagePlan, "plan")

        def change(book: PlanBook) -> PlanBook:
            refuse_other(book.plans.get(plan.id), expected, f"plan {plan.id!r}", "plan")
            return replace(book, plans={**book.plans, plan.id: plan})

        yield from self._change_book(change)

    def delete_plan(self, plan_id: str, expected: UsagePlan | Expectation = ANYTHING) -> Flow[None]:
        """Remove a plan that no key is in."""

        def change(book: PlanBook) -> PlanBook:
            refuse_other(existing_plan(book, plan_id), expected, f"plan {plan_id!r}", "plan_id")
            return replace(book, plans={name: plan for name, plan in book.plans.items() if name != plan_id})

        yield from self._change_book(change)

    def put_stage(self, stage: Stage, expected: Stage | Expectation | None = ANYTHING) -> Flow[None]:
        """Configure a stage, or replace its configuration."""
        _must_be(stage, Stage, "stage")

        def change(book: PlanBook) -> PlanBook:
            refuse_other(book.stages.get(stage.id), expected, f"stage {stage.id!r}", "stage")
            return replace(book, stages={**book.stages, stage.id: stage})

        yield from self._change_book(change)

    def delete_stage(self, stage_id: str, expected: Stage | Expectation = ANYTHING) -> Flow[None]:
        """Remove a stage's configuration; plans that name the stage go on opening it."""

        def change(book: PlanBook) -> PlanBook:
            if not isinstance(stage_id, str) or stage_id not in book.stages:
                raise NotFound(f"no stage {validate.shown(stage_id)} is configured", field="stage_id")
            refuse_other(book.stages[stage_id], expected, f"stage {stage_id!r}", "stage_id")
            return replace(book, stages={name: stage for name, stage in book.stages.items() if name != stage_id})

        yield from self._change_book(change)

    def set_account_throttle(
        self, throttle: Throttle | None, expected: Throttle | Expectation | None = ANYTHING
    ) -> Flow[None]:
        """Set the bucket that all requests share; None removes it."""
        if throttle is not None:
            _must_be(throttle, Throttle, "throttle")

        def change(book: PlanBook) -> PlanBook:
            refuse_other(book.account, expected, "the account's throttle", "throttle")
            return replace(book, account=throttle)

        yield from self._change_book(change)

    def plans(self) -> Flow[list[UsagePlan]]:
        """Return all plans, by id."""
        book = yield from self._state.load()
        return [book.plans[plan_id] for plan_id in sorted(book.plans)]

    def stages(self) -> Flow[list[Stage]]:
        """Return all configured stages, by id."""
        book = yield from self._state.load()
        return [book.stages[stage_id] for stage_id in sorted(book.stages)]

    def account_throttle(self) -> Flow[Throttle | None]:
        """Return the account's throttle."""
        return (yield from self._state.load()).account

    def get_plan(self, plan_id: str) -> Flow[UsagePlan]:
        """Return a plan."""
        return existing_plan((yield from self._state.load()), plan_id)

    def _change_book(self, change: Callable[[PlanBook], PlanBook], *, dry_run: bool = False) -> Flow[ApplyReport]:
        for _ in range(MOST_TRIES):
            (members,) = yield [("HGET", self._names.catalog, "members")]
            old = yield from self._state.load(for_change=True)
            new = change(old)
            refuse_beyond(self._state.ceilings, old, new)
            _refuse_lost_shadows(old, new)
            yield from self._refuse_orphans(old, new)
            yield from self._refuse_double_plans(old, new)
            if dry_run:
                return report(old, new)
            commit = begin(self._state, old)
            commit.expect(self._names.catalog, "version", str(old.version) if old.epoch else None)
            commit.expect(self._names.catalog, "members", text(members))
            if self._write_book(commit, old, new) and (yield commit.call())[0] != 1:
                continue
            yield from self._state.load()
            return report(old, new)
        raise too_busy()

    def _write_book(self, commit: Commit, old: PlanBook, new: PlanBook) -> bool:
        """Write the difference between two books; tell whether there is any."""
        before, after = _as_fields(old), _as_fields(new)
        changed = [part for item in after.items() if before.get(item[0]) != item[1] for part in item]
        gone = [name for name in before if name not in after]
        if not changed and not gone:
            return False
        catalog = self._names.catalog
        if not old.epoch:
            changed += self._state.first_fields()
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

    def _resized_buckets(self, old: PlanBook, new: PlanBook) -> Iterator[str]:
        """Yield the buckets that all callers share and whose throttle may have changed."""
        for stage_id, stage in new.stages.items():
            if stage != old.stages.get(stage_id):
                for method in (*sorted(old.listed(stage_id) | new.listed(stage_id)), OTHERS):
                    yield self._names.stage_bucket(stage_id, method)
        if new.account != old.account:
            yield self._names.account

    def _refuse_orphans(self, old: PlanBook, new: PlanBook) -> Flow[None]:
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

    def _refuse_double_plans(self, old: PlanBook, new: PlanBook) -> Flow[None]:
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


def _gained(old: PlanBook, plan: UsagePlan) -> set[str]:
    """Return the stages that a plan did not open before."""
    before = old.plans.get(plan.id)
    return {opened.stage for opened in plan.stages} - {opened.stage for opened in (before.stages if before else ())}


def _refuse_lost_shadows(old: PlanBook, new: PlanBook) -> None:
    for plan in new.plans.values():
        if plan.shadow is None or plan.shadow in new.plans:
            continue
        if plan.shadow in old.plans:
            raise Conflict(
                f"plan {plan.shadow!r} is the shadow of plan {plan.id!r}: end that trial first", field="shadow"
            )
        raise NotFound(f"plan {plan.id!r} has the shadow {plan.shadow!r}, and there is no such plan", field="shadow")


def _as_fields(book: PlanBook) -> dict[str, str]:
    fields = {f"plan:{plan.id}": document.plan_json(plan) for plan in book.plans.values()}
    fields |= {f"stage:{stage.id}": document.stage_json(stage) for stage in book.stages.values()}
    if book.account is not None:
        fields["account"] = document.throttle_json(book.account)
    return fields


def _must_be(value: object, kind: type, field: str) -> None:
    if not isinstance(value, kind):
        raise ConfigError(f"must be a {kind.__name__}, not {validate.shown(value)}", field=field)
