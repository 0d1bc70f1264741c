"""Fields in Redis that this version does not know: a newer one wrote them. Each is logged once."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ratelimit.validation import shown

log = logging.getLogger("ratelimit")

Table = Mapping[str, Any]

EACH = "*"
"""In a table of known fields: any name, such as those of stages and methods."""

_MAX_WARNINGS = 100
_warned: set[tuple[str, str]] = set()


def warn(kind: str, name: str) -> None:
    """Warn, the first time, that a field of such a document is ignored."""
    if (kind, name) in _warned or len(_warned) >= _MAX_WARNINGS:
        return
    _warned.add((kind, name))
    log.warning(
        "%s in Redis has a field that this version does not know, and ignores: %s (a newer version wrote it: upgrade "
        "this one)",
        kind,
        shown(name),
    )


def without(kind: str, data: object, fields: Table) -> object:
    """Return a stored document without the fields that are not in `fields`: a table for a table, None for others."""
    if not isinstance(data, dict):
        return data
    remaining = dict[str, object]()
    for name, value in data.items():
        if name not in fields and EACH not in fields:
            warn(kind, name)
            continue
        inner = fields.get(name, fields.get(EACH))
        remaining[name] = value if inner is None else without(kind, value, inner)
    return remaining
