"""Moves a namespace from one server or cluster to another, with a pause of its gateways at the end.

The catalogue's `schema` holds where a namespace lives. At the target it starts as "arriving 2", under which gateways
decide nothing, and becomes "2" in the last step. At the source it becomes "moved 2" before the last copy. From then on
gateways never decide there again, so no key is decided on both sides. A run that continues an interrupted one reads
these two fields, does the remaining steps, and writes only what differs.

Each copy has a token, the field `copy`. The source stores it when it becomes "moved", so that it is handed over to this
copy and no other. A run writes to a copy only while that has its token and is "arriving": a run that hung, and goes on
after another one has finished or cancelled, stops there. Changes of catalogues are guarded by their own commit, other
writes by a read just before. A cancellation first makes the copy "arriving cancelled", which is never handed over.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from ratelimit.admin.commit import Commit, busy_conflict, carry_out
from ratelimit.admin.migration import contents
from ratelimit.admin.migration.contents import Contents
from ratelimit.admin.migration.walk import Walk
from ratelimit.effects import Operation, pairs, text, time_us
from ratelimit.engine.protocol import BUCKET, STATE
from ratelimit.errors import ConfigError, Conflict, StoreError
from ratelimit.model import MICROSECONDS
from ratelimit.registry import schema
from ratelimit.registry.key_values import generated_token
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.redis_keys import plan_field
from ratelimit.scripts import Command
from ratelimit.validation import seconds

_NAMES_AT_ONCE = 500
_PLAN_FIELD = plan_field("").encode()
_USED = 4
"""Where the units used of a quota stand in a state."""


@dataclass(frozen=True, slots=True)
class NamespaceCounts:
    """What a namespace holds, as far as it does not expire.

    Attributes:
        keys: API keys, by their records.
        values: Values that open keys.
        plans: Usage plans.
        used: Units that keys have used of their plans' quotas.
    """

    keys: int
    values: int
    plans: int
    used: int


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """What a migration did.

    Attributes:
        is_finished: Whether the target decides from now on.
        is_paused: Whether neither does: the source's gateways have been stopped, and the rest is not copied yet.
        copied: Keys of Redis that were written or removed at the target; others were equal already.
        counts: What both sides hold; None unless it is finished by this run.
        clock_difference_s: By how many seconds the target's clock is ahead of the source's.
    """

    is_finished: bool = False
    is_paused: bool = False
    copied: int = 0
    counts: NamespaceCounts | None = None
    clock_difference_s: float = 0


Side = Literal["source", "target"]


class AtSide(NamedTuple):
    """An operation to run on one of the two servers."""

    side: Side
    operation: Operation[Any]

    def run(self) -> Operation[Any]:
        """Run the operation; a StoreError has the side in a note."""
        try:
            return (yield from self.operation)
        except StoreError as error:
            error.add_note(f"It happened at the {self.side}.")
            raise


class Pause(NamedTuple):
    """A time in which nothing is done."""

    seconds: float


Steps = Generator[AtSide | Pause, Any, MigrationReport]
"""The steps of a migration in order. The result of each operation is sent back."""

MigrationProgress = Callable[[str, int], None]
"""Takes what is being done, and how many keys of Redis it was done with."""


Place = Literal["here", "moved", "arriving", "cancelled"]

_PREFIXES: Mapping[Place, str] = {
    "here": "",
    "moved": schema.MOVED,
    "arriving": schema.ARRIVING,
    "cancelled": f"{schema.ARRIVING} cancelled",
}
"""What stands before the number of the schema."""
_PLACES: Mapping[str, Place] = {prefix: place for place, prefix in _PREFIXES.items()}


class Mark(NamedTuple):
    """Where a namespace lives, read from its catalogue; `place` is None if there is no catalogue."""

    place: Place | None
    epoch: str
    fields: Mapping[str, str]

    @property
    def schema(self) -> str:
        """The schema of what is stored, wherever it lives."""
        return self.fields["schema"].rpartition(" ")[2]

    @property
    def copy(self) -> str | None:
        """The token of this copy; where the namespace has moved, of the copy that it was handed over to."""
        return self.fields.get("copy")


class Migration:
    """Moves one namespace.

    Args:
        source: The namespace where it is.
        target: The same where it is to be.
    """

    def __init__(self, source: Namespace, target: Namespace) -> None:
        if source.names.namespace != target.names.namespace:
            raise ConfigError(
                f"is {target.names.namespace!r}, but the source's is {source.names.namespace!r}: a namespace keeps "
                "its name when it moves",
                field="namespace",
            )
        self._source = source
        self._names = source.names
        self._token: str | None = None
        self._copied = 0
        self._progress: MigrationProgress = lambda _, __: None

    def run(
        self, finish: bool, max_age: float, stale_catalogue_s: float, progress: MigrationProgress | None = None
    ) -> Steps:
        """Copy what differs; with `finish`, also stop the source's gateways, copy the rest, compare, and hand over.

        Args:
            finish: Whether to hand over.
            max_age: The longest `max_age` of any gateway, in seconds: a gateway that missed the notification notices
                within that time.
            stale_catalogue_s: The longest `stale_catalogue_s` of any gateway, in seconds. Used if the source has slots:
                there a gateway that cannot reach the catalogue goes on for that time.
            progress: Called after each batch.
        """
        max_age = seconds(max_age, "max_age")
        stale_catalogue_s = seconds(stale_catalogue_s, "stale_catalogue_s")
        self._progress = progress or self._progress
        source, target = yield from self._marks()
        difference_s = yield from self._clock_difference()
        if source.place == "moved" and target.place == "here" and source.epoch == target.epoch:
            return MigrationReport(is_finished=True, clock_difference_s=difference_s)
        self._check(source, target)
        self._token = target.copy
        if target.place != "arriving":
            self._token = generated_token()
            yield AtSide("target", self._begin(source, target))
        yield from self._copy("Copying")
        if not finish:
            is_paused = source.place == "moved"
            return MigrationReport(is_paused=is_paused, copied=self._copied, clock_difference_s=difference_s)
        if source.place == "here":
            # In the order opposite to a cancellation's: one of the two notices the other.
            source = yield from self._expected("source", "here", source.copy)
            yield from self._expected("target", "arriving", self._token)
            yield AtSide("source", self._set_place(source, "moved", self._token))
        yield AtSide("source", self._source.find_slots())
        # Also if it was marked before: that run may have ended within the pause.
        pause_s = max(max_age, stale_catalogue_s) if self._source.has_slots else max_age
        self._progress(f"Gateways of the source answer 503. Waiting {pause_s:g} s until all of them do", 0)
        yield Pause(pause_s)
        yield from self._copy("Copying what changed")
        counts = yield from self._verify()
        # The target is read first: who cancels changes it before the source.
        target = yield from self._expected("target", "arriving", self._token)
        yield from self._expected("source", "moved", self._token)
        yield AtSide("target", self._set_place(target, "here", None))
        return MigrationReport(is_finished=True, copied=self._copied, counts=counts, clock_difference_s=difference_s)

    def cancel(self) -> Steps:
        """Remove an unfinished copy, and let the source decide again."""
        source, target = yield from self._marks()
        if source.place in (None, "arriving", "cancelled"):
            raise ConfigError("there is no namespace at the source, so no migration of one to cancel", field="source")
        if target.place is not None and (target.place not in ("arriving", "cancelled") or target.epoch != source.epoch):
            raise ConfigError(
                "holds no unfinished copy of the source, so there is nothing to cancel. If the migration is finished, "
                "migrate back: with this server as the source, and the former source as the target",
                field="target",
            )
        self._check_handed_over(source, target)
        if target.place is None:
            return MigrationReport()
        self._token = target.copy
        if target.place == "arriving":
            yield AtSide("target", self._set_place(target, "cancelled", self._token))
        # Before the copy is removed: a source that has moved is not without the copy that it was handed over to.
        # Also if it is here: a run that is about to mark it notices.
        yield AtSide("source", self._set_place(source, "here", None))
        yield from self._remove_copy()
        return MigrationReport()

    # Who holds what

    def _marks(self) -> Generator[AtSide | Pause, Any, tuple[Mark, Mark]]:
        source: Mark = yield AtSide("source", self._mark("source"))
        target: Mark = yield AtSide("target", self._mark("target"))
        return source, target

    def _mark(self, side: Side) -> Operation[Mark]:
        (reply,) = yield [("HGETALL", self._names.catalog)]
        fields = pairs(reply)
        if not fields:
            return Mark(None, "", fields)
        place, _, stored = fields.get("schema", "").rpartition(" ")
        schema.require_known(self._names, stored)
        if "upgrading" in fields:
            raise ConfigError("an upgrade is not finished there: run `ratelimit upgrade` on it first", field=side)
        if place not in _PLACES:
            schema.require_known(self._names, fields["schema"])
        return Mark(_PLACES[place], fields.get("epoch", ""), fields)

    def _check(self, source: Mark, target: Mark) -> None:
        """Raise ConfigError unless the target may become a copy of the source."""
        name = self._names.namespace
        if source.place is None:
            raise ConfigError(f"has no namespace {name!r}: there is nothing to migrate", field="source")
        if source.place in ("arriving", "cancelled"):
            raise ConfigError(
                f"holds an unfinished copy of namespace {name!r}: finish or cancel that migration first, which names "
                "this server as its target",
                field="source",
            )
        if target.place is not None and target.epoch != source.epoch:
            raise ConfigError(
                f"holds another namespace {name!r}, which is no copy of this one: choose another server, or remove "
                "that namespace first",
                field="target",
            )
        if target.place == "here":
            raise ConfigError(
                f"holds this same namespace {name!r}, and gateways decide by it there. Is it the same server as the "
                "source, or was it restored from its backup? Name an empty server",
                field="target",
            )
        if target.place == "cancelled":
            raise ConfigError(
                "holds a copy whose migration is being cancelled: run that again (`--cancel`) first", field="target"
            )
        self._check_handed_over(source, target)

    def _check_handed_over(self, source: Mark, target: Mark) -> None:
        """Raise ConfigError if the source has moved, but not to this target."""
        if source.place == "moved" and (target.place in (None, "moved") or target.copy != source.copy):
            raise ConfigError(
                f"has handed namespace {self._names.namespace!r} over to another server than this target: name that "
                "server as the target, or as the source to migrate on from there",
                field="source",
            )

    def _expected(self, side: Side, place: Place, copy: str | None) -> Generator[AtSide | Pause, Any, Mark]:
        """Return the mark as it is now; raise Conflict if it is not the expected one."""
        mark: Mark = yield AtSide(side, self._mark(side))
        if (mark.place, mark.copy) != (place, copy):
            raise _overtaken()
        return mark

    def _clock_difference(self) -> Generator[AtSide | Pause, Any, float]:
        source_us = yield AtSide("source", _server_us())
        target_us = yield AtSide("target", _server_us())
        difference_us: int = target_us - source_us
        return difference_us / MICROSECONDS

    def _begin(self, source: Mark, target: Mark) -> Operation[None]:
        """Write the mark of an unfinished copy, before anything else, where nothing or an older copy is."""
        if target.place is None:
            walk = Walk(self._names)
            while (names := (yield from walk.page())) is not None:
                if names:
                    raise ConfigError(
                        f"holds keys such as {names[0]!r} of a namespace without a catalogue: remove them first",
                        field="target",
                    )
        commit = Commit()
        commit.expect(self._names.catalog, "schema", target.fields.get("schema"))
        commit.expect(self._names.catalog, "epoch", target.fields.get("epoch"))
        arriving = f"{schema.ARRIVING} {source.schema}"
        commit.add("HSET", self._names.catalog, "schema", arriving, "epoch", source.epoch, "copy", self._token or "")
        if (yield commit.to_script_call())[0] != 1:
            raise busy_conflict(1)

    def _set_place(self, mark: Mark, place: Place, copy: str | None) -> Operation[None]:
        """Write where a namespace lives, unless its catalogue changed since it was read, and notify gateways."""
        catalog, commit = self._names.catalog, Commit()
        for field in ("schema", "version", "copy"):
            commit.expect(catalog, field, mark.fields.get(field))
        # The copy of a catalogue that was only begun has no version yet.
        version, stamp = int(mark.fields.get("version", 0)) + 1, generated_token()
        wanted = f"{_PREFIXES[place]} {mark.schema}".lstrip()
        commit.add("HSET", catalog, "schema", wanted, "version", version, "stamp", stamp)
        commit.note_written(catalog, "stamp", stamp)
        if copy is None:
            commit.add("HDEL", catalog, "copy")
        else:
            commit.add("HSET", catalog, "copy", copy)
        commit.add("PUBLISH", None, self._names.changes, version)
        if not (yield from carry_out(commit)):
            raise _overtaken()

    # Copying

    def _copy(self, what: str) -> Generator[AtSide | Pause, Any, None]:
        """Make the target equal to the source."""
        done, walk = 0, Walk(self._names)
        while (names := (yield AtSide("source", walk.page()))) is not None:
            yield from self._copy_keys(names)
            done += len(names)
            self._progress(what, done)
        walk = Walk(self._names)
        while (names := (yield AtSide("target", walk.page()))) is not None:
            existing = yield AtSide("source", _existing(names))
            gone = [name for name in names if name not in existing]
            yield AtSide("target", self._write([("UNLINK", name) for name in gone], "arriving"))
            self._copied += len(gone)

    def _copy_keys(self, names: Sequence[str]) -> Generator[AtSide | Pause, Any, None]:
        wanted: dict[str, Contents] = yield AtSide("source", contents.read(names))
        stored: dict[str, Contents] = yield AtSide("target", contents.read(names))
        commands = []
        for name in names:
            if name == self._names.catalog:
                yield AtSide("target", self._copy_catalog(wanted.get(name), stored.get(name)))
                continue
            copy = self._copy_of(name, wanted.get(name))
            changes = list(contents.changes(name, copy, stored.get(name)))
            self._copied += bool(changes)
            commands += changes
        for start in range(0, len(commands), _NAMES_AT_ONCE):
            yield AtSide("target", self._write(commands[start : start + _NAMES_AT_ONCE], "arriving"))

    def _copy_catalog(self, wanted: Contents | None, stored: Contents | None) -> Operation[None]:
        """Copy the catalogue, except for the fields that mark the copy as one."""
        if wanted is None:
            return
        there = (text(stored.items.get(b"schema")) if stored else None) or ""
        if stored is None or _PLACES.get(there.rpartition(" ")[0]) != "arriving":
            raise _overtaken()
        number = wanted.items[b"schema"].rpartition(b" ")[2]
        of_copy = {b"schema": f"{schema.ARRIVING} ".encode() + number, b"copy": stored.items.get(b"copy")}
        commit = Commit()
        commit.expect(self._names.catalog, "schema", there)
        commit.expect(self._names.catalog, "copy", self._token)
        changes = list(contents.changes(self._names.catalog, replace(wanted, items=wanted.items | of_copy), stored))
        if not changes:
            return
        self._copied += 1
        for command, name, *arguments in changes:
            commit.add(str(command), str(name), *(_text_of(argument) for argument in arguments))
        if not (yield from carry_out(commit)):
            raise _overtaken()

    def _copy_of(self, name: str, wanted: Contents | None) -> Contents | None:
        """Return what the target is to hold: of a shared bucket only what servers without slots use, too."""
        if wanted is None:
            return None
        if self._names.is_shared_bucket(name) and wanted.kind == "string":
            # On slots the value goes on with prepaid units of processes, which end with the move.
            return Contents(wanted.kind, {b"": wanted.items[b""][: BUCKET.size]}, wanted.expires_ms)
        return wanted

    def _remove_copy(self) -> Generator[AtSide | Pause, Any, None]:
        """Remove a copy that is cancelled."""
        walk = Walk(self._names)
        while (names := (yield AtSide("target", walk.page()))) is not None:
            commands = [("UNLINK", name) for name in names if name != self._names.catalog]
            yield AtSide("target", self._write(commands, "cancelled"))
        target = yield from self._expected("target", "cancelled", self._token)
        commit = Commit()
        commit.expect(self._names.catalog, "schema", target.fields["schema"])
        commit.expect(self._names.catalog, "copy", self._token)
        commit.add("UNLINK", self._names.catalog)  # last: it marks the rest as a cancelled copy
        if (yield AtSide("target", carry_out(commit))) is False:
            raise _overtaken()

    def _write(self, commands: Sequence[Command], place: Place) -> Operation[None]:
        """Change the copy, if it still has this run's token and this place."""
        if not commands:
            return
        ((stored, copy),) = yield [("HMGET", self._names.catalog, "schema", "copy")]
        prefix = (text(stored) or "").rpartition(" ")[0]
        if (_PLACES.get(prefix), text(copy)) != (place, self._token):
            raise _overtaken()
        yield list(commands)

    # Comparing

    def _verify(self) -> Generator[AtSide | Pause, Any, NamespaceCounts]:
        """Count both sides anew, and return what they hold; raise StoreError if they differ."""
        at_target = yield from self._counts("target")
        at_source = yield from self._counts("source")  # last, so that late writes to the source are noticed
        if at_source != at_target:
            raise StoreError(
                f"the copy differs: {at_source} at the source, {at_target} at the target. Something still writes to "
                "the source: stop it (administrators, gateways whose max_age is longer), then run the same command "
                "again. Until then the target does not decide"
            )
        yield from self._verify_list()
        return at_source

    def _counts(self, side: Side) -> Generator[AtSide | Pause, Any, NamespaceCounts]:
        keys = values = used = done = 0
        walk = Walk(self._names)
        while (names := (yield AtSide(side, walk.page()))) is not None:
            keys += sum(map(self._names.is_record, names))
            values += sum(map(self._names.is_digest, names))
            hashes = list(filter(self._names.is_key_hash, names))
            used += yield AtSide(side, _used(hashes))
            done += len(names)
            self._progress(f"Counting at the {side}", done)
        mark: Mark = yield AtSide(side, self._mark(side))
        plans = sum(name.startswith("plan:") for name in mark.fields)
        return NamespaceCounts(keys, values, plans, used)

    def _verify_list(self) -> Generator[AtSide | Pause, Any, None]:
        """Raise StoreError if a listed key is at the source alone: a walk may miss what moves between its nodes."""
        read = yield AtSide("source", contents.read([self._names.keys]))
        listed = read[self._names.keys].items if read else {}
        records = [self._names.key_record(key_id.decode()) for key_id in listed]
        for start in range(0, len(records), _NAMES_AT_ONCE):
            some = records[start : start + _NAMES_AT_ONCE]
            copied = yield AtSide("target", _existing(some))
            missing = [name for name in some if name not in copied]
            if (yield AtSide("source", _existing(missing))):
                raise StoreError(
                    "slots of the source moved during the copy, which has missed some keys: wait until no slot moves, "
                    "then run the same command again"
                )


def _server_us() -> Operation[int]:
    (reply,) = yield [("TIME",)]
    return time_us(reply)


def _overtaken() -> Conflict:
    return Conflict(
        "another run has finished or cancelled this migration meanwhile, or an administrator changed the catalogue. "
        "End the other run, stop administrators, then run the same command again"
    )


def _text_of(argument: str | float | bytes) -> str:
    return argument.decode() if isinstance(argument, bytes) else str(argument)


def _existing(names: Sequence[str]) -> Operation[set[str]]:
    """Return those that exist."""
    replies = (yield [("EXISTS", name) for name in names]) if names else []
    return {name for name, reply in zip(names, replies, strict=True) if reply}


def _used(hashes: Sequence[str]) -> Operation[int]:
    """Return the sum of what keys have used of their quotas."""
    read = yield from contents.read(hashes)
    states = (value for hash_ in read.values() for field, value in hash_.items.items() if field.startswith(_PLAN_FIELD))
    return sum(int(STATE.unpack(state)[_USED]) for state in states)
