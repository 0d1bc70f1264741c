"""What both catalogues read from files and write to them: API keys as CSV."""

from __future__ import annotations

from ratelimit.admin.csv.files import Source
from ratelimit.admin.csv.transfer import MOST_BYTES, ImportReport, Progress, export_keys, import_keys
from ratelimit.admin.keys import KeyAdmin
from ratelimit.admin.listing import KeyLists
from ratelimit.catalog.overview import AsyncOverview, Overview
from ratelimit.registry.namespace import Namespace
from ratelimit.store.aio.executor import AsyncExecutor
from ratelimit.store.blocking.executor import BlockingExecutor


class Transfer(Overview):
    """For blocking code."""

    def _bind(self, namespace: Namespace, store: BlockingExecutor) -> None:
        super()._bind(namespace, store)
        self._keys, self._lists = KeyAdmin(namespace), KeyLists(namespace)

    def import_keys(
        self,
        source: Source,
        fail_on_warnings: bool = False,
        progress: Progress | None = None,
        *,
        max_bytes: int = MOST_BYTES,
    ) -> ImportReport:
        """Make the keys of a CSV file in the format of AWS API Gateway, and change those that exist.

        source            a path, or an open file of text or bytes, read from where it stands. One that can be read
                          only once is copied to a temporary file
        fail_on_warnings  store nothing if anything draws a warning. Otherwise good rows are stored
        progress          called with the number of rows done so far
        max_bytes         a larger file is refused

        The first line names the columns, in any order and case: Key (20 to 128 visible ASCII characters) and Name,
        and as you like Description, Enabled (true unless it says false) and UsagePlanIds: one id, or several with
        commas between, in one pair of double or single quotes. Other columns are ignored. A cell does not span lines.

        A row whose Key exists changes that key, which keeps its id, its limits' state and whatever the row does not
        say: a column that is missing or a cell that is empty. Plans that it names replace the key's plans. Of several
        rows with one Key the last counts. A plan that does not exist, or that opens a stage which another plan of the
        row opens, draws a warning and is dropped from the row; a row that names no other plan leaves the key's plans
        as they are. A value that a rotation replaced is not brought back: its row is not stored. Beyond a ceiling, rows
        of new keys are not stored and plans of a key are dropped, with a warning each.

        Rows are stored in batches, each all or nothing, beside whatever others do. An import that was interrupted is
        simply repeated. With `fail_on_warnings` all rows are checked before any is stored; if another administrator
        removes a plan or rotates a key in the seconds between, the rows concerned are treated as without the flag,
        and the report has warnings as well as ids.

        Raises ConfigError, with nothing stored, for a file that cannot be read: empty, too large, without a Key or
        Name column, not UTF-8. No error and no warning shows a Key.
        """
        return self._run(import_keys(self._keys, source, fail_on_warnings, progress, max_bytes))

    def export_keys(self, target: Source) -> int:
        """Write all keys to a CSV file, the newest first, and return how many there are.

        target  a path, or an open file of text or bytes

        Columns: Id, Name, Description, Enabled, UsagePlanIds, Owner, Tags (JSON), CreatedAt, ExpiresAt (ISO 8601,
        UTC). The values of keys are stored nowhere, so there is no Key column, and such a file cannot be imported. A
        cell that a spreadsheet would take for a formula (it begins with = + - @) has a single quote before it.
        """
        return self._run(export_keys(self._lists, target))


class AsyncTransfer(AsyncOverview):
    """For asyncio."""

    def _bind(self, namespace: Namespace, store: AsyncExecutor) -> None:
        super()._bind(namespace, store)
        self._keys, self._lists = KeyAdmin(namespace), KeyLists(namespace)

    async def import_keys(
        self,
        source: Source,
        fail_on_warnings: bool = False,
        progress: Progress | None = None,
        *,
        max_bytes: int = MOST_BYTES,
    ) -> ImportReport:
        """As `Catalog.import_keys`. The source is read without waiting in between: have all of it at hand."""
        return await self._run(import_keys(self._keys, source, fail_on_warnings, progress, max_bytes))

    async def export_keys(self, target: Source) -> int:
        """As `Catalog.export_keys`."""
        return await self._run(export_keys(self._lists, target))
