"""Which server is the primary: the queries to the Sentinels of a service, and which of the replies holds. No I/O.

Each failover gives the Sentinels' configuration a higher epoch. So of two Sentinels that name different primaries, the
one with the higher epoch is right; the other has been cut off, or does not have the new configuration yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ratelimit.errors import StoreUnavailable
from ratelimit.scripts import Command
from ratelimit.store.addresses import Address

TIMEOUT_S = 0.25
"""How long a Sentinel may take to connect, and to answer, before the next one is queried."""
PATIENCE_S = 2.0
"""How long if none has answered within that: they may be far away, with TLS, or their names may resolve slowly."""
WATCH_TIMEOUT_S = 0.5
"""How long one may take that is queried again and again, beside the others."""
INTERVAL_S = 1.0
"""How often the Sentinels are queried. They also publish a failover, but the one that does may be cut off unnoticed."""
PAUSE_S = 0.05
"""At least so much time between two rounds, however much is published: a Sentinel may watch many services."""
SWITCH_CHANNEL = "+switch-master"
"""Where a Sentinel publishes failovers, of all its services."""


class NamedPrimary(NamedTuple):
    """The primary as a Sentinel names it.

    Attributes:
        epoch: Of the configuration by which it is the primary; each failover raises it.
        address: Host and port.
    """

    epoch: int
    address: Address


class SentinelAnswerError(Exception):
    """A Sentinel answered, but named no primary."""


def queries(service: str) -> list[Command]:
    """Return the commands that ask a Sentinel for a service's primary.

    The state comes first: should a failover come between the replies, the address is the newer one.
    """
    return [("SENTINEL", "MASTER", service), ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)]


def read(replies: Sequence[Any], min_other_sentinels: int) -> NamedPrimary:
    """Return the primary that a Sentinel names.

    Args:
        replies: To `queries`: texts as bytes, errors as exceptions.
        min_other_sentinels: How many others a Sentinel must be in touch with for its reply to count.

    Raises:
        SentinelAnswerError: It names none, or its reply does not count.
    """
    state_reply, address_reply = replies
    if isinstance(address_reply, Exception):
        raise SentinelAnswerError(str(address_reply))
    if address_reply is None:
        raise SentinelAnswerError("does not know the service")
    # A user who may not read the state may still read the address: such answers have no order.
    state = {} if isinstance(state_reply, Exception) else dict(_pairs(state_reply))
    try:
        host, port = address_reply
        primary = NamedPrimary(int(state.get(b"config-epoch", 0)), (host.decode(), int(port)))
        other_sentinels = int(state.get(b"num-other-sentinels", 0))
    except (ValueError, TypeError, AttributeError):
        raise SentinelAnswerError("answered with what is no address") from None
    if other_sentinels < min_other_sentinels:
        raise SentinelAnswerError(f"is in touch with {other_sentinels} others, of at least {min_other_sentinels}")
    return primary


def _pairs(flat: Any) -> Iterable[tuple[Any, Any]]:
    return zip(flat[::2], flat[1::2], strict=False) if isinstance(flat, list) else ()


class PrimaryTracker:
    """What the Sentinels of a service replied last.

    Attributes:
        service: The name by which the Sentinels know the primary and its replicas.
        sentinels: Their addresses, to be shown.
        min_other_sentinels: How many others a Sentinel must be in touch with for its reply to count.
        forced_host: The host that stands for that of any primary; None for the one that is named.
        primary: The primary; None as long as no Sentinel named one.
        order: The numbers of the Sentinels, in the order in which to ask them: first those that answered last.
    """

    def __init__(
        self,
        service: str,
        sentinels: Sequence[str],
        *,
        min_other_sentinels: int = 0,
        forced_host: str | None = None,
    ) -> None:
        self.service = service
        self.sentinels = sentinels
        self.min_other_sentinels = min_other_sentinels
        self.forced_host = forced_host
        self.primary: NamedPrimary | None = None
        self.order: tuple[int, ...] = tuple(range(len(sentinels)))


class Round:
    """One round of asking the Sentinels: all of them, or until the answer is clear.

    Args:
        tracker: The replies of the last round; `conclude` writes those of this one.

    Attributes:
        is_moved: Whether another server is the primary than in the last round.
    """

    def __init__(self, tracker: PrimaryTracker) -> None:
        self._tracker = tracker
        self._answers: dict[int, NamedPrimary] = {}
        self._problems: dict[int, str] = {}
        self.is_moved = False

    def answer(self, sentinel: int, replies: Sequence[Any]) -> bool:
        """Note the replies of a Sentinel to `queries`.

        Returns:
            Whether it is no older than the last round's answer, so that no other need be queried.

        Raises:
            SentinelAnswerError: It names none, or its reply does not count.
        """
        primary = self._answers[sentinel] = read(replies, self._tracker.min_other_sentinels)
        last = self._tracker.primary
        return last is None or primary.epoch >= last.epoch

    def fail(self, sentinel: int, problem: str) -> None:
        """Note that a Sentinel named nobody, and why."""
        self._problems[sentinel] = problem

    @property
    def is_answered(self) -> bool:
        """Whether any Sentinel named a primary."""
        return bool(self._answers)

    def conclude(self) -> Address:
        """Return the primary's address.

        The highest epoch wins. Answers that are all older than the last round's hold only if they are those of most
        Sentinels, which have been set up anew then; a minority has been cut off from the others.

        Raises:
            StoreUnavailable: No Sentinel named a primary; with the service and the reason of each.
        """
        tracker = self._tracker
        if not self._answers:
            reasons = "; ".join(f"{tracker.sentinels[each]}: {self._problems[each]}" for each in sorted(self._problems))
            raise StoreUnavailable(f"no Sentinel names a primary of the service {tracker.service!r} ({reasons})")
        tracker.order = tuple(sorted(tracker.order, key=lambda each: each not in self._answers))
        last = tracker.primary
        newest = max(self._answers.values(), key=lambda each: (each.epoch, each == last))
        if last is not None and newest.epoch < last.epoch and 2 * len(self._answers) <= len(tracker.sentinels):
            newest = last
        self.is_moved = last is not None and last.address != newest.address
        tracker.primary = newest
        host, port = newest.address
        return tracker.forced_host or host, port
