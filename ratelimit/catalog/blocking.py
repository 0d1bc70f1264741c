"""The catalogue for blocking code."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import date
from time import sleep
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
from ratelimit.store.blocking.executor import BlockingStore, executor_for


class Catalog(Base):
    """The plans, stages and API keys of one namespace.

    Every change is all or nothing. If somebody else changes the same thing at the same time, the change is computed
    again from what they stored. To make sure that nobody has changed a thing since you read it, pass it as `expected`
    (None: that it did not exist): the change is then refused with Conflict if something else is stored. Where keys lie
    in slots, so may be that of a key which somebody merely repaired: each write of a key gives it another `revision`.

    With `durable=True`, what changes a key waits until all replicas of Redis that are connected have the change, for
    `durable_timeout` seconds at most, and says how many acknowledged it: in the `replication` of the key that it
    returns. Fewer are no error: the change is made. If the server does not allow WAIT and INFO, nothing is changed.

    `limiter.catalog` is a catalogue that shares the client and the settings of a limiter.

    Args:
        client: A client of redis-py or valkey-py.
        namespace: Prefix of every name in Redis; 1 to 64 letters, digits and `. _ ~ -`.
        pepper: Secret mixed into the digests of key values, as for `Limiter`.
        clock: For tests: a callable that returns microseconds since 1970, in place of the server's clock.
        ceilings: How many keys, plans and the like the catalogue may hold, such as `Ceilings.aws()`. A change that
            would exceed one is refused with ConfigError.

    Raises:
        ConfigError: By every method, for input that cannot be accepted; its subclasses Conflict and NotFound where a
            method says so. Nothing was written.
        StoreError: By every method, if Redis fails. Its subclass StoreTimeout means that the outcome is unknown.
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
        clients.validate_client(client, ("commands", "a spare one"))
        self._bind(Namespace(namespace, pepper, clock))
        self._store = executor_for(client, catalog_key=self._namespace.names.catalog)
        self._namespace.has_slots = self._store.has_slots
        self._run = self._store.run
        if ceilings is not None:
            self.ceilings = ceilings

    @classmethod
    def _sharing(cls, namespace: Namespace, store: BlockingStore) -> Self:
        """Return a catalogue that shares a limiter's namespace and store."""
        catalog = cls.__new__(cls)
        catalog._bind(namespace)
        catalog._store = store
        catalog._run = store.run
        return catalog

    def apply(self, path: str | os.PathLike[str], *, dry_run: bool = False) -> ApplyReport:
        """Make the catalogue equal to a plan file: plans and stages that the file does not name are removed.

        Args:
            path: The plan file (TOML). It says everything about plans, stages and the account throttle.
            dry_run: Change nothing, and return what would change.

        Returns:
            What changed.

        Raises:
            ConfigError: With the path of the field inside the file.
            Conflict: A plan that still has keys would be removed, or a key would be in two plans of one stage.
        """
        return self._run(self._plans.apply(files.read_plan_file(path), dry_run=dry_run))

    def put_plan(self, plan: UsagePlan, *, expected: UsagePlan | NoPrecondition | None = NO_PRECONDITION) -> None:
        """Add a plan, or replace the one with its id.

        Counts of its keys stay; tokens above a smaller burst are lost.

        Args:
            plan: The plan.
            expected: The plan that must be stored now; None if there must be none.

        Raises:
            Conflict: A key would be in two plans of one stage, or another plan is stored than `expected`.
        """
        self._run(self._plans.put_plan(plan, expected))

    def get_plan(self, plan_id: str) -> UsagePlan:
        """Return a plan.

        Args:
            plan_id: Its id.

        Raises:
            NotFound: There is no such plan.
        """
        return self._run(self._plans.get_plan(plan_id))

    def plans(self) -> list[UsagePlan]:
        """Return all plans, sorted by id."""
        return self._run(self._plans.plans())

    def delete_plan(self, plan_id: str, *, expected: UsagePlan | NoPrecondition = NO_PRECONDITION) -> None:
        """Remove a plan that has no keys.

        Args:
            plan_id: Its id.
            expected: The plan that must be stored now.

        Raises:
            NotFound: There is no such plan.
            Conflict: It still has keys, or another plan is stored than `expected`.
        """
        self._run(self._plans.delete_plan(plan_id, expected))

    def put_stage(self, stage: Stage, *, expected: Stage | NoPrecondition | None = NO_PRECONDITION) -> None:
        """Configure a stage, or replace its configuration.

        Args:
            stage: The stage.
            expected: The configuration that must be stored now; None if there must be none.

        Raises:
            Conflict: Another configuration is stored than `expected`.
        """
        self._run(self._plans.put_stage(stage, expected))

    def stages(self) -> list[Stage]:
        """Return all configured stages, sorted by id."""
        return self._run(self._plans.stages())

    def delete_stage(self, stage_id: str, *, expected: Stage | NoPrecondition = NO_PRECONDITION) -> None:
        """Remove the configuration of a stage; plans that name the stage go on opening it.

        Args:
            stage_id: Its id, "<api>/<stage>".
            expected: The configuration that must be stored now.

        Raises:
            NotFound: No such stage is configured.
            Conflict: Another configuration is stored than `expected`.
        """
        self._run(self._plans.delete_stage(stage_id, expected))

    def set_account_throttle(
        self, throttle: Throttle | None, *, expected: Throttle | NoPrecondition | None = NO_PRECONDITION
    ) -> None:
        """Set the throttle that all requests of all callers share.

        Args:
            throttle: The throttle; None removes it.
            expected: The throttle that must be stored now; None if there must be none.

        Raises:
            Conflict: Another throttle is stored than `expected`.
        """
        self._run(self._plans.set_account_throttle(throttle, expected))

    def get_account_throttle(self) -> Throttle | None:
        """Return the throttle that all requests share; None if there is none."""
        return self._run(self._plans.account_throttle())

    def create_key(
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
        """Create an API key.

        Args:
            name: For people, up to 1,024 characters; need not be unique.
            value: A value of your own, 20 to 128 visible ASCII characters; None generates one.
            plans: Ids of the plans it joins: at most one that opens any given stage.
            enabled: Whether it is accepted at once.
            expires_at: Seconds since 1970, from which on it is denied; None for never.
            description: For people, up to 125,000 characters.
            owner: For people and billing, up to 256 characters.
            tags: Up to 50 texts by name, for people and billing.

        Returns:
            The key with its `value`, which is shown this once: it is stored nowhere.

        Raises:
            Conflict: A key has this value already (the message names its id), or two plans open one stage.
            NotFound: There is no such plan.
        """
        details = KeyDetails(expires_at=expires_at, description=description, owner=owner, tags=tags)
        return self._run(self._keys.create_key(name, value, plans, enabled=enabled, **details))

    def get_key(self, key_id: str) -> ApiKey:
        """Return an API key, without its value.

        Args:
            key_id: Its id.

        Raises:
            NotFound: There is no such key.
        """
        return self._run(self._keys.get_key(key_id))

    def keys(self, prefix: str = "") -> list[ApiKey]:
        """Return all keys, the newest first; of many keys, `list_keys` returns a page at a time.

        Args:
            prefix: Only keys whose name starts with it.
        """
        return self._run(self._listing.keys(prefix))

    def list_keys(self, prefix: str = "", limit: int = 25, cursor: str | None = None) -> KeyPage:
        """Return one page of the keys, the newest first.

        Args:
            prefix: Only keys whose name starts with it.
            limit: Keys per page, 1 to 500.
            cursor: The `cursor` of the page before; None for the first page.

        Returns:
            The page: `items`, and the `cursor` for the next one, None at the end.
        """
        return self._run(self._listing.list_keys(prefix, limit, cursor))

    def update_key(
        self,
        key_id: str,
        *,
        enabled: bool | None = None,
        name: str | None = None,
        durable: bool = False,
        durable_timeout: float = 1.0,
        **details: Unpack[KeyDetails],
    ) -> ApiKey:
        """Change an API key. Every replica goes by the change from its next check on.

        Args:
            key_id: Its id.
            enabled: Whether it is accepted; None leaves it as it is.
            name: Its name; None leaves it as it is.
            durable: Whether to wait until all connected replicas of Redis have the change; see `Catalog`.
            durable_timeout: For how many seconds at most.
            **details: `expires_at`, `description`, `owner` and `tags`, as in `create_key`; what is not given stays.

        Returns:
            The changed key, without its value.

        Raises:
            NotFound: There is no such key.
        """
        change = self._keys.update_key(key_id, enabled=enabled, name=name, **details)
        return self._run(durable_change(self._namespace, key_id, change, durable, durable_timeout))

    def rotate_key(
        self,
        key_id: str,
        grace_s: float = 0,
        value: str | None = None,
        *,
        expected: ApiKey | None = None,
        durable: bool = False,
        durable_timeout: float = 1.0,
    ) -> CreatedKey:
        """Give an API key a new value. Its id, its limits and its counts stay.

        Args:
            key_id: Its id.
            grace_s: Seconds for which the old value works as well, by the server's clock, on the same budget.
            value: A new value of your own, 20 to 128 visible ASCII characters; None generates one.
            expected: The key as it was read; None for no precondition.
            durable: Whether to wait until all connected replicas of Redis have the change; see `Catalog`.
            durable_timeout: For how many seconds at most.

        Returns:
            The key with its new `value`, which is shown this once: it is stored nowhere.

        Raises:
            NotFound: There is no such key.
            Conflict: Another key has this value already, or the key was changed since `expected` was read.
        """
        change = self._keys.rotate_key(key_id, grace_s, value, expected)
        return self._run(durable_change(self._namespace, key_id, change, durable, durable_timeout))

    def delete_key(
        self, key_id: str, *, expected: ApiKey | None = None, durable: bool = False, durable_timeout: float = 1.0
    ) -> Replication | None:
        """Delete an API key and everything that was counted for it.

        Args:
            key_id: Its id.
            expected: The key as it was read; None for no precondition.
            durable: Whether to wait until all connected replicas of Redis have the change; see `Catalog`.
            durable_timeout: For how many seconds at most.

        Returns:
            With `durable`, how many replicas acknowledged it; else None.

        Raises:
            NotFound: There is no such key.
            Conflict: The key was changed since `expected` was read.
        """
        deletion = self._keys.delete_key(key_id, expected)
        return self._run(durable_deletion(self._namespace, key_id, deletion, durable, durable_timeout))

    def add_key_to_plan(self, key_id: str, plan_id: str) -> ApiKey:
        """Put a key into a plan.

        Args:
            key_id: Id of the key.
            plan_id: Id of the plan.

        Returns:
            The changed key.

        Raises:
            NotFound: There is no such key or plan.
            Conflict: It is in the plan already, or in another plan of one of the plan's stages.
        """
        return self._run(self._keys.add_key_to_plan(key_id, plan_id))

    def move_key(
        self, key_id: str, from_plan: str, to_plan: str, *, durable: bool = False, durable_timeout: float = 1.0
    ) -> ApiKey:
        """Move a key from one plan to another in one step: at no moment is it in neither.

        What it used under either plan stays with that plan.

        Args:
            key_id: Id of the key.
            from_plan: Id of the plan it leaves.
            to_plan: Id of the plan it joins.
            durable: Whether to wait until all connected replicas of Redis have the change; see `Catalog`.
            durable_timeout: For how many seconds at most.

        Returns:
            The changed key.

        Raises:
            NotFound: There is no such key or plan, or the key is not in `from_plan`.
            Conflict: It is in `to_plan` already, or would be in two plans of one stage.
        """
        change = self._keys.move_key(key_id, from_plan, to_plan)
        return self._run(durable_change(self._namespace, key_id, change, durable, durable_timeout))

    def remove_key_from_plan(
        self, key_id: str, plan_id: str, *, durable: bool = False, durable_timeout: float = 1.0
    ) -> ApiKey:
        """Take a key out of a plan. What it used stays stored: to join again gains nothing.

        Args:
            key_id: Id of the key.
            plan_id: Id of the plan.
            durable: Whether to wait until all connected replicas of Redis have the change; see `Catalog`.
            durable_timeout: For how many seconds at most.

        Returns:
            The changed key.

        Raises:
            NotFound: There is no such key, or it is not in the plan.
        """
        change = self._keys.remove_key_from_plan(key_id, plan_id)
        return self._run(durable_change(self._namespace, key_id, change, durable, durable_timeout))

    def key_access(self, key_id: str) -> list[StageAccess]:
        """Return what a key gives access to: the stages that its plans open, with the limits that apply there.

        Args:
            key_id: Id of the key.

        Returns:
            One entry for each stage, with its methods; none while the key is disabled or expired.

        Raises:
            NotFound: There is no such key.
        """
        return self._run(self._access.key_access(key_id))

    def usage(
        self,
        plan_id: str,
        start: date | str,
        end: date | str,
        key_id: str | None = None,
        limit: int = 500,
        cursor: str | None = None,
    ) -> Usage:
        """Return one page of what the keys of a plan used, day by day.

        All keys of the plan are listed by id, and those that have left it but used something, or were denied, on these
        days. Days are stored for 90 days.

        Args:
            plan_id: Id of the plan.
            start: The first day (UTC): a date, or text "YYYY-MM-DD".
            end: The last day, included; at most 366 days later.
            key_id: Only this key.
            limit: Keys per page, 1 to 500; the page may have fewer.
            cursor: The `cursor` of the page before; None for the first page.

        Returns:
            The page: for each key, one pair (used, remaining) per day, in units.

        Raises:
            NotFound: There is no such plan or key.
        """
        return self._run(self._metering.usage(plan_id, start, end, key_id, limit, cursor))

    def identity_usage(self, identity: Identity) -> IdentityUsage:
        """Return what an identity used under its plan, as far as Redis still holds it.

        Raises:
            NotFound: There is no such plan.
            ConfigError: It is no `Identity`.
        """
        return self._run(identity_usage(self._namespace, identity))

    def identity_count(self, plan_id: str) -> int | None:
        """Return how many identities of a plan have a state in Redis, about: exact up to `max_identities` of 4096.

        Returns:
            Their number; None for a plan without `max_identities`, whose identities are not counted.

        Raises:
            NotFound: There is no such plan.
        """
        return self._run(identity_count(self._namespace, plan_id))

    def set_remaining(self, plan_id: str, key_id: str, remaining: int) -> None:
        """Set what is left of a key's quota in the current window, more or less than it was.

        The next window has the plan's limit again.

        Args:
            plan_id: Id of the plan.
            key_id: Id of the key.
            remaining: Units, a whole number >= 0.

        Raises:
            NotFound: There is no such plan, or the key is not in it.
            ConfigError: The plan has no quota.
        """
        self._run(self._metering.set_remaining(plan_id, key_id, remaining))

    def shadow_counts(self, plan_id: str) -> list[ShadowCounts]:
        """Return what the shadow of a plan saw and would have denied.

        Args:
            plan_id: Id of the plan that has the shadow.

        Returns:
            One entry for each key with requests, the most denied first.

        Raises:
            NotFound: There is no such plan.
            ConfigError: The plan has no shadow.
        """
        return self._run(self._shadows.shadow_counts(plan_id))

    def reset_shadow(self, plan_id: str, *, expected: UsagePlan | NoPrecondition = NO_PRECONDITION) -> None:
        """Delete what a plan's shadow counted, and refill its buckets: the trial starts again.

        Args:
            plan_id: Id of the plan that has the shadow.
            expected: The plan that must be stored now.

        Raises:
            NotFound: There is no such plan.
            Conflict: Another plan is stored than `expected`.
        """
        self._run(self._shadows.reset_shadow(plan_id, expected))

    def capacity(self, new_plan: str | None = None) -> Capacity:
        """Return the most that all active keys together may send: what a backend must bear.

        Reads the record of every key, some hundreds at a time.

        Args:
            new_plan: Id of a plan: also return what one more key of it would add.

        Returns:
            Rate, burst, and the most within a second and a day, for each stage and in total, with the limits that
            bound each figure.

        Raises:
            NotFound: There is no such plan.
        """
        return self._run(self._capacity.capacity(new_plan))

    def import_keys(
        self,
        source: FileSource,
        fail_on_warnings: bool = False,
        progress: ProgressCallback | None = None,
        *,
        max_bytes: int = MAX_CSV_BYTES,
    ) -> ImportReport:
        """Create API keys from a CSV file in the format of AWS API Gateway, and change those that exist.

        The first line names the columns, in any order and case: Key (20 to 128 visible ASCII characters) and Name, and
        optionally Description, Enabled (true unless it says false) and UsagePlanIds: one id, or several with commas
        between, in one pair of double or single quotes. Other columns are ignored. A cell does not span lines.

        A row whose Key exists changes that key. The key keeps its id, the state of its limits and whatever the row
        does not say: a column that is missing or a cell that is empty. Plans that the row names replace the key's
        plans. Of several rows with one Key the last counts.

        What cannot be stored draws a warning. A plan that does not exist, or that opens a stage which another plan of
        the row opens, is dropped from the row; a row that names no other plan leaves the key's plans as they are. A
        value that a rotation replaced is not brought back: its row is not stored. Beyond a ceiling, rows of new keys
        are not stored and plans of a key are dropped.

        Rows are stored in batches, each all or nothing. Others may change the catalogue meanwhile. An import that was
        interrupted is simply repeated. With `fail_on_warnings` all rows are checked before any is stored; if another
        administrator removes a plan or rotates a key in the seconds between, the rows concerned are treated as without
        the flag, and the report has warnings as well as ids.

        Args:
            source: A path, or an open file of text or bytes, read from where it stands. One that can be read only once
                is copied to a temporary file.
            fail_on_warnings: Store nothing if anything draws a warning. Otherwise good rows are stored.
            progress: Called with the number of rows done so far.
            max_bytes: A larger file is refused.

        Returns:
            The ids of the keys, and the warnings. Neither warnings nor errors show a Key.

        Raises:
            ConfigError: The file cannot be read: empty, too large, without a Key or Name column, not UTF-8. Nothing
                was stored.
        """
        return self._run(files.import_keys(self._keys, source, fail_on_warnings, progress, max_bytes))

    def export_keys(self, target: FileSource) -> int:
        """Write all API keys to a CSV file, the newest first.

        Columns: Id, Name, Description, Enabled, UsagePlanIds, Owner, Tags (JSON), CreatedAt, ExpiresAt (ISO 8601,
        UTC). The values of keys are stored nowhere, so there is no Key column, and such a file cannot be imported. A
        cell that a spreadsheet would evaluate as a formula (it begins with = + - @) has a single quote before it.

        Args:
            target: A path, or an open file of text or bytes.

        Returns:
            The number of keys.

        Raises:
            ConfigError: The file cannot be written.
        """
        return self._run(files.export_keys(self._listing, target))

    def import_aws(
        self, export: AwsExport, *, api_names: bool = False, throttle_scope: ThrottleScope = "key"
    ) -> AwsReport:
        """Import the usage plans, stages and API keys of AWS API Gateway.

        Plans and stages are put in one commit, then keys in batches. A key whose value exists is changed, and is in
        those plans of the export that the export says. All else in the catalogue stays as it is. An import that was
        interrupted is simply repeated.

        Args:
            export: What `ratelimit.catalog.aws.read_export` or `fetch_live` returned.
            api_names: Call stages by the names of their APIs instead of by their ids, where a name can be part of an
                id.
            throttle_scope: What a plan's throttle applies to: "key" or "key_method", see `UsagePlan`.

        Returns:
            What was imported, and notes on everything that was not carried over, or not as it was.

        Raises:
            Conflict: The plans would put an existing key into two plans of one stage. Nothing was stored.
        """
        return self._run(self._aws.import_aws(export, api_names=api_names, throttle_scope=throttle_scope))

    def load_scripts(self) -> dict[str, str]:
        """Load the scripts that gateways call into the server.

        For gateways whose Redis user may not send scripts (EVAL). Repeat it after a restart or a failover of the
        server, and before another version of this package is rolled out.

        Returns:
            The SHA-1 of each script, by its name.
        """
        return self._run(load_scripts())

    def upgrade(self, *, dry_run: bool = False, progress: ProgressCallback | None = None) -> UpgradeReport:
        """Upgrade what an earlier version stored to this version's schema.

        Stop administrators first. Gateways of the earlier version answer 503 from the first step on. Everything that
        was counted stays. An upgrade that was interrupted is simply repeated; one that is not needed changes nothing.

        Args:
            dry_run: Change nothing, and return what would be done.
            progress: Called with the number of entries of the index done so far.

        Returns:
            What was done.
        """
        return self._run(self._upgrade.upgrade(dry_run=dry_run, progress=progress))

    def migrate(
        self,
        target: Self,
        *,
        finish: bool = False,
        max_age: float = 5.0,
        stale_catalogue_s: float = 300.0,
        progress: MigrationProgress | None = None,
    ) -> MigrationReport:
        """Copy this namespace to another server or cluster; with `finish`, hand it over.

        Without `finish` gateways go on here, and what changes meanwhile is copied by the next run. With it, they are
        stopped: they answer 503 until they are started with the target's URL. The rest is copied, both sides are
        counted, and the target decides. Stop administrators before. If it is interrupted, run it again.

        Args:
            target: A catalogue on the server or cluster to move to, of the same namespace.
            finish: Whether to hand over.
            max_age: The longest `max_age` of any gateway, in seconds: a gateway that missed the notification notices
                within that time, so the last copy waits for it.
            stale_catalogue_s: The longest `stale_catalogue_s` of any gateway, in seconds. On a cluster a gateway that
                cannot reach the catalogue goes on for that time, so the last copy waits for it. Not used elsewhere.
            progress: Called with what is being done, and the number of keys of Redis it was done with.

        Returns:
            What was done.

        Raises:
            ConfigError: The target holds another namespace of this name, or there is nothing to move.
            Conflict: Another run, or an administrator, changed the catalogue meanwhile.
            StoreError: A server failed, and a note of it names the side; or the two sides differ. Run it again.
        """
        steps = Migration(self._namespace, target._namespace).run(finish, max_age, stale_catalogue_s, progress)
        return self._run_steps(target, steps)

    def cancel_migration(self, target: Self) -> MigrationReport:
        """Remove an unfinished copy at the target, and decide here again.

        Args:
            target: The target that `migrate` was given.

        Raises:
            ConfigError: The migration is finished. Migrate back instead.
            Conflict: Another run changed the catalogue meanwhile.
            StoreError: A server failed: run it again. A note of it names the side.
        """
        return self._run_steps(target, Migration(self._namespace, target._namespace).cancel())

    def _run_steps(self, target: Self, steps: Steps) -> MigrationReport:
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    sleep(step.seconds)
                    step = next(steps)
                else:
                    step = steps.send((target if step.side == "target" else self)._run(step.run()))
        except StopIteration as finished:
            report: MigrationReport = finished.value
            return report

    def doctor(
        self, *, gateway_user: str | None = None, deadline: float = DEADLINE_S, repair: bool = False
    ) -> DoctorReport:
        """Return what of this deployment would break a promise, and the command that mends it.

        Nothing is changed without `repair`. On a cluster a change of a key takes several steps; `repair` first finishes
        or undoes changes that crashed between two of them. It may be run at any time, repeatedly, and beside other
        administrators: a change of the same key that is under way starts over.

        Reads the server, or all nodes of a cluster, its replicas and Sentinels, as far as they can be reached with this
        client's user, password and certificates. What this user may not read is "unknown", with the permission that is
        missing: lua/ACL.md has a user that may read everything.

        Args:
            gateway_user: The Redis user of the gateways, whose permissions are examined; None for
                this client's own.
            deadline: How long checks of the gateways wait for Redis, in seconds, as of `Limiter`.
            repair: Whether to finish or undo unfinished changes of keys. Needs an administrator's permissions.

        Returns:
            The findings, the worst first; and what was repaired.

        Raises:
            ConfigError: An argument is invalid.
            StoreError: The server did not answer.
        """
        doctor = self._doctor(self._store.client_settings(), gateway_user, deadline, repair)
        deployment = self._run(doctor.read())
        return doctor.report(deployment, self._store.ask(doctor.peers(deployment)))
