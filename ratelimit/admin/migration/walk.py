"""All keys of a namespace, some hundreds at a time, wherever they are."""

from __future__ import annotations

from ratelimit.effects import AtNode, Operation, Primaries, text, texts
from ratelimit.registry.redis_keys import RedisKeys

_NAMES_PER_SCAN = 500


class Walk:
    """One walk (SCAN) over all primaries. A name may come twice; one that exists throughout comes once at least.

    Names of processes that live now, and of what they have yet to charge, are left out: they belong to one server.
    """

    def __init__(self, names: RedisKeys) -> None:
        self._names = names
        self._left_out = (names.replicas, names.journal)
        self._nodes: list[str] | None = None
        self._cursor = "0"

    def page(self) -> Operation[list[str] | None]:
        """Return some names, perhaps none of them; None at the end."""
        if self._nodes is None:
            self._nodes = list((yield Primaries()) or ("",))
        if not self._nodes:
            return None
        # Both kinds of names, with braces around the namespace and without, in one walk.
        command = ("SCAN", self._cursor, "MATCH", f"*{self._names.namespace}*:*", "COUNT", _NAMES_PER_SCAN)
        ((cursor, scanned),) = yield AtNode(self._nodes[0], [command])
        self._cursor = text(cursor) or "0"
        if self._cursor == "0":
            self._nodes.pop(0)
        return [name for name in texts(scanned) if self._names.is_own(name) and name not in self._left_out]
