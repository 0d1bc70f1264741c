"""Import of API keys from CSV, and their export. Flows: see flow.py. The format is that of csv_keys.py.

A file is read twice. The first pass finds whether it can be read at all, so that one that cannot leaves no trace, and
with `fail_on_warnings` whether anything in it draws a warning. The second stores it batch by batch. One batch of the
file is in memory at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO, cast

from ratelimit import validation
from ratelimit.admin.ceilings import Room, room_for_keys, tries
from ratelimit.admin.commit import too_busy
from ratelimit.admin.csv import files as csv_files
from ratelimit.admin.csv import format as csv_keys
from ratelimit.admin.csv.batch import Changes, Entry, Verdict, judged, looked_up, within_room
from ratelimit.admin.csv.files import Source
from ratelimit.admin.keys import KeyAdmin
from ratelimit.admin.listing import KeyLists
from ratelimit.effects import Operation
from ratelimit.errors import ConfigError, StoreError
from ratelimit.registry.snapshot import CatalogSnapshot

Progress = Callable[[int], None]
Batch = list[csv_keys.Row | csv_keys.ImportWarning]

MOST_BYTES = 2**28
"""Size of a file, unless the caller says otherwise: enough for a million rows and more."""

MOST_BAD_LINES = 100_000
"""Each is remembered with what is wrong with it."""

_BATCH = 64
"""Rows committed by one script: some 200 commands, which occupy the server for a millisecond or two."""


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did.

    ids       of the keys that the good rows name, in the order of the file, each once
    warnings  in the order of the file
    created   how many of these keys are new
    updated   how many existed before; among them those that were as the file says already
    """

    ids: tuple[str, ...]
    warnings: tuple[csv_keys.ImportWarning, ...]
    created: int = 0
    updated: int = 0


def import_keys(
    admin: KeyAdmin,
    source: Source,
    fail_on_warnings: bool = False,
    progress: Progress | None = None,
    max_bytes: int = MOST_BYTES,
) -> Operation[ImportReport]:
    """Make the keys of a CSV file, and change those that exist."""
    validation.flag(fail_on_warnings, "fail_on_warnings")
    validation.whole(max_bytes, "max_bytes", least=1)
    name, namespace = csv_files.name_of(source), admin._namespace
    breath = [namespace.version_query()]  # while one waits for an answer, an event loop does other things
    work = _Import(admin)
    with ExitStack() as stack:
        given = csv_files.opened(source, stack)
        if csv_files.is_rereadable(given):
            stream = cast("BinaryIO", given)
        else:
            copy = csv_files.temporary(stack)
            for _ in csv_files.copied(given, copy, name, max_bytes):
                yield breath
            stream = cast("BinaryIO", copy)
        csv_files.refuse_larger(stream, name, max_bytes)
        start, bad = stream.tell(), 0
        yield from namespace.load()
        for batch in _batches(stream, name):
            bad += sum(isinstance(item, csv_keys.ImportWarning) for item in batch)
            if bad > MOST_BAD_LINES:
                problem = f"has more than {MOST_BAD_LINES:,} lines that are no keys: is it the right file?"
                raise ConfigError(problem, field=name)
            if fail_on_warnings:
                yield from work.inspect(batch)
            else:
                yield breath
        if work.warnings:
            return work.report()
        stream.seek(start)
        done = 0
        try:
            for batch in _batches(stream, name):
                yield from work.store(batch)
                done += len(batch)
                if progress is not None:
                    progress(done)
        except StoreError as error:
            error.add_note(f"the first {done} rows of the file are done; import it again to go on")
            raise
        return work.report()


def export_keys(lists: KeyLists, target: Source) -> Operation[int]:
    """Write all keys, the newest first, and return how many there are."""
    with ExitStack() as stack:
        write = csv_files.writer(target, stack)
        write(csv_keys.exported_header())
        count, position = 0, None
        while True:
            page = yield from lists.keys_page(limit=500, position=position)
            write(csv_keys.exported(page.items))
            count, position = count + len(page.items), page.position
            if position is None:
                return count


def _batches(stream: BinaryIO, name: str) -> Iterator[Batch]:
    lines = csv_keys.read(stream, name)
    while batch := list(islice(lines, _BATCH)):
        yield [item for item in batch if item is not None]


class _Import:
    """One import under way, and what it has done so far."""

    def __init__(self, admin: KeyAdmin) -> None:
        self._admin = admin
        self._namespace = admin._namespace
        self._ids: dict[str, None] = {}
        self._created = self._updated = 0
        self._made_us = 0
        self._room: Room | None = None
        self._new: set[str] = set()
        self.warnings: list[csv_keys.ImportWarning] = []

    def report(self) -> ImportReport:
        """Return what was done."""
        return ImportReport(tuple(self._ids), tuple(self.warnings), self._created, self._updated)

    def inspect(self, batch: Batch) -> Operation[None]:
        """Note what a batch draws in warnings, and store nothing."""
        entries = yield from looked_up(self._namespace, _rows(batch))
        if self._room is None:
            self._room = yield from room_for_keys(self._namespace)
        self._warn(batch, entries, self._judged(entries, self._namespace.snapshot, self._room, self._new))

    def store(self, batch: Batch) -> Operation[None]:
        """Store the good rows of a batch, all at once; start over if what they rest on moves meanwhile."""
        for attempt in range(tries(self._namespace)):
            entries = yield from looked_up(self._namespace, _rows(batch))
            snapshot = self._namespace.snapshot
            if entries and (attempt or not snapshot.epoch):
                snapshot = yield from self._admin._ensure_book()
            room = yield from room_for_keys(self._namespace)
            verdicts = self._judged(entries, snapshot, room, set())
            # Of rows with the same value the last one counts, in the place of the first.
            good = {
                entry.digests[0]: (entry, verdict.plans)
                for entry, verdict in zip(entries, verdicts, strict=True)
                if verdict.is_good
            }
            changes = Changes(self._namespace, snapshot, room)
            done = [(self._put(changes, entry, plans), entry.record is None) for entry, plans in good.values()]
            call = changes.call()
            if call is None or (yield call)[0] == 1:
                self._namespace.on_change_message("keys")  # at once in this process
                self._warn(batch, entries, verdicts)
                for key_id, is_new in done:
                    self._count(key_id, is_new)
                if changes.has_new_pepper:
                    yield from self._namespace.load()
                return
        raise too_busy(tries(self._namespace))

    def _judged(self, entries: list[Entry], snapshot: CatalogSnapshot, room: Room, new: set[str]) -> list[Verdict]:
        ceilings = self._namespace.ceilings
        return within_room(entries, [judged(entry, snapshot, ceilings) for entry in entries], room, ceilings, new)

    def _put(self, changes: Changes, entry: Entry, plans: tuple[str, ...] | None) -> str:
        if entry.record is not None:
            changes.update(entry.row, entry.record, entry.stored, plans)
            return entry.record.id
        # No two keys of an import have the same time: lists are in its order.
        self._made_us = max(self._made_us + 1, self._namespace.wall_us())
        return changes.create(entry, plans or (), self._made_us)

    def _count(self, key_id: str, is_new: bool) -> None:
        if key_id not in self._ids:
            self._created += is_new
            self._updated += not is_new
            self._ids[key_id] = None

    def _warn(self, batch: Batch, entries: list[Entry], verdicts: list[Verdict]) -> None:
        found = [item for item in batch if isinstance(item, csv_keys.ImportWarning)]
        for entry, verdict in zip(entries, verdicts, strict=True):
            found += (csv_keys.ImportWarning(entry.row.line, problem) for problem in verdict.problems)
        self.warnings += sorted(found, key=lambda warning: warning.line)


def _rows(batch: Batch) -> list[csv_keys.Row]:
    return [item for item in batch if isinstance(item, csv_keys.Row)]
