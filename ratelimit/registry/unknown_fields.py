"""Fields in Redis that this version does not know: a newer one wrote them. They are told in the log, once each."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ratelimit.validation import shown

log = logging.getLogger("ratelimit")

Table = Mapping[str, Any]

EACH = "*"
"""In a table of known fields: any name, such as those of stages and methods."""

_MOST = 100
_told: set[tuple[str, str]] = set()


def warn(kind: str, name: str) -> None:
    """Tell, the first time, that a field of such a document is ignored."""
    if (kind, name) in _told or len(_told) >= _MOST:
        return
    _told.add((kind, name))
    log.warning(
        "%s in Redis has a field that this version does not know, and ignores: %s (a newer version wrote it: upgrade "
        "this one)",
        kind,
        shown(name),
    )


def without(kind: str, data: object, fields: Table) -> object:
    """Return a document of Redis without what is not in `fields`, where a table stands for a table, None for others."""
    if not isinstance(data, dict):
        return data
    kept = dict[str, object]()
    for name, value in data.items():
        if name not in fields and EACH not in fields:
            warn(kind, name)
            continue
        inner = fields.get(name, fields.get(EACH))
        kept[name] = value if inner is None else without(kind, value, inner)
    return kept
