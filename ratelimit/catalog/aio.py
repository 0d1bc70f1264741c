"""The catalogue for asyncio."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping
from datetime import date
from math import inf
from typing import Self, Unpack

from ratelimit.admin.aws import AwsExport, AwsReport
from ratelimit.admin.capacity.report import Capacity
from ratelimit.admin.csv.transfer import ImportReport, ProgressCallback
from ratelimit.admin.doctor.report import DoctorReport
from ratelimit.admin.durability import durable_change, durable_deletion
from ratelimit.admin.gateway_scripts import load_scripts
from ratelimit.admin.identities import IdentityUsage, identity_count, identity_usage
from ratelimit.admin.key_access import StageAccess
from ratelimit.admin.keys import KeyDetails
from ratelimit.admin.listing import KeyPage
from ratelimit.admin.migration.migrate import Migration, MigrationProgress, MigrationReport, Pause, Steps
from ratelimit.admin.plans import ApplyReport
from ratelimit.admin.preconditions import NO_PRECONDITION, NoPrecondition
from ratelimit.admin.shadows import ShadowCounts
from ratelimit.admin.upgrade import UpgradeReport
from ratelimit.admin.usage import Usage
from ratelimit.catalog import files
from ratelimit.catalog.base import DEADLINE_S, Base
from ratelimit.catalog.files import MAX_CSV_BYTES, FileSource
from ratelimit.model import (
    ApiKey,
    CreatedKey,
    FrozenMap,
    Identity,
    Replication,
    Stage,
    Throttle,
    ThrottleScope,
    UsagePlan,
)
from ratelimit.registry.ceilings import Ceilings
from ratelimit.registry.key_values import Peppers
from ratelimit.registry.namespace import Clock, Namespace
from ratelimit.store import clients
from ratelimit.store.aio.cluster import AsyncClusterExecutor
from ratelimit.store.aio.executor import AsyncExecutor, async_executor_for


class AsyncCatalog(Base):
    """The twin of `Catalog` for asyncio: the same methods, awaited. See `Catalog`."""

    def __init__(
        self,
        client: clients.AsyncClient,
        *,
        namespace: str = "ratelimit",
        pepper: Peppers = None,
        clock: Clock | None = None,
        ceilings: Ceilings | None = None,
    ) -> None:
        clients.validate_async_client(client, ("commands",))
        self._bind(Namespace(namespace, pepper, clock))
        self._store = async_executor_for(client, inf, self._namespace.names.catalog)
        self._namespace.has_slots = self._store.has_slots
        self._run = self._store.run
        if ceilings is not None:
            self.ceilings = ceilings

    @classmethod
    def _sharing(cls, namespace: Namespace, store: AsyncExecutor | AsyncClusterExecutor) -> Self:
        """Return a catalogue that shares a limiter's namespace and store."""
        catalog = cls.__new__(cls)
        catalog._bind(namespace)
        catalog._store = store
        catalog._run = store.run
        return catalog

    async def apply(self, path: str | os.PathLike[str], *, dry_run: bool = False) -> ApplyReport:
        """Make the catalogue equal to a plan file. See `Catalog.apply`."""
        return await self._run(self._plans.apply(files.read_plan_file(path), dry_run=dry_run))

    async def put_plan(self, plan: UsagePlan, *, expected: UsagePlan | NoPrecondition | None = NO_PRECONDITION) -> None:
        """Add or replace a plan. See `Catalog.put_plan`."""
        await self._run(self._plans.put_plan(plan, expected))

    async def get_plan(self, plan_id: str) -> UsagePlan:
        """Return a plan. See `Catalog.get_plan`."""
        return await self._run(self._plans.get_plan(plan_id))

    async def plans(self) -> list[UsagePlan]:
        """Return all plans, sorted by id. See `Catalog.plans`."""
        return await self._run(self._plans.plans())

    async def delete_plan(self, plan_id: str, *, expected: UsagePlan | NoPrecondition = NO_PRECONDITION) -> None:
        """Remove a plan that has no keys. See `Catalog.delete_plan`."""
        await self._run(self._plans.delete_plan(plan_id, expected))

    async def put_stage(self, stage: Stage, *, expected: Stage | NoPrecondition | None = NO_PRECONDITION) -> None:
        """Configure a stage. See `Catalog.put_stage`."""
        await self._run(self._plans.put_stage(stage, expected))

    async def stages(self) -> list[Stage]:
        """Return all configured stages, sorted by id. See `Catalog.stages`."""
        return await self._run(self._plans.stages())

    async def delete_stage(self, stage_id: str, *, expected: Stage | NoPrecondition = NO_PRECONDITION) -> None:
        """Remove the configuration of a stage. See `Catalog.delete_stage`."""
        await self._run(self._plans.delete_stage(stage_id, expected))

    async def set_account_throttle(
        self, throttle: Throttle | None, *, expected: Throttle | NoPrecondition | None = NO_PRECONDITION
    ) -> None:
        """Set the throttle that all requests share. See `Catalog.set_account_throttle`."""
        await self._run(self._plans.set_account_throttle(throttle, expected))

    async def get_account_throttle(self) -> Throttle | None:
        """Return the throttle that all requests share. See `Catalog.get_account_throttle`."""
        return await self._run(self._plans.account_throttle())

    async def create_key(
        self,
        name: str = "",
        value: str | None = None,
        plans: Iterable[str] = (),
        enabled: bool = True,
        expires_at: float | None = None,
        description: str = "",
        owner: str = "",
        tags: Mapping[str, str] = FrozenMap(),
    ) -> CreatedKey:
        """Create an API key, and return it with its value. See `Catalog.create_key`."""
        details = KeyDetails(expires_at=expires_at, description=description, owner=owner, tags=tags)
        return await self._run(self._keys.create_key(name, value, plans, enabled=enabled, **details))

    async def get_key(self, key_id: str) -> ApiKey:
        """Return an API key, without its value. See `Catalog.get_key`."""
        return await self._run(self._keys.get_key(key_id))

    async def keys(self, prefix: str = "") -> list[ApiKey]:
        """Return all keys, the newest first. See `Catalog.keys`."""
        return await self._run(self._listing.keys(prefix))

    async def list_keys(self, prefix: str = "", limit: int = 25, cursor: str | None = None) -> KeyPage:
        """Return one page of the keys, the newest first. See `Catalog.list_keys`."""
        return await self._run(self._listing.list_keys(prefix, limit, cursor))

    async def update_key(
        self,
        key_id: str,
        *,
        enabled: bool | None = None,
        name: str | None = None,
        durable: bool = False,
        durable_timeout: float = 1.0,
        **details: Unpack[KeyDetails],
    ) -> ApiKey:
        """Change an API key. See `Catalog.update_key`."""
        change = self._keys.update_key(key_id, enabled=enabled, name=name, **details)
        return await self._run(durable_change(self._namespace, key_id, change, durable, durable_timeout))

    async def rotate_key(
        self,
        key_id: str,
        grace_s: float = 0,
        value: str | None = None,
        *,
        expected: ApiKey | None = None,
        durable: bool = False,
        durable_timeout: float = 1.0,
    ) -> CreatedKey:
        """Give an API key a new value, and return it with that. See `Catalog.rotate_key`."""
        change = self._keys.rotate_key(key_id, grace_s, value, expected)
        return await self._run(durable_change(self._namespace, key_id, change, durable, durable_timeout))

    async def delete_key(
        self, key_id: str, *, expected: ApiKey | None = None, durable: bool = False, durable_timeout: float = 1.0
    ) -> Replication | None:
        """Delete an API key and everything that was counted for it. See `Catalog.delete_key`."""
        deletion = self._keys.delete_key(key_id, expected)
        return await self._run(durable_deletion(self._namespace, key_id, deletion, durable, durable_timeout))

    async def add_key_to_plan(self, key_id: str, plan_id: str) -> ApiKey:
        """Put a key into a plan. See `Catalog.add_key_to_plan`."""
        return await self._run(self._keys.add_key_to_plan(key_id, plan_id))

    async def move_key(
        self, key_id: str, from_plan: str, to_plan: str, *, durable: bool = False, durable_timeout: float = 1.0
    ) -> ApiKey:
        """Move a key from one plan to another in one step. See `Catalog.move_key`."""
        change = self._keys.move_key(key_id, from_plan, to_plan)
        return await self._run(durable_change(self._namespace, key_id, change, durable, durable_timeout))

    async def remove_key_from_plan(
        self, key_id: str, plan_id: str, *, durable: bool = False, durable_timeout: float = 1.0
    ) -> ApiKey:
        """Take a key out of a plan. See `Catalog.remove_key_from_plan`."""
        change = self._keys.remove_key_from_plan(key_id, plan_id)
        return await self._run(durable_change(self._namespace, key_id, change, durable, durable_timeout))

    async def key_access(self, key_id: str) -> list[StageAccess]:
        """Return what a key gives access to. See `Catalog.key_access`."""
        return await self._run(self._access.key_access(key_id))

    async def usage(
        self,
        plan_id: str,
        start: date | str,
        end: date | str,
        key_id: str | None = None,
        limit: int = 500,
        cursor: str | None = None,
    ) -> Usage:
        """Return one page of what the keys of a plan used, day by day. See `Catalog.usage`."""
        return await self._run(self._metering.usage(plan_id, start, end, key_id, limit, cursor))

    async def identity_usage(self, identity: Identity) -> IdentityUsage:
        """Return what an identity used, as far as Redis still holds it. See `Catalog.identity_usage`."""
        return await self._run(identity_usage(self._namespace, identity))

    async def identity_count(self, plan_id: str) -> int | None:
        """Return how many identities of a plan have a state in Redis, about. See `Catalog.identity_count`."""
        return await self._run(identity_count(self._namespace, plan_id))

    async def set_remaining(self, plan_id: str, key_id: str, remaining: int) -> None:
        """Set what is left of a key's quota in the current window. See `Catalog.set_remaining`."""
        await self._run(self._metering.set_remaining(plan_id, key_id, remaining))

    async def shadow_counts(self, plan_id: str) -> list[ShadowCounts]:
        """Return what the shadow of a plan saw and would have denied. See `Catalog.shadow_counts`."""
        return await self._run(self._shadows.shadow_counts(plan_id))

    async def reset_shadow(self, plan_id: str, *, expected: UsagePlan | NoPrecondition = NO_PRECONDITION) -> None:
        """Delete what a plan's shadow counted. See `Catalog.reset_shadow`."""
        await self._run(self._shadows.reset_shadow(plan_id, expected))

    async def capacity(self, new_plan: str | None = None) -> Capacity:
        """Return the most that all active keys together may send. See `Catalog.capacity`."""
        return await self._run(self._capacity.capacity(new_plan))

    async def import_keys(
        self,
        source: FileSource,
        fail_on_warnings: bool = False,
        progress: ProgressCallback | None = None,
        *,
        max_bytes: int = MAX_CSV_BYTES,
    ) -> ImportReport:
        """Create API keys from a CSV file, and change those that exist. See `Catalog.import_keys`.

        The source is read without awaiting: it should be a file that can be read at once, not a slow pipe.
        """
        return await self._run(files.import_keys(self._keys, source, fail_on_warnings, progress, max_bytes))

    async def export_keys(self, target: FileSource) -> int:
        """Write all API keys to a CSV file. See `Catalog.export_keys`."""
        return await self._run(files.export_keys(self._listing, target))

    async def import_aws(
        self, export: AwsExport, *, api_names: bool = False, throttle_scope: ThrottleScope = "key"
    ) -> AwsReport:
        """Import the usage plans, stages and API keys of AWS API Gateway. See `Catalog.import_aws`."""
        return await self._run(self._aws.import_aws(export, api_names=api_names, throttle_scope=throttle_scope))

    async def load_scripts(self) -> dict[str, str]:
        """Load the scripts that gateways call into the server. See `Catalog.load_scripts`."""
        return await self._run(load_scripts())

    async def upgrade(self, *, dry_run: bool = False, progress: ProgressCallback | None = None) -> UpgradeReport:
        """Upgrade what an earlier version stored to this version's schema. See `Catalog.upgrade`."""
        return await self._run(self._upgrade.upgrade(dry_run=dry_run, progress=progress))

    async def migrate(
        self,
        target: Self,
        *,
        finish: bool = False,
        max_age: float = 5.0,
        stale_catalogue_s: float = 300.0,
        progress: MigrationProgress | None = None,
    ) -> MigrationReport:
        """Copy this namespace to another server or cluster; with `finish`, hand it over. See `Catalog.migrate`."""
        steps = Migration(self._namespace, target._namespace).run(finish, max_age, stale_catalogue_s, progress)
        return await self._run_steps(target, steps)

    async def cancel_migration(self, target: Self) -> MigrationReport:
        """Remove an unfinished copy at the target, and decide here again. See `Catalog.cancel_migration`."""
        return await self._run_steps(target, Migration(self._namespace, target._namespace).cancel())

    async def _run_steps(self, target: Self, steps: Steps) -> MigrationReport:
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    step = next(steps)
                else:
                    step = steps.send(await (target if step.side == "target" else self)._run(step.run()))
        except StopIteration as finished:
            report: MigrationReport = finished.value
            return report

    async def doctor(
        self, *, gateway_user: str | None = None, deadline: float = DEADLINE_S, repair: bool = False
    ) -> DoctorReport:
        """Return what of this deployment would break a promise, and the command that mends it. See `Catalog.doctor`."""
        doctor = self._doctor(self._store.client_settings(), gateway_user, deadline, repair)
        deployment = await self._run(doctor.read())
        return doctor.report(deployment, await self._store.ask(doctor.peers(deployment)))
