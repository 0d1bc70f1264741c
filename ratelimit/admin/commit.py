"""Optimistic commits: a change computed from what was read, carried out only if that still holds (lua/commit.lua).

Two revisions guard against administrators who race. `version`, the catalogue's, moves with every change of plans,
stages and the account throttle. `members` moves whenever a key joins a plan. A change of plans is guarded by both,
a key's joining by `version` and its own record, so that no order of the two can put a key into two plans of one stage.
All other changes of a key are guarded by its own record alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ratelimit import validation
from ratelimit.effects import IndependentCommands, Operation, UnknownScriptError, text
from ratelimit.errors import Conflict, NotFound, StoreError
from ratelimit.model import UsagePlan
from ratelimit.registry.key_record import KeyRecord
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.snapshot import CatalogSnapshot
from ratelimit.scripts import Command, ScriptCall, load

MAX_ATTEMPTS = 16
_MAX_ARGUMENTS = 2000


class Commit:
    """Conditions, and the commands that one script carries out if all of them hold."""

    def __init__(self) -> None:
        self._keys: dict[str, int] = {}
        self._conditions: list[tuple[int, str | None, str | None]] = []
        self._commands: list[tuple[str | int, ...]] = []
        self._written: tuple[str, str | None, str] | None = None

    def _index(self, key: str) -> int:
        return self._keys.setdefault(key, len(self._keys) + 1)

    def expect(self, key: str, field: str | None, value: str | None) -> None:
        """Add a condition on a text in Redis.

        Args:
            key: Name of the hash or the string.
            field: Field of the hash; None for a string.
            value: The text it must have; None if it must not exist.
        """
        self._conditions.append((self._index(key), field, value))

    def replace(self, key: str, field: str | None, before: str | None, after: str, *options: str | int) -> None:
        """Have the commit replace a text, on the condition that it is still what was read.

        Args:
            key: Name of the hash or the string.
            field: Field of the hash; None for a string.
            before: The text that was read; None if there was none.
            after: Another text, which nobody else writes: it has a token or a stamp.
            options: Further arguments of SET, for a string.
        """
        self.expect(key, field, before)
        if field is None:
            self.add("SET", key, after, *options)
        else:
            self.add("HSET", key, field, after)
        self.note_written(key, field, after)

    def note_written(self, key: str, field: str | None, text: str) -> None:
        """Note a text that the commit writes and nobody else does: it says whether the commit was carried out."""
        self._written = key, field, text

    def pass_maxmemory(self, key: str) -> None:
        """Have the commit carried out also on a server that is at its `maxmemory`. To be called before `add`.

        A server looks for memory before a script's first write alone, and only if that is one which may need some.
        PERSIST needs none, and changes nothing.

        Args:
            key: A key without an expiry.
        """
        self.add("PERSIST", key)

    def add(self, command: str, key: str | None, *arguments: str | int) -> None:
        """Add a command.

        Args:
            command: Its name.
            key: The key it is about; None for a command without one.
            arguments: Its further arguments. Many are divided among several commands, each with an even number.
        """
        index = self._index(key) if key is not None else 0
        texts = [str(argument) for argument in arguments]
        # Lua can pass on only so many values at once; field-value pairs stay together.
        for start in range(0, max(1, len(texts)), _MAX_ARGUMENTS):
            self._commands.append((command, index, *texts[start : start + _MAX_ARGUMENTS]))

    def to_script_call(self) -> ScriptCall:
        """Return the script call that commits; its reply begins with 1 if all conditions held."""
        arguments = (json.dumps(self._conditions), json.dumps(self._commands))
        return ScriptCall(load("commit"), tuple(self._keys), arguments)

    def written_text_query(self) -> Command | None:
        """Return the command that reads the text by which a commit is known to be carried out; None if it has none."""
        if self._written is None:
            return None
        key, field, _ = self._written
        return ("GET", key) if field is None else ("HGET", key, field)

    def is_carried_out(self, stored: str | None) -> bool:
        """Return whether the text that `written_text_query` reads is the one that the commit writes."""
        return self._written is not None and self._written[2] == stored


def carry_out(commit: Commit) -> Operation[bool]:
    """Carry out a commit of one slot; return whether all conditions held.

    A client that sends a command again after an error may have carried it out twice. Then the second attempt says that
    a condition does not hold, and what stands there is what the first one wrote.
    """
    if (yield commit.to_script_call())[0] == 1:
        return True
    read = commit.written_text_query()
    return read is not None and commit.is_carried_out(text((yield [read])[0]))


def carry_out_and_read(commit: Commit, reads: Sequence[Command]) -> Operation[tuple[bool, list[Any]]]:
    """Carry out a commit of one slot, and read, in one round trip and in no order.

    Returns:
        What `carry_out` does; and the replies to the reads, with StoreError in the places of errors.
    """
    (result,), replies = yield from _carry_out([commit], reads)
    if isinstance(result, StoreError):
        raise result
    return result, replies


def carry_out_all(commits: Sequence[Commit]) -> Operation[list[bool | StoreError]]:
    """Carry out commits of one slot each, in no order, by one request; return what `carry_out` does of each.

    A commit that failed has its error in its place: the others may have been carried out.
    """
    return (yield from _carry_out(commits, ()))[0] if commits else []


def _carry_out(
    commits: Sequence[Commit], reads: Sequence[Command]
) -> Operation[tuple[list[bool | StoreError], list[Any]]]:
    calls = [commit.to_script_call() for commit in commits]
    all_replies = list((yield IndependentCommands([*(call.by_hash() for call in calls), *reads])))
    replies: list[Any] = all_replies[: len(calls)]
    unknown = [at for at, reply in enumerate(replies) if isinstance(reply, UnknownScriptError)]
    if unknown:
        again = yield IndependentCommands([calls[at].by_source() for at in unknown])
        for at, reply in zip(unknown, again, strict=True):
            replies[at] = reply
    results = [reply if isinstance(reply, StoreError) else reply[0] == 1 for reply in replies]
    written = {at: commits[at].written_text_query() for at, result in enumerate(results) if result is False}
    queries = {at: read for at, read in written.items() if read is not None}
    if queries:
        replies = yield list(queries.values())
        for at, replaced in zip(queries, replies, strict=True):
            results[at] = commits[at].is_carried_out(text(replaced))
    return results, all_replies[len(calls) :]


def new_commit(namespace: Namespace, snapshot: CatalogSnapshot) -> Commit:
    """Return a commit that expects the schema of `snapshot`: an upgrade may come between reading and writing."""
    commit = Commit()
    commit.expect(namespace.names.catalog, "schema", str(snapshot.schema) if snapshot.epoch else None)
    return commit


def add_record(
    commit: Commit, namespace: Namespace, snapshot: CatalogSnapshot, record: KeyRecord, *, joins: bool
) -> None:
    """Have the commit write a key's record, and the record's stamp into the key's hash.

    Args:
        commit: The commit.
        namespace: The namespace.
        snapshot: The catalogue that the record was computed from.
        record: The record.
        joins: Whether the key has a plan that it did not have before. Then the hash takes over the version of the
            catalogue as well, so that no process goes by a catalogue without that plan.
    """
    commit.add("SET", namespace.names.key_record(record.id), record.json())
    commit.add("STAMP", namespace.names.key_hash(record.id), record.stamp, snapshot.version_token, int(joins))


def add_new_pepper(commit: Commit, namespace: Namespace) -> bool:
    """Have the commit store the check value of a pepper that the catalogue does not have yet.

    Returns:
        Whether there is one.
    """
    probes = namespace.new_probes()
    if probes is None:
        return False
    stored, updated = probes
    commit.expect(namespace.names.catalog, "pepper", stored)  # another administrator may be adding another pepper
    commit.add("HSET", namespace.names.catalog, "pepper", updated)
    return True


def existing_plan(snapshot: CatalogSnapshot, plan_id: object) -> UsagePlan:
    """Return the plan with this id. Raises NotFound."""
    plan = snapshot.plans.get(plan_id) if isinstance(plan_id, str) else None
    if plan is None:
        raise NotFound(f"there is no plan {validation.shown(plan_id)}", field="plan_id")
    return plan


def existing_key(namespace: Namespace, key_id: str) -> Operation[tuple[KeyRecord, str]]:
    """Return a key's record and its text in Redis. Raises NotFound."""
    validation.key_id(key_id)
    stored = text((yield [("GET", namespace.names.key_record(key_id))])[0])
    record = None if stored is None else KeyRecord.from_json(stored, key_id)
    if stored is None or record is None or not record.is_live:
        raise no_such_key(key_id)
    return record, stored


def no_such_key(key_id: str) -> NotFound:
    """Return the error for a key that does not exist."""
    return NotFound(f"there is no key with the id {validation.shown_id(key_id)}", field="key_id")


def ensure_catalog(namespace: Namespace) -> Operation[CatalogSnapshot]:
    """Load the snapshot; create the catalogue, with epoch and pepper, where none exists."""
    snapshot = yield from namespace.load(for_change=True)
    if not snapshot.epoch:
        commit = new_commit(namespace, snapshot)
        commit.expect(namespace.names.catalog, "version", None)
        commit.add("HSET", namespace.names.catalog, *namespace.first_fields(snapshot), "version", 1)
        yield commit.to_script_call()
        snapshot = yield from namespace.load()
    return snapshot


def two_plans_conflict(key_id: str, one: str, other: str, stage: str) -> Conflict:
    """Return the error for a key that would be in two plans of one stage; `key_id` is "" for a new key."""
    subject = f"key {key_id!r}" if key_id else "the key"
    first, second = sorted((one, other))
    return Conflict(
        f"{subject} would be in two plans of stage {stage!r}, {first!r} and {second!r}: "
        "a key may be in one plan per stage",
        field="plans",
    )


def busy_conflict(attempts: int = MAX_ATTEMPTS) -> Conflict:
    """Return the error for a change that others overtook in each of so many attempts."""
    return Conflict(f"others changed the catalogue {attempts} times meanwhile: try again")
