"""Lists of API keys, in pages. Pure: see flow.py."""

from __future__ import annotations

from dataclasses import dataclass

from ratelimit import validation
from ratelimit.effects import Operation, scored, text
from ratelimit.errors import ConfigError
from ratelimit.model import ApiKey
from ratelimit.registry.key_record import KeyRecord
from ratelimit.registry.namespace import Namespace

_PAGE = 500


@dataclass(frozen=True, slots=True)
class Page:
    """Some keys, and where to go on: None at the end."""

    items: list[ApiKey]
    position: str | None


class KeyLists:
    """Lists of the API keys of one namespace."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace, self._names = namespace, namespace.names

    def keys(self, prefix: str = "") -> Operation[list[ApiKey]]:
        """Return all keys whose name starts with `prefix`, the newest first."""
        found, position = list[ApiKey](), None
        while True:
            page = yield from self.keys_page(prefix, _PAGE, position)
            found += page.items
            position = page.position
            if position is None:
                return found

    def keys_page(self, prefix: str = "", limit: int = 25, position: str | None = None) -> Operation[Page]:
        """Return up to `limit` keys whose name starts with `prefix`, the newest first, from `position` on."""
        validation.label(prefix, "prefix")
        validation.whole(limit, "limit", least=1, below=_PAGE + 1)
        score, last = _position(position)
        found, seen = list[ApiKey](), 0
        while True:
            # `seen` passes over keys made in the same microsecond, when there are more of them than fit one reply.
            bounds = (score, "-inf", "WITHSCORES", "LIMIT", seen, _PAGE)
            entries = scored((yield [("ZREVRANGEBYSCORE", self._names.keys, *bounds)])[0])
            if not entries and seen == 0:
                yield from self._namespace.load()  # no key at all, or those of another schema?
            if not entries:
                return Page(found, None)
            seen = seen + len(entries) if entries[-1][1] == score else 0
            # Keys of one microsecond follow each other by id, downwards.
            entries = [entry for entry in entries if last is None or entry[1] != score or entry[0] < last]
            if not entries:
                continue
            (stored,) = yield [("MGET", *(self._names.key_record(key_id) for key_id, _ in entries))]
            for (key_id, made), item in zip(entries, map(text, stored), strict=True):
                if len(found) == limit:
                    return Page(found, f"{score}:{last}")
                score, last = made, key_id
                record = KeyRecord.from_json(item, key_id) if item is not None else None
                if record is not None and record.is_live and record.name.startswith(prefix):
                    found.append(record.api_key())


def _position(position: str | None) -> tuple[str, str | None]:
    """Return where a listing goes on: the time and id of the last key that was seen."""
    if position is None:
        return "+inf", None
    made, _, last = position.partition(":") if isinstance(position, str) else ("", "", "")
    if not made.isdigit() or not last:
        raise ConfigError(f"is none that a listing returned: {validation.shown(position)}", field="position")
    return made, last
