"""What the script is asked about a request: worked out once, and put again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from ratelimit.core import wire
from ratelimit.core.batch import CheckCall
from ratelimit.core.book import PlanBook
from ratelimit.core.found import Found
from ratelimit.core.scripts import ScriptCall, load
from ratelimit.core.state import Namespace
from ratelimit.model import UsagePlan

if TYPE_CHECKING:
    from ratelimit.core.denial_cache import Denial
    from ratelimit.core.leases import Lease

_NO_STAMP = "-" * 8


@final
class Question:
    """A request, as the script is asked about it; all but time and cost. Holds as long as `book` is in force."""

    __slots__ = (
        "_ready",
        "_windows",
        "book",
        "call",
        "denial",
        "found",
        "identity",
        "is_leased",
        "key_id",
        "keys",
        "lease",
        "plan",
        "plan_id",
        "valid_until_us",
    )

    def __init__(
        self, book: PlanBook, found: Found | None, plan: UsagePlan | None, call: wire.Call, keys: tuple[str, ...]
    ) -> None:
        self.book = book
        self.found = found
        self.key_id = found.record.id if found else ""
        self.plan = plan
        self.plan_id = plan.id if plan else ""
        self.lease: Lease | None = None
        # Whether units of its limits may be given back; under a shadow nobody takes a lease, but some may have one.
        self.is_leased = bool(plan and plan.lease)
        self.call = call
        self.keys = keys
        self.identity = f"{book.identity}{found.record.stamp if found else _NO_STAMP}".encode()
        self.valid_until_us = found.valid_until_us if found else 0
        self.denial: Denial | None = None
        # What `put` returns for cost 1 by the server's clock, as long as the windows of `call` are these.
        self._ready: ScriptCall | None = None
        self._windows: object = None

    def put(self, state: Namespace, cost: int, flags: int = 0) -> ScriptCall:
        """Return the question as it is put to the script."""
        call = self.call
        if self._windows is call.windows and cost == 1 and not flags and self._ready is not None:
            return self._ready
        packed = call.request(
            now_us=state.script_us(),
            cost=cost,
            valid_until_us=self.valid_until_us,
            flags=flags,
            identity=self.identity,
            guess=state.wall_us,
        )
        args: tuple[str | bytes, ...] = (packed, *call.fields)
        if call.layout is not None and not flags & wire.PEEK:
            put: ScriptCall = CheckCall(load("check"), self.keys, args, call.layout)
        else:
            put = ScriptCall(load("check"), self.keys, args)
        if cost == 1 and not flags and state.clock is None:
            self._ready, self._windows = put, call.windows
        return put
