"""Import of API keys from CSV, and their export.

A file is read twice. The first pass finds whether it can be read at all, so that one that cannot leaves no trace, and
with `fail_on_warnings` whether anything in it draws a warning. The second stores it batch by batch. One batch of the
file is in memory at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO

from ratelimit.admin.ceilings import KeyHeadroom, key_headroom, max_attempts
from ratelimit.admin.commit import busy_conflict
from ratelimit.admin.csv import format as csv_format
from ratelimit.admin.csv.batch import (
    KeyBatch,
    ResolvedRow,
    RowOutcome,
    apply_key_ceiling,
    resolve_rows,
    row_outcome,
)
from ratelimit.admin.csv.batch_by_slot import UnfinishedKeys, new_batch, rows_of_a_batch
from ratelimit.admin.csv.format import Row, RowWarning
from ratelimit.admin.keys import KeyAdmin
from ratelimit.admin.listing import MAX_PAGE, KeyListing
from ratelimit.effects import Operation, pause
from ratelimit.errors import ConfigError, StoreError
from ratelimit.registry.snapshot import CatalogSnapshot

ProgressCallback = Callable[[int], None]
"""Called with the number of items done so far."""

Batch = list[Row | RowWarning]

MAX_BAD_LINES = 100_000
"""Each is remembered with what is wrong with it."""


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did.

    Attributes:
        ids: Ids of the keys that the good rows name, in the order of the file, each once.
        warnings: In the order of the file.
        created: How many of these keys are new.
        updated: How many existed before; among them those that were as the file says already.
    """

    ids: tuple[str, ...]
    warnings: tuple[RowWarning, ...]
    created: int = 0
    updated: int = 0


def import_keys(
    admin: KeyAdmin, stream: BinaryIO, name: str, *, fail_on_warnings: bool, progress: ProgressCallback | None
) -> Operation[ImportReport]:
    """Create the keys of a CSV file, and change those that exist.

    Args:
        admin: Administers the keys.
        stream: The file, seekable, read from where it stands.
        name: What errors call the file.
        fail_on_warnings: Store nothing if anything draws a warning.
        progress: Called with the number of rows done so far.
    """
    namespace, work = admin.namespace, _Import(admin)
    start, bad_lines = stream.tell(), 0
    yield from namespace.load()
    size = yield from rows_of_a_batch(namespace)
    for batch in _batches(stream, name, size):
        bad_lines += sum(isinstance(item, RowWarning) for item in batch)
        if bad_lines > MAX_BAD_LINES:
            problem = f"has more than {MAX_BAD_LINES:,} lines that are no keys: is it the right file?"
            raise ConfigError(problem, field=name)
        if fail_on_warnings:
            yield from work.inspect(batch)
        else:
            yield pause()
    if work.warnings:
        return work.report()
    stream.seek(start)
    done = 0
    try:
        for batch in _batches(stream, name, size):
            yield from work.store(batch)
            done += len(batch)
            if progress is not None:
                progress(done)
    except StoreError as error:
        error.add_note(f"the first {done} rows of the file are done; import it again to go on")
        raise
    return work.report()


def export_keys(listing: KeyListing, write: Callable[[str], object]) -> Operation[int]:
    """Write all keys as CSV, the newest first, and return how many there are."""
    write(csv_format.exported_header())
    count, cursor = 0, None
    while True:
        page = yield from listing.list_keys(limit=MAX_PAGE, cursor=cursor)
        write(csv_format.exported_rows(page.items))
        count, cursor = count + len(page.items), page.cursor
        if cursor is None:
            return count


def _batches(stream: BinaryIO, name: str, size: int) -> Iterator[Batch]:
    lines = csv_format.read(stream, name)
    while batch := list(islice(lines, size)):
        yield [item for item in batch if item is not None]


class _Import:
    """One import in progress."""

    def __init__(self, admin: KeyAdmin) -> None:
        self._admin = admin
        self._namespace = admin.namespace
        self._ids: dict[str, None] = {}
        self._created = self._updated = 0
        self._last_created_us = 0
        self._headroom: KeyHeadroom | None = None
        self._new: set[str] = set()
        self.warnings: list[RowWarning] = []

    def report(self) -> ImportReport:
        """Return what was done."""
        return ImportReport(tuple(self._ids), tuple(self.warnings), self._created, self._updated)

    def inspect(self, batch: Batch) -> Operation[None]:
        """Add the warnings about a batch, and store nothing."""
        rows = yield from resolve_rows(self._namespace, _rows(batch))
        if self._headroom is None:
            self._headroom = yield from key_headroom(self._namespace)
        outcomes = self._outcomes(rows, self._namespace.snapshot, self._headroom, self._new)
        self._add_warnings(batch, {each.row.line: outcome for each, outcome in zip(rows, outcomes, strict=True)})

    def store(self, batch: Batch) -> Operation[None]:
        """Store the good rows of a batch; start over with those for which others change what they depend on."""
        rows = pending = _rows(batch)
        outcomes, stored = dict[int, RowOutcome](), dict[str, tuple[str, bool] | None]()
        unfinished = UnfinishedKeys(self._namespace)
        for attempt in range(max_attempts(self._namespace)):
            resolved_rows = yield from resolve_rows(self._namespace, pending)
            snapshot = self._namespace.snapshot
            if rows and (attempt or not snapshot.epoch):
                snapshot = yield from self._admin.ensure_catalog()
            headroom = yield from key_headroom(self._namespace)
            for resolved, outcome in zip(
                resolved_rows, self._outcomes(resolved_rows, snapshot, headroom, set()), strict=True
            ):
                outcomes[resolved.row.line] = outcome
                stored.setdefault(resolved.digests[0], None)
            # Of rows with the same value the last one counts, in the place of the first.
            good = {each.digests[0]: each for each in resolved_rows if outcomes[each.row.line].is_stored}
            waiting = yield from unfinished.take_over(good.values())
            keys = new_batch(self._namespace, snapshot, headroom)
            put = {
                digest: (self._put(keys, each, outcomes[each.row.line].plans), each.record is None)
                for digest, each in good.items()
                if digest not in waiting
            }
            overtaken = yield from keys.store()
            stored |= {digest: key for digest, key in put.items() if key[0] not in overtaken}
            if keys.has_new_pepper:
                yield from self._namespace.load()
            if not overtaken and not waiting:
                self._namespace.on_change_message("keys")  # at once in this process
                self._add_warnings(batch, outcomes)
                for key in filter(None, stored.values()):
                    self._count(*key)
                return
            pending = [each.row for each in resolved_rows if stored[each.digests[0]] is None]
        raise busy_conflict(max_attempts(self._namespace))

    def _outcomes(
        self, rows: list[ResolvedRow], snapshot: CatalogSnapshot, headroom: KeyHeadroom, new: set[str]
    ) -> list[RowOutcome]:
        ceilings = self._namespace.ceilings
        outcomes = [row_outcome(resolved, snapshot, ceilings) for resolved in rows]
        return apply_key_ceiling(rows, outcomes, headroom, ceilings, new)

    def _put(self, keys: KeyBatch, resolved: ResolvedRow, plans: tuple[str, ...] | None) -> str:
        if resolved.record is not None:
            keys.update(resolved, resolved.record, plans)
            return resolved.record.id
        # No two keys of an import have the same time: lists show them in its order.
        self._last_created_us = max(self._last_created_us + 1, self._namespace.wall_us())
        return keys.create(resolved, plans or (), self._last_created_us)

    def _count(self, key_id: str, is_new: bool) -> None:
        if key_id not in self._ids:
            self._created += is_new
            self._updated += not is_new
            self._ids[key_id] = None

    def _add_warnings(self, batch: Batch, outcomes: Mapping[int, RowOutcome]) -> None:
        """Add the warnings about a batch; outcomes are those of its good lines, by their numbers."""
        warnings = [item for item in batch if isinstance(item, RowWarning)]
        for line, outcome in outcomes.items():
            warnings += (RowWarning(line, problem) for problem in outcome.problems)
        self.warnings += sorted(warnings, key=lambda warning: warning.line)


def _rows(batch: Batch) -> list[Row]:
    return [item for item in batch if isinstance(item, Row)]
