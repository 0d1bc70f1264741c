"""The catalogue for blocking code."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Self, Unpack

from ratelimit.admin.applied import ApplyReport
from ratelimit.admin.key_fields import About
from ratelimit.admin.listing import Page
from ratelimit.admin.plans import PlanAdmin
from ratelimit.admin.preconditions import ANYTHING, Expectation
from ratelimit.admin.shadows import ShadowAdmin, ShadowCounts
from ratelimit.admin.usage import Usage, UsageAdmin
from ratelimit.catalog.transfer import Transfer
from ratelimit.model import ApiKey, Stage, Throttle, UsagePlan
from ratelimit.registry.ceilings import Ceilings
from ratelimit.registry.key_values import Peppers
from ratelimit.registry.namespace import Clock, Namespace
from ratelimit.store import clients
from ratelimit.store.blocking.executor import BlockingExecutor


class Catalog(Transfer):
    """The plans, stages and keys of one namespace.

    `client`, `namespace`, `pepper` and `clock` are as for `Limiter`; `limiter.catalog` is one that shares a limiter's.
    `ceilings` bound the numbers of things, such as `Ceilings.aws()`; a change that would go beyond is ConfigError.

    Every change is all or nothing and rests on what was read: who changes the same thing at the same time starts
    over by itself. Where a change is to rest on what somebody has seen, pass that as `expected` (None: that there was
    none): if another holds by then, it is Conflict. Raises ConfigError (with Conflict, NotFound) for input, before
    anything is written; StoreError for Redis.
    """

    def __init__(
        self,
        client: clients.Client,
        *,
        namespace: str = "ratelimit",
        pepper: Peppers = None,
        clock: Clock | None = None,
        ceilings: Ceilings | None = None,
    ) -> None:
        clients.validate_client(client)
        self._bind(Namespace(namespace, pepper, clock), BlockingExecutor(client))
        if ceilings is not None:
            self.ceilings = ceilings

    @classmethod
    def _sharing(cls, namespace: Namespace, store: BlockingExecutor) -> Self:
        catalog = cls.__new__(cls)
        catalog._bind(namespace, store)
        return catalog

    def _bind(self, namespace: Namespace, store: BlockingExecutor) -> None:
        super()._bind(namespace, store)
        self._plans, self._metering, self._shadows = PlanAdmin(namespace), UsageAdmin(namespace), ShadowAdmin(namespace)

    def apply(self, path: str | Path, *, dry_run: bool = False) -> ApplyReport:
        """Make a plan file hold (TOML): what it says is put, plans and stages it does not name are removed.

        All or nothing; returns what changed, or with `dry_run` what would. Raises ConfigError with the path of the
        field inside the file, and Conflict if a plan that still has keys would go, or a key would be in two plans of
        one stage.
        """
        return self._run(self._plans.apply(path, dry_run=dry_run))

    def put_plan(self, plan: UsagePlan, *, expected: UsagePlan | Expectation | None = ANYTHING) -> None:
        """Add a plan, or replace the one of its id: counts are kept, tokens are clamped to a smaller burst.

        Raises Conflict if a key would be in two plans of one stage.
        """
        self._run(self._plans.put_plan(plan, expected))

    def get_plan(self, plan_id: str) -> UsagePlan:
        """Return a plan. Raises NotFound."""
        return self._run(self._plans.get_plan(plan_id))

    def plans(self) -> list[UsagePlan]:
        """Return all plans, by id."""
        return self._run(self._plans.plans())

    def delete_plan(self, plan_id: str, *, expected: UsagePlan | Expectation = ANYTHING) -> None:
        """Remove a plan. Raises NotFound, and Conflict while it has keys."""
        self._run(self._plans.delete_plan(plan_id, expected))

    def put_stage(self, stage: Stage, *, expected: Stage | Expectation | None = ANYTHING) -> None:
        """Configure a stage, or replace its configuration."""
        self._run(self._plans.put_stage(stage, expected))

    def stages(self) -> list[Stage]:
        """Return all configured stages, by id."""
        return self._run(self._plans.stages())

    def delete_stage(self, stage_id: str, *, expected: Stage | Expectation = ANYTHING) -> None:
        """Remove a stage's configuration; plans that name it go on opening it. Raises NotFound."""
        self._run(self._plans.delete_stage(stage_id, expected))

    def set_account_throttle(
        self, throttle: Throttle | None, *, expected: Throttle | Expectation | None = ANYTHING
    ) -> None:
        """Set the one bucket that all requests of all callers share; None removes it."""
        self._run(self._plans.set_account_throttle(throttle, expected))

    def get_account_throttle(self) -> Throttle | None:
        """Return the account's throttle, None if there is none."""
        return self._run(self._plans.account_throttle())

    def create_key(
        self,
        name: str = "",
        value: str | None = None,
        plans: Iterable[str] = (),
        enabled: bool = True,
        **about: Unpack[About],
    ) -> ApiKey:
        """Make a key and return it with its `value`, which is shown this once and stored nowhere.

        value       20 to 128 visible ASCII characters of your own; None to have one generated
        plans       ids of plans the key joins: at most one that opens any given stage
        about       expires_at (seconds since 1970, from which on the key is refused), description, owner, tags

        Raises Conflict for a value that exists (naming the id of its key) or two plans of one stage, and NotFound
        for an unknown plan.
        """
        return self._run(self._keys.create_key(name, value, plans, enabled=enabled, **about))

    def get_key(self, key_id: str) -> ApiKey:
        """Return a key, without its value. Raises NotFound."""
        return self._run(self._keys.get_key(key_id))

    def keys(self, prefix: str = "") -> list[ApiKey]:
        """Return all keys whose name starts with `prefix`, the newest first."""
        return self._run(self._lists.keys(prefix))

    def keys_page(self, prefix: str = "", limit: int = 25, position: str | None = None) -> Page:
        """Return up to `limit` (1 to 500) keys whose name starts with `prefix`, the newest first.

        `position` is that of the page before; the last page has None.
        """
        return self._run(self._lists.keys_page(prefix, limit, position))

    def update_key(
        self,
        key_id: str,
        *,
        enabled: bool | None = None,
        name: str | None = None,
        **about: Unpack[About],
    ) -> ApiKey:
        """Change what is given, and return the key. Every replica goes by it from its next check on.

        Raises NotFound.
        """
        return self._run(self._keys.update_key(key_id, enabled=enabled, name=name, **about))

    def rotate_key(
        self, key_id: str, grace_s: float = 0, value: str | None = None, *, expected: ApiKey | None = None
    ) -> ApiKey:
        """Give a key a new value and return it, shown this once; the id, the limits and the counts stay.

        The old value works for `grace_s` seconds more, by the server's clock, on the same budget. Raises NotFound,
        and Conflict for a `value` that exists.
        """
        return self._run(self._keys.rotate_key(key_id, grace_s, value, expected))

    def delete_key(self, key_id: str, *, expected: ApiKey | None = None) -> None:
        """Delete a key and all that was counted for it. Raises NotFound."""
        self._run(self._keys.delete_key(key_id, expected))

    def usage(
        self,
        plan_id: str,
        start: date | str,
        end: date | str,
        key_id: str | None = None,
        limit: int = 500,
        position: str | None = None,
    ) -> Usage:
        """Return what a plan's keys used on each day from `start` to `end`, both included (dates, or YYYY-MM-DD).

        All keys of the plan by id and those that have left it but used something, or were refused, on these days,
        `limit` (1 to 500) looked at at a time; or `key_id` alone. Days are kept for 90 days. Raises NotFound for an
        unknown plan, ConfigError for days that are none.
        """
        return self._run(self._metering.usage(plan_id, start, end, key_id, limit, position))

    def set_remaining(self, plan_id: str, key_id: str, remaining: int) -> None:
        """Set what is left of a key's quota in the current window, more or less than it was.

        The next window has the plan's limit again. Raises NotFound, and ConfigError for a plan without a quota.
        """
        self._run(self._metering.set_remaining(plan_id, key_id, remaining))

    def shadow_counts(self, plan_id: str) -> list[ShadowCounts]:
        """Return what the shadow of a plan saw and would have denied, by key, the most denied first.

        Raises NotFound, and ConfigError for a plan without a shadow.
        """
        return self._run(self._shadows.shadow_counts(plan_id))

    def reset_shadow(self, plan_id: str, *, expected: UsagePlan | Expectation = ANYTHING) -> None:
        """Forget what a plan's shadow counted, and its buckets: the trial starts anew."""
        self._run(self._shadows.reset_shadow(plan_id, expected))

    def add_key_to_plan(self, key_id: str, plan_id: str) -> ApiKey:
        """Put a key into a plan, and return the key.

        Raises NotFound, and Conflict if it is in the plan already or in another one of the same stage.
        """
        return self._run(self._keys.add_key_to_plan(key_id, plan_id))

    def move_key(self, key_id: str, from_plan: str, to_plan: str) -> ApiKey:
        """Take a key out of one plan and put it into another in one step, and return it: at no moment is it in neither.

        What it used of either plan stays with that plan. Raises NotFound if it is not in `from_plan`, and Conflict if
        it is in `to_plan` already or would be in two plans of one stage.
        """
        return self._run(self._keys.move_key(key_id, from_plan, to_plan))

    def remove_key_from_plan(self, key_id: str, plan_id: str) -> ApiKey:
        """Take a key out of a plan, and return the key. What it used is kept: joining again gains nothing.

        Raises NotFound.
        """
        return self._run(self._keys.remove_key_from_plan(key_id, plan_id))
