"""What one process knows of a namespace: its names, its clock, and the last snapshot of its catalogue."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from ratelimit import validation
from ratelimit.effects import BatchableReads, IndependentReads, Operation, pairs, read_reply, text, time_us
from ratelimit.errors import ConfigError, StoreError
from ratelimit.model import Identity, Stage, UsagePlan
from ratelimit.registry import plan_documents, schema
from ratelimit.registry.ceilings import Ceilings
from ratelimit.registry.key_values import Digester, Peppers, generated_token
from ratelimit.registry.lazy_documents import DocumentSummary, LazyDocuments
from ratelimit.registry.redis_keys import RedisKeys, identity_id
from ratelimit.registry.snapshot import CatalogSnapshot
from ratelimit.scripts import Command

Clock = Callable[[], int]
"""Returns microseconds since 1970."""

_T = TypeVar("_T")


def _monotonic_us() -> int:
    return time.monotonic_ns() // 1000


class Namespace:
    """Shared by a limiter and its catalogue, so that a change made through one is seen by the other at once.

    Attributes:
        names: The names of everything in Redis.
        digest: Digests key values, under the peppers.
        clock: The injected clock; None for the server's.
        age_us: The clock by which this process computes the age of things: the injected clock, else a monotonic one.
        snapshot: The last version of the catalogue that was loaded.
        loaded_us: When the snapshot was last equal to the catalogue in Redis, by `age_us`; None if it may be outdated.
        confirmed_us: The same, also if it may be outdated by now; None if it was never loaded.
        leases_ended_us: When a plan last ceased to lease, by `age_us`: for a while yet others may return units,
            unannounced.
        ceilings: How many things the catalogue may hold.
        before_refresh: Called before the catalogue is read for checks.
        on_change: A weak reference to what takes the id of a key that changed, or None if anything may have.
        is_refreshed: Whether the catalogue was loaded for checks.
        is_first_load_under_way: Whether a caller is loading it for the first time.
        has_slots: Whether one script may only touch keys of one slot: on a cluster, and on a server that enforces slots
            behind one address. Set by the client, or read from the server by `find_slots`.
    """

    def __init__(self, namespace: str, pepper: Peppers, clock: Clock | None) -> None:
        self.names = RedisKeys(namespace)
        self.digest = Digester(pepper)
        self.clock = clock
        self.age_us: Clock = self.wall_us if clock else _monotonic_us
        self.snapshot = CatalogSnapshot()
        self.leases_ended_us = -validation.EXACT
        self.ceilings = Ceilings()
        self.before_refresh: Callable[[], None] = lambda: None
        self.on_change: Callable[[], Callable[[str | None], None] | None] = lambda: None
        self.loaded_us: int | None = None
        self.confirmed_us: int | None = None
        self._pushes = self._loads = 0
        self.is_refreshed = self.is_first_load_under_way = False
        self.has_slots = self._is_checked_for_slots = False
        self._stored_probes: list[str] = []
        self._plans: LazyDocuments[UsagePlan] | None = None
        self._stages: LazyDocuments[Stage] | None = None

    def wall_us(self) -> int:
        """Return microseconds since 1970: the injected clock, else this machine's (for estimates and records)."""
        return self.script_us() or time.time_ns() // 1000

    def script_us(self) -> int:
        """Return the time that goes to the script: the injected clock's, or 0 for the server's own."""
        if self.clock is None:
            return 0
        now_us = self.clock()
        if type(now_us) is int and 0 < now_us < validation.EXACT:
            return now_us
        raise ConfigError(
            f"must return microseconds since 1970, a whole number from 1 to {validation.EXACT - 1}, "
            f"not {validation.shown(now_us)}",
            field="clock",
        )

    def server_us(self) -> Operation[int]:
        """Return the time that scripts use: microseconds since 1970."""
        now_us = self.script_us()
        if now_us:
            return now_us
        return time_us((yield [("TIME",)])[0])

    def slots_query(self) -> Command:
        """Return a read of two names in different slots, whose reply `note_slots` takes. It changes nothing."""
        return ("MGET", self.names.digest("a"), self.names.digest("b"))

    def note_slots(self, reply: Any) -> None:
        """Take the reply to `slots_query`, or its StoreError."""
        is_refused = isinstance(reply, StoreError) and "CROSSSLOT" in str(reply)
        self.has_slots = self.has_slots or is_refused
        # Without the permission it cannot be read. After an error of another kind the query is sent again.
        self._is_checked_for_slots = is_refused or not isinstance(reply, StoreError) or "NOPERM" in str(reply)

    @property
    def is_checked_for_slots(self) -> bool:
        """Whether `has_slots` is final: the server was queried, or the client is a cluster client."""
        return self.has_slots or self._is_checked_for_slots

    def find_slots(self) -> Operation[None]:
        """Query if the deployment has slots, unless that is final."""
        if not self.is_checked_for_slots:
            self.note_slots((yield IndependentReads([self.slots_query()]))[0])

    def identity_id(self, identity: Identity) -> str:
        """Return what stands for a key's id where Redis holds an identity: a digest, under the newest pepper."""
        return identity_id(self.digest(f"identity:{identity.subject}"))

    def is_stale(self, max_age_us: int, now_us: int) -> bool:
        """Return whether the snapshot was last compared with Redis longer than `max_age_us` ago, or never.

        A load by the catalogue of this process does not count until checks have begun: nobody listens before that.
        """
        loaded_us = self.loaded_us
        return loaded_us is None or not self.is_refreshed or not 0 <= now_us - loaded_us < max_age_us

    def on_change_message(self, message: str | None) -> None:
        """Handle a change message; None means that messages may have been missed.

        "key:<id>" is about one key, "keys" about many; anything else, such as a version, about plans and stages.
        """
        key_id = message.removeprefix("key:") if message is not None and message.startswith("key:") else None
        on_change = self.on_change()
        if on_change is not None:
            on_change(key_id)
        if key_id is None and message != "keys":
            self._pushes += 1
            self.loaded_us = None  # the next check compares the snapshot with Redis

    def new_probes(self) -> tuple[str, str] | None:
        """Return the stored check values of peppers, and those to store if a key is now stored under another one."""
        newest, stored = self.digest.probes[0], " ".join(self._stored_probes)
        return None if newest in self._stored_probes else (stored, f"{newest} {stored}")

    def version_query(self) -> Command:
        """Return the command whose reply `matches_stored_version` takes."""
        return ("HMGET", self.names.catalog, "epoch", "version", "stamp", "schema")

    def matches_stored_version(self, reply: list[bytes | str | None]) -> bool:
        """Return whether the snapshot is the version that Redis holds."""
        epoch, version, stamp = text(reply[0]), text(reply[1]), text(reply[2])
        matches = (epoch or "", version or "0", stamp or "") == self.snapshot.version_key
        matches = matches and (not epoch or text(reply[3]) == str(self.snapshot.schema))
        if matches:
            self.confirmed_us = self.age_us()
            if self.loaded_us is not None:
                self.loaded_us = self.confirmed_us
        return matches

    def first_load(self, further: Sequence[Command] = ()) -> Operation[list[Any]]:
        """Load the catalogue for the first check of this process, in one round trip with further reads.

        The same round trip reads if the deployment has slots.

        Returns:
            The replies to these, with StoreError in the places of errors.

        Raises:
            StoreError: There is no catalogue, or it cannot be read.
        """
        self.before_refresh()
        self.is_first_load_under_way = True
        try:
            pushes = self._pushes
            replies: list[Any]
            reads = [("HGETALL", self.names.catalog), *further]
            needs_slots_query = not self.is_checked_for_slots
            catalog, *replies = yield IndependentReads([*reads, self.slots_query()] if needs_slots_query else reads)
            if needs_slots_query:
                self.note_slots(replies.pop())
            if isinstance(catalog, StoreError):
                raise catalog
            if not self.is_refreshed:  # others may have been faster
                yield from self._install(catalog, pushes)
                if not self.snapshot.epoch:
                    raise schema.absent(self.names)
                self.is_refreshed = True
        finally:
            self.is_first_load_under_way = False
        return replies

    def refresh(self) -> Operation[None]:
        """Compare the snapshot with Redis and load the catalogue if another version is stored."""
        self.before_refresh()
        before = self.loaded_us
        self.loaded_us = self.age_us()  # others use the present snapshot meanwhile
        try:
            if before is None or not self.matches_stored_version((yield BatchableReads([self.version_query()]))[0]):
                yield from self.load()
        except BaseException:
            self.loaded_us = before
            raise

    def load(self, *, for_change: bool = False, or_others: bool = False) -> Operation[CatalogSnapshot]:
        """Load the catalogue, whatever version is known.

        Args:
            for_change: It is loaded to be changed. Otherwise a catalogue that was there and is gone is a store error.
            or_others: Accept what others have loaded meanwhile.
        """
        pushes, loads = self._pushes, self._loads
        (reply,) = yield BatchableReads([("HGETALL", self.names.catalog)])
        if or_others and loads != self._loads:
            return self.snapshot
        return (yield from self._install(reply, pushes, for_change=for_change))

    def load_and_read(
        self, reads: Sequence[Command], *, for_change: bool = False
    ) -> Operation[tuple[CatalogSnapshot, list[Any]]]:
        """Load the catalogue, whatever version is known, in one round trip with further reads; return their replies.

        Where keys lie in slots, nodes may carry out the reads in any order.
        """
        pushes = self._pushes
        catalog, *replies = yield BatchableReads([("HGETALL", self.names.catalog), *reads])
        return (yield from self._install(catalog, pushes, for_change=for_change)), replies

    def confirm_and_read(self, reads: Sequence[Command]) -> Operation[list[Any]]:
        """Read in one round trip with what says if the snapshot is current; load the catalogue only if it is not.

        Notices a wrong pepper, an unknown schema, and a namespace that has moved to another server. An outage of the
        catalogue's node alone is no error.

        Raises:
            StoreError: A read failed, or the catalogue cannot be read for another reason.
        """
        pushes, is_loaded = self._pushes, bool(self.snapshot.epoch)
        catalog_query = self.version_query() if is_loaded else ("HGETALL", self.names.catalog)
        replies: list[Any]
        *replies, catalog = yield IndependentReads([*reads, catalog_query])
        for reply in replies:
            read_reply(reply)
        try:
            read_reply(catalog)
            if not is_loaded:
                yield from self._install(catalog, pushes)
            elif not self.matches_stored_version(catalog):
                yield from self.load()
        except StoreError as error:
            if not error.is_outage:
                raise
        return replies

    def load_newer(self, *, or_others: bool = False) -> Operation[CatalogSnapshot]:
        """Load the catalogue for a key that was charged under another version than this process has; see `load`.

        Raises:
            StoreError: It cannot be read. On a cluster, if only the catalogue's node is away, that is no outage of the
                key: it must not be checked by a version older than its own.
        """
        try:
            return (yield from self.load(or_others=or_others))
        except StoreError as error:
            if not self.has_slots or not error.is_outage:
                raise
            problem = f"the key was charged under another version of the catalogue, which cannot be read: {error}"
            raise StoreError(problem, cause=error.cause) from error

    def _install(self, reply: Any, pushes: int, *, for_change: bool = False) -> Operation[CatalogSnapshot]:
        """Make the catalogue in a reply the snapshot; `pushes` is how many had come when it was sent for."""
        snapshot = self._parsed(reply)
        if not snapshot.epoch:
            yield from self._refuse_schema_1(for_change=for_change)
        if self.snapshot.epoch and not snapshot.epoch:
            self.loaded_us = None
            if for_change:
                return snapshot
            raise schema.gone(self.names)
        if snapshot.version_key != self.snapshot.version_key:
            if self.snapshot.leased - snapshot.leased:
                self.leases_ended_us = self.age_us()
            self.snapshot = snapshot
        self._loads += 1
        # A change that was pushed while the reply was on its way may not be in it.
        self.confirmed_us = self.age_us()
        self.loaded_us = self.confirmed_us if pushes == self._pushes else None
        return self.snapshot

    def _refuse_schema_1(self, *, for_change: bool) -> Operation[None]:
        """Raise StoreError if an empty catalogue is none: its keys are under their names of schema 1, or were lost."""
        try:
            ((epoch,),) = yield BatchableReads([("HMGET", self.names.former_catalog, "epoch")])
        except StoreError as error:
            if "WRONGTYPE" not in str(error):
                raise
            if not for_change:
                raise schema.gone(self.names) from None  # what an upgrade left there says that there was one
            return
        if epoch is not None:
            raise schema.of_schema_1(self.names)

    def first_fields(self, snapshot: CatalogSnapshot) -> list[str]:
        """Return what a catalogue is created with, for its first snapshot: fields and texts, in turn."""
        return ["schema", str(snapshot.required_schema), "epoch", generated_token(), "pepper", self.digest.probes[0]]

    def _parsed(self, reply: Any) -> CatalogSnapshot:
        unreadable = f"the catalogue {self.names.catalog!r} in Redis cannot be read"
        try:
            fields = pairs(reply)
        except StoreError as error:
            raise StoreError(f"{unreadable}: {error}") from None
        if not fields:
            return CatalogSnapshot()
        stored_schema = schema.require_known(self.names, fields.get("schema"))
        self._stored_probes = fields.get("pepper", "").split()
        if not self._stored_probes:
            raise StoreError(f"{unreadable}: it has lost its 'pepper'")
        if not set(self._stored_probes) & set(self.digest.probes):
            raise ConfigError(
                f"is not the one that the keys of namespace {self.names.namespace!r} were stored with: every key "
                "would be unknown. Pass the pepper that the catalogue was made with",
                field="pepper",
            )
        documents = plan_documents
        self._plans = plans = self._documents(
            "plan", fields, documents.plan_from_json, documents.plan_summary, self._plans
        )
        self._stages = stages = self._documents(
            "stage", fields, documents.stage_from_json, documents.stage_summary, self._stages
        )
        try:
            return CatalogSnapshot(
                _epoch(fields["epoch"]),
                _version(fields["version"]),
                plans,
                stages,
                documents.throttle_from_json(fields["account"]) if "account" in fields else None,
                fields.get("stamp", ""),
                stored_schema,
            )
        except (KeyError, ValueError, RecursionError) as error:
            raise StoreError(f"{unreadable}: {error}") from None

    def _documents(
        self,
        kind: str,
        fields: Mapping[str, str],
        parse: Callable[[str, str], _T],
        summarize: Callable[[str, str], DocumentSummary],
        before: LazyDocuments[_T] | None,
    ) -> LazyDocuments[_T]:
        start, unreadable = f"{kind}:", f"the catalogue {self.names.catalog!r} in Redis cannot be read: {kind}"
        texts = {name[len(start) :]: value for name, value in fields.items() if name.startswith(start)}
        return LazyDocuments(texts, partial(_read, parse, unreadable), partial(_read, summarize, unreadable), before)


def _epoch(text: str) -> str:
    if len(text) != 8 or not text.isascii():  # as it stands in version tokens
        raise ValueError("its 'epoch' is not 8 characters of ASCII")
    return text


def _version(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10):  # version tokens have ten digits for it
        raise ValueError(f"the version {validation.shown(text)} is none")
    return int(text)


def _read(make: Callable[[str, str], _T], unreadable: str, name: str, text: str) -> _T:
    try:
        return make(name, text)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{unreadable} {name!r}: {error}") from None
