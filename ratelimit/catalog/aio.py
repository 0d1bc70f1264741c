"""The catalogue for asyncio: the twin of `Catalog`."""

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
from ratelimit.catalog.transfer import AsyncTransfer
from ratelimit.model import ApiKey, Stage, Throttle, UsagePlan
from ratelimit.registry.ceilings import Ceilings
from ratelimit.registry.key_values import Peppers
from ratelimit.registry.namespace import Clock, Namespace
from ratelimit.store import clients
from ratelimit.store.aio.executor import AsyncExecutor


class AsyncCatalog(AsyncTransfer):
    """The twin of `Catalog` for asyncio."""

    def __init__(
        self,
        client: clients.AsyncClient,
        *,
        namespace: str = "ratelimit",
        pepper: Peppers = None,
        clock: Clock | None = None,
        ceilings: Ceilings | None = None,
    ) -> None:
        clients.validate_async_client(client)
        self._bind(Namespace(namespace, pepper, clock), AsyncExecutor(client, batches=False))
        if ceilings is not None:
            self.ceilings = ceilings

    @classmethod
    def _sharing(cls, namespace: Namespace, store: AsyncExecutor) -> Self:
        catalog = cls.__new__(cls)
        catalog._bind(namespace, store)
        return catalog

    def _bind(self, namespace: Namespace, store: AsyncExecutor) -> None:
        super()._bind(namespace, store)
        self._plans, self._metering, self._shadows = PlanAdmin(namespace), UsageAdmin(namespace), ShadowAdmin(namespace)

    async def apply(self, path: str | Path, *, dry_run: bool = False) -> ApplyReport:
        """As `Catalog.apply`."""
        return await self._run(self._plans.apply(path, dry_run=dry_run))

    async def put_plan(self, plan: UsagePlan, *, expected: UsagePlan | Expectation | None = ANYTHING) -> None:
        """As `Catalog.put_plan`."""
        await self._run(self._plans.put_plan(plan, expected))

    async def get_plan(self, plan_id: str) -> UsagePlan:
        """As `Catalog.get_plan`."""
        return await self._run(self._plans.get_plan(plan_id))

    async def plans(self) -> list[UsagePlan]:
        """As `Catalog.plans`."""
        return await self._run(self._plans.plans())

    async def delete_plan(self, plan_id: str, *, expected: UsagePlan | Expectation = ANYTHING) -> None:
        """As `Catalog.delete_plan`."""
        await self._run(self._plans.delete_plan(plan_id, expected))

    async def put_stage(self, stage: Stage, *, expected: Stage | Expectation | None = ANYTHING) -> None:
        """As `Catalog.put_stage`."""
        await self._run(self._plans.put_stage(stage, expected))

    async def stages(self) -> list[Stage]:
        """As `Catalog.stages`."""
        return await self._run(self._plans.stages())

    async def delete_stage(self, stage_id: str, *, expected: Stage | Expectation = ANYTHING) -> None:
        """As `Catalog.delete_stage`."""
        await self._run(self._plans.delete_stage(stage_id, expected))

    async def set_account_throttle(
        self, throttle: Throttle | None, *, expected: Throttle | Expectation | None = ANYTHING
    ) -> None:
        """As `Catalog.set_account_throttle`."""
        await self._run(self._plans.set_account_throttle(throttle, expected))

    async def get_account_throttle(self) -> Throttle | None:
        """As `Catalog.get_account_throttle`."""
        return await self._run(self._plans.account_throttle())

    async def create_key(
        self,
        name: str = "",
        value: str | None = None,
        plans: Iterable[str] = (),
        enabled: bool = True,
        **about: Unpack[About],
    ) -> ApiKey:
        """As `Catalog.create_key`."""
        return await self._run(self._keys.create_key(name, value, plans, enabled=enabled, **about))

    async def get_key(self, key_id: str) -> ApiKey:
        """As `Catalog.get_key`."""
        return await self._run(self._keys.get_key(key_id))

    async def keys(self, prefix: str = "") -> list[ApiKey]:
        """As `Catalog.keys`."""
        return await self._run(self._lists.keys(prefix))

    async def keys_page(self, prefix: str = "", limit: int = 25, position: str | None = None) -> Page:
        """As `Catalog.keys_page`."""
        return await self._run(self._lists.keys_page(prefix, limit, position))

    async def update_key(
        self,
        key_id: str,
        *,
        enabled: bool | None = None,
        name: str | None = None,
        **about: Unpack[About],
    ) -> ApiKey:
        """As `Catalog.update_key`."""
        return await self._run(self._keys.update_key(key_id, enabled=enabled, name=name, **about))

    async def rotate_key(
        self, key_id: str, grace_s: float = 0, value: str | None = None, *, expected: ApiKey | None = None
    ) -> ApiKey:
        """As `Catalog.rotate_key`."""
        return await self._run(self._keys.rotate_key(key_id, grace_s, value, expected))

    async def delete_key(self, key_id: str, *, expected: ApiKey | None = None) -> None:
        """As `Catalog.delete_key`."""
        await self._run(self._keys.delete_key(key_id, expected))

    async def usage(
        self,
        plan_id: str,
        start: date | str,
        end: date | str,
        key_id: str | None = None,
        limit: int = 500,
        position: str | None = None,
    ) -> Usage:
        """As `Catalog.usage`."""
        return await self._run(self._metering.usage(plan_id, start, end, key_id, limit, position))

    async def set_remaining(self, plan_id: str, key_id: str, remaining: int) -> None:
        """As `Catalog.set_remaining`."""
        await self._run(self._metering.set_remaining(plan_id, key_id, remaining))

    async def shadow_counts(self, plan_id: str) -> list[ShadowCounts]:
        """As `Catalog.shadow_counts`."""
        return await self._run(self._shadows.shadow_counts(plan_id))

    async def reset_shadow(self, plan_id: str, *, expected: UsagePlan | Expectation = ANYTHING) -> None:
        """As `Catalog.reset_shadow`."""
        await self._run(self._shadows.reset_shadow(plan_id, expected))

    async def add_key_to_plan(self, key_id: str, plan_id: str) -> ApiKey:
        """As `Catalog.add_key_to_plan`."""
        return await self._run(self._keys.add_key_to_plan(key_id, plan_id))

    async def move_key(self, key_id: str, from_plan: str, to_plan: str) -> ApiKey:
        """As `Catalog.move_key`."""
        return await self._run(self._keys.move_key(key_id, from_plan, to_plan))

    async def remove_key_from_plan(self, key_id: str, plan_id: str) -> ApiKey:
        """As `Catalog.remove_key_from_plan`."""
        return await self._run(self._keys.remove_key_from_plan(key_id, plan_id))
