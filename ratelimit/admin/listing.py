"""Lists of API keys, in pages."""

from __future__ import annotations

from dataclasses import dataclass

from ratelimit import validation
from ratelimit.admin.reading import texts_of
from ratelimit.effects import Operation, scored
from ratelimit.errors import ConfigError
from ratelimit.model import ApiKey
from ratelimit.registry.key_record import KeyRecord
from ratelimit.registry.namespace import Namespace

MAX_PAGE = 500
_KEYS_PER_READ = 500


@dataclass(frozen=True, slots=True)
class KeyPage:
    """One page of a list of keys.

    Attributes:
        items: The keys, the newest first, without their values.
        cursor: What to pass to get the next page; None at the end.
    """

    items: list[ApiKey]
    cursor: str | None


class KeyListing:
    """Lists the API keys of one namespace."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace, self._names = namespace, namespace.names

    def keys(self, prefix: str = "") -> Operation[list[ApiKey]]:
        """Return all keys whose name starts with `prefix`, the newest first."""
        keys, cursor = list[ApiKey](), None
        while True:
            page = yield from self.list_keys(prefix, MAX_PAGE, cursor)
            keys += page.items
            cursor = page.cursor
            if cursor is None:
                return keys

    def list_keys(self, prefix: str = "", limit: int = 25, cursor: str | None = None) -> Operation[KeyPage]:
        """Return up to `limit` keys whose name starts with `prefix`, the newest first, from `cursor` on."""
        validation.label(prefix, "prefix")
        validation.whole(limit, "limit", least=1, below=MAX_PAGE + 1)
        last_created, last_id = _parse_cursor(cursor)
        keys, offset = list[ApiKey](), 0
        while True:
            # The offset skips keys of one microsecond, when there are more of them than fit one reply.
            bounds = (last_created, "-inf", "WITHSCORES", "LIMIT", offset, _KEYS_PER_READ)
            entries = scored((yield [("ZREVRANGEBYSCORE", self._names.keys, *bounds)])[0])
            if not entries and offset == 0:
                yield from self._namespace.load()  # no key at all, or those of another schema?
            if not entries:
                return KeyPage(keys, None)
            offset = offset + len(entries) if entries[-1][1] == last_created else 0
            # Keys of one microsecond follow each other by id, downwards.
            entries = [entry for entry in entries if last_id is None or entry[1] != last_created or entry[0] < last_id]
            if not entries:
                continue
            names = [self._names.key_record(key_id) for key_id, _ in entries]
            for (key_id, created), stored in zip(entries, (yield from texts_of(self._namespace, names)), strict=True):
                if len(keys) == limit:
                    return KeyPage(keys, f"{last_created}:{last_id}")
                last_created, last_id = created, key_id
                record = KeyRecord.from_json(stored, key_id) if stored is not None else None
                if record is not None and record.is_live and record.name.startswith(prefix):
                    keys.append(record.api_key())


def invalid_cursor(cursor: object) -> ConfigError:
    """Return the error for a cursor that no page had."""
    return ConfigError(f"invalid cursor {validation.shown(cursor)}: pass that of the page before", field="cursor")


def _parse_cursor(cursor: str | None) -> tuple[str, str | None]:
    """Return the creation time (microseconds since 1970) and the id of the last key that a page covered."""
    if cursor is None:
        return "+inf", None
    created, _, key_id = cursor.partition(":") if isinstance(cursor, str) else ("", "", "")
    if not created.isdigit() or not key_id:
        raise invalid_cursor(cursor)
    return created, key_id
