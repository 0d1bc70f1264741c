"""Moves a namespace from one server or cluster to another, with a pause of its gateways at the end.

The catalogue's `schema` says where a namespace lives. At the target it begins as "arriving 2", under which gateways
decide nothing, and becomes "2" in the last step. At the source it becomes "moved 2" before the last copy: from then on
its gateways decide nothing, and never again: no key is decided on both sides. Whatever is interrupted is found by these
two texts and done again; copies that are equal already are not written.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ratelimit.admin.commit import Commit, busy_conflict
from ratelimit.admin.migration import contents
from ratelimit.admin.migration.contents import Contents
from ratelimit.admin.migration.walk import Walk
from ratelimit.effects import Operation, pairs, time_us
from ratelimit.engine.protocol import BUCKET, STATE
from ratelimit.errors import ConfigError, StoreError
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
        is_paused: Whether neither does: the source was told to stop, and the rest is not copied yet.
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


class Pause(NamedTuple):
    """A time in which nothing is done."""

    seconds: float


Steps = Generator[AtSide | Pause, Any, MigrationReport]
"""What is to be done in turn. Each operation's result is sent back."""

MigrationProgress = Callable[[str, int], None]
"""Takes what is being done, and how many keys of Redis it was done with."""


Place = Literal["here", "moved", "arriving"]

_PLACES: Mapping[str, Place] = {"": "here", schema.MOVED: "moved", schema.ARRIVING: "arriving"}
"""By what stands before the number of the schema."""


class Mark(NamedTuple):
    """What a catalogue says of where its namespace lives; `place` is None if there is no catalogue."""

    place: Place | None
    epoch: str
    fields: Mapping[str, str]

    @property
    def schema(self) -> str:
        """The schema of what is stored, wherever it lives."""
        return self.fields["schema"].rpartition(" ")[2]


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
        self._names = source.names
        self._copied = 0
        self._progress: MigrationProgress = lambda _, __: None

    def run(self, finish: bool, max_age: float, progress: MigrationProgress | None = None) -> Steps:
        """Copy what differs; with `finish`, also stop the source's gateways, copy the rest, compare, and hand over.

        Args:
            finish: Whether to hand over.
            max_age: The longest `max_age` of any gateway, in seconds: for so long one may not have heard of the move.
            progress: Called after each batch.
        """
        max_age = seconds(max_age, "max_age")
        self._progress = progress or self._progress
        source, target = yield from self._marks()
        difference_s = yield from self._clock_difference()
        if source.place == "moved" and target.place == "here" and source.epoch == target.epoch:
            return MigrationReport(is_finished=True, clock_difference_s=difference_s)
        self._check(source, target)
        if target.place != "arriving":
            yield AtSide("target", self._begin(source, target))
        yield from self._copy("Copying")
        if not finish:
            is_paused = source.place == "moved"
            return MigrationReport(is_paused=is_paused, copied=self._copied, clock_difference_s=difference_s)
        if source.place == "here":
            yield AtSide("source", self._set_schema(f"{schema.MOVED} {source.schema}"))
        # Also if it was marked before: that run may have ended within the pause.
        yield Pause(max_age)
        yield from self._copy("Copying what changed")
        counts = yield from self._verify()
        yield AtSide("target", self._set_schema(source.schema))
        return MigrationReport(is_finished=True, copied=self._copied, counts=counts, clock_difference_s=difference_s)

    def cancel(self) -> Steps:
        """Remove an unfinished copy, and let the source decide again."""
        source, target = yield from self._marks()
        if source.place in (None, "arriving"):
            raise ConfigError("there is no namespace at the source, so no migration of one to cancel", field="source")
        if target.place is not None and (target.place, target.epoch) != ("arriving", source.epoch):
            raise ConfigError(
                "holds no unfinished copy of the source: a migration that is finished is not cancelled; migrate back",
                field="target",
            )
        if target.place is not None:
            yield from self._remove_copy()
        if source.place == "moved":
            yield AtSide("source", self._set_schema(source.schema))
        return MigrationReport()

    # Who holds what

    def _marks(self) -> Generator[AtSide | Pause, Any, tuple[Mark, Mark]]:
        source: Mark = yield AtSide("source", self._mark())
        target: Mark = yield AtSide("target", self._mark())
        return source, target

    def _mark(self) -> Operation[Mark]:
        (reply,) = yield [("HGETALL", self._names.catalog)]
        fields = pairs(reply)
        if not fields:
            return Mark(None, "", fields)
        place, _, stored = fields.get("schema", "").rpartition(" ")
        schema.known(self._names, stored)
        if "upgrading" in fields:
            raise ConfigError("an upgrade is not finished: run `ratelimit upgrade` on that server first")
        if place not in _PLACES:
            schema.known(self._names, fields["schema"])
        return Mark(_PLACES[place], fields.get("epoch", ""), fields)

    def _check(self, source: Mark, target: Mark) -> None:
        """Raise ConfigError unless the target may become a copy of the source."""
        name = self._names.namespace
        if source.place is None:
            raise ConfigError(f"has no namespace {name!r}: there is nothing to migrate", field="source")
        if source.place == "arriving":
            raise ConfigError(
                f"holds an unfinished copy of namespace {name!r}: finish that migration, or cancel it", field="source"
            )
        if target.place is not None and target.epoch != source.epoch:
            raise ConfigError(
                f"holds another namespace {name!r}: choose another server, or remove that one first", field="target"
            )
        if target.place == "here":
            raise ConfigError(
                f"holds this very namespace {name!r}, and decides by it: is it the same server, or made from its "
                "backup?",
                field="target",
            )
        if source.place == "moved" and target.place != "arriving":
            raise ConfigError(
                f"has handed namespace {name!r} over to another server than this target: migrate from there",
                field="source",
            )

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
        commit.add("HSET", self._names.catalog, "schema", f"{schema.ARRIVING} {source.schema}", "epoch", source.epoch)
        if (yield commit.to_script_call())[0] != 1:
            raise busy_conflict(1)

    def _set_schema(self, wanted: str) -> Operation[None]:
        """Write a catalogue's schema as a change that gateways hear of."""
        fields = (yield from self._mark()).fields
        version = int(fields["version"]) + 1
        commit = Commit()
        commit.expect(self._names.catalog, "schema", fields["schema"])
        commit.expect(self._names.catalog, "version", fields["version"])
        arguments = ("schema", wanted, "version", version, "stamp", generated_token())
        commit.add("HSET", self._names.catalog, *arguments)
        commit.add("PUBLISH", None, self._names.changes, version)
        if (yield commit.to_script_call())[0] != 1:
            raise busy_conflict(1)

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
            yield AtSide("target", _sent([("UNLINK", name) for name in gone]))
            self._copied += len(gone)

    def _copy_keys(self, names: Sequence[str]) -> Generator[AtSide | Pause, Any, None]:
        wanted: dict[str, Contents] = yield AtSide("source", contents.read(names))
        stored: dict[str, Contents] = yield AtSide("target", contents.read(names))
        commands = []
        for name in names:
            copy = self._copy_of(name, wanted.get(name), stored.get(name))
            changes = list(contents.changes(name, copy, stored.get(name)))
            self._copied += bool(changes)
            commands += changes
        for start in range(0, len(commands), _NAMES_AT_ONCE):
            yield AtSide("target", _sent(commands[start : start + _NAMES_AT_ONCE]))

    def _copy_of(self, name: str, wanted: Contents | None, stored: Contents | None) -> Contents | None:
        """Return what the target is to hold: the catalogue keeps its mark, a shared bucket what any server knows."""
        if wanted is None:
            return None
        if name == self._names.catalog:
            mark = stored.items[b"schema"] if stored else b""
            return Contents(wanted.kind, {**wanted.items, b"schema": mark})
        if self._names.is_shared_bucket(name) and wanted.kind == "string":
            # On slots more follows, about leases of processes, which end with the move.
            return Contents(wanted.kind, {b"": wanted.items[b""][: BUCKET.size]}, wanted.expires_ms)
        return wanted

    def _remove_copy(self) -> Generator[AtSide | Pause, Any, None]:
        walk = Walk(self._names)
        while (names := (yield AtSide("target", walk.page()))) is not None:
            yield AtSide("target", _sent([("UNLINK", name) for name in names if name != self._names.catalog]))
        yield AtSide("target", _sent([("UNLINK", self._names.catalog)]))  # last: until then it says what this is

    # Comparing

    def _verify(self) -> Generator[AtSide | Pause, Any, NamespaceCounts]:
        """Count both sides anew, and return what they hold; raise StoreError if they differ."""
        of_target = yield from self._counts("target")
        of_source = yield from self._counts("source")  # last: what was written until now counts
        if of_source != of_target:
            raise StoreError(
                f"the copy differs: {of_source} at the source, {of_target} at the target. Something still writes to "
                "the source: stop it (administrators, gateways whose max_age is longer), then run this again"
            )
        yield from self._verify_list()
        return of_source

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
        mark: Mark = yield AtSide(side, self._mark())
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
                raise StoreError("slots of the source moved during the copy: wait until they are at rest, run it again")


def _server_us() -> Operation[int]:
    (reply,) = yield [("TIME",)]
    return time_us(reply)


def _sent(commands: Sequence[Command]) -> Operation[None]:
    if commands:
        yield list(commands)


def _existing(names: Sequence[str]) -> Operation[set[str]]:
    """Return those that exist."""
    replies = (yield [("EXISTS", name) for name in names]) if names else []
    return {name for name, reply in zip(names, replies, strict=True) if reply}


def _used(hashes: Sequence[str]) -> Operation[int]:
    """Return the sum of what keys have used of their quotas."""
    read = yield from contents.read(hashes)
    states = (value for hash_ in read.values() for field, value in hash_.items.items() if field.startswith(_PLAN_FIELD))
    return sum(int(STATE.unpack(state)[_USED]) for state in states)
