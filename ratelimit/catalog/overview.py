"""What both catalogues say of the whole: what comes from AWS, what keys open, what a backend must bear."""

from __future__ import annotations

from collections.abc import Callable

from ratelimit.admin.aws import AwsAdmin, AwsExport, AwsReport
from ratelimit.admin.capacity.report import Capacity, CapacityAdmin
from ratelimit.admin.ceilings import checked
from ratelimit.admin.gateway_scripts import load_scripts
from ratelimit.admin.key_access import KeyOpens, OpenStage
from ratelimit.admin.upgrade import UpgradeAdmin, UpgradeReport
from ratelimit.model import Scope
from ratelimit.registry.ceilings import Ceilings
from ratelimit.registry.namespace import Namespace
from ratelimit.store.aio.executor import AsyncExecutor
from ratelimit.store.blocking.executor import BlockingExecutor


class _Bound:
    """What the twins share."""

    _namespace: Namespace

    @property
    def ceilings(self) -> Ceilings:
        """How many things the catalogue may hold. To be set where none were given: `limiter.catalog.ceilings = ...`."""
        return self._namespace.ceilings

    @ceilings.setter
    def ceilings(self, ceilings: Ceilings) -> None:
        self._namespace.ceilings = checked(ceilings)


class Overview(_Bound):
    """For blocking code."""

    def _bind(self, namespace: Namespace, store: BlockingExecutor) -> None:
        self._namespace, self._run = namespace, store.run
        self._aws, self._capacity, self._opens = AwsAdmin(namespace), CapacityAdmin(namespace), KeyOpens(namespace)
        self._upgrade = UpgradeAdmin(namespace)

    def capacity(self, new_plan: str | None = None) -> Capacity:
        """Return what all active keys together may send: rate, burst, and the most of a second and of a day.

        For each stage and in total, with the limits that bind each figure; with `new_plan` also what one more key of
        that plan would add. Reads the record of every key, some hundreds at a time. Raises NotFound.
        """
        return self._run(self._capacity.capacity(new_plan))

    def opens(self, key_id: str) -> list[OpenStage]:
        """Return the stages that a key opens by its plans, with their methods and the limits that apply there.

        None while the key is disabled or expired. Raises NotFound.
        """
        return self._run(self._opens.opens(key_id))

    def load_scripts(self) -> dict[str, str]:
        """Give the server the scripts that gateways call, and return the SHA-1 of each by its name.

        For gateways whose user may not send scripts (EVAL). To be repeated after a restart or a failover of the server,
        and before another version of this package is rolled out.
        """
        return self._run(load_scripts())

    def upgrade(self, *, dry_run: bool = False, progress: Callable[[int], None] | None = None) -> UpgradeReport:
        """Bring what a former version stored to this version's schema; with `dry_run` tell what that would be.

        progress  called with the number of entries of the index done so far

        Stop administrators first. Gateways of the former version answer 503 from the first step on. All that is counted
        stays. An upgrade that was interrupted is simply repeated; one that is not needed changes nothing.
        """
        return self._run(self._upgrade.upgrade(dry_run=dry_run, progress=progress))

    def import_aws(self, export: AwsExport, *, api_names: bool = False, throttle_scope: Scope = "key") -> AwsReport:
        """Store what was read of AWS API Gateway with `ratelimit.admin.aws.read_export` or `fetch_live`.

        api_names       call stages by the names of their APIs instead of by their ids, where a name allows it
        throttle_scope  what a plan's throttle is for: "key" or "key_method", see `UsagePlan`

        Plans and stages are put in one commit, then keys in batches; a key whose value exists is changed, and is in
        those plans of the export that the export says. All else in the catalogue stays as it is. An import that was
        interrupted is simply repeated. Raises Conflict, with nothing stored, if the plans would put a key that exists
        into two plans of one stage.
        """
        return self._run(self._aws.import_aws(export, api_names=api_names, throttle_scope=throttle_scope))


class AsyncOverview(_Bound):
    """For asyncio."""

    def _bind(self, namespace: Namespace, store: AsyncExecutor) -> None:
        self._namespace, self._run = namespace, store.run
        self._aws, self._capacity, self._opens = AwsAdmin(namespace), CapacityAdmin(namespace), KeyOpens(namespace)
        self._upgrade = UpgradeAdmin(namespace)

    async def capacity(self, new_plan: str | None = None) -> Capacity:
        """As `Catalog.capacity`."""
        return await self._run(self._capacity.capacity(new_plan))

    async def opens(self, key_id: str) -> list[OpenStage]:
        """As `Catalog.opens`."""
        return await self._run(self._opens.opens(key_id))

    async def load_scripts(self) -> dict[str, str]:
        """As `Catalog.load_scripts`."""
        return await self._run(load_scripts())

    async def upgrade(self, *, dry_run: bool = False, progress: Callable[[int], None] | None = None) -> UpgradeReport:
        """As `Catalog.upgrade`."""
        return await self._run(self._upgrade.upgrade(dry_run=dry_run, progress=progress))

    async def import_aws(
        self, export: AwsExport, *, api_names: bool = False, throttle_scope: Scope = "key"
    ) -> AwsReport:
        """As `Catalog.import_aws`."""
        return await self._run(self._aws.import_aws(export, api_names=api_names, throttle_scope=throttle_scope))
