"""Which node owns which slot, by CLUSTER SLOTS, and when to refresh that. No I/O; callers pass the time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from math import inf
from typing import Any

from ratelimit.effects import info_fields, no_owner_of_slots
from ratelimit.errors import StoreUnavailable
from ratelimit.scripts import Command
from ratelimit.store.addresses import Address, name_of
from ratelimit.store.breaker import BreakerState
from ratelimit.store.cluster.slots import SLOTS

QUERIES: Sequence[Command] = (("CLUSTER", "SLOTS"), ("CLUSTER", "INFO"))
"""What is sent to a node. All versions have CLUSTER SLOTS; the epoch of CLUSTER INFO orders the replies of nodes."""

TIMEOUT_S = 0.5
"""How long a node may take to connect, and to reply, before the next one is sent the queries."""
PATIENCE_S = 2.0
"""How long if none has replied within that: they may be far away, with TLS, or their names may resolve slowly."""

REQUESTED_INTERVAL_S = 0.1
UNREACHABLE_INTERVAL_S = 0.25
INTERVAL_S = 5.0
"""How long from one refresh to the next: if it was requested; while a primary does not reply; otherwise."""

FRESH_S = 1.0
"""For so long after a refresh nobody whose slot has no owner waits for another one: it would give the same. So long
after its last failure a node that replies fails anew. And for no longer than that do callers wait for any refresh."""

_SHOWN_RANGES = 3

Remap = Callable[[Address], Address]
"""Gives the address at which to reach a node, where the cluster reports another one."""


@dataclass(frozen=True, slots=True)
class Topology:
    """The nodes of a cluster and the slots that they own, as one node reports them.

    Attributes:
        epoch: Of the configuration; each failover and each moved slot raises it. 0 if the user may not read it.
        primaries: Addresses of the nodes that own slots.
        replicas: Addresses of the others that CLUSTER SLOTS names.
        owner: By slot: the node that owns it, None if none does.
        is_complete: Whether every slot has an owner.
        has_failed: Whether the node reports that the cluster is down. It may be cut off, while the others go on.
    """

    epoch: int
    primaries: tuple[Address, ...]
    replicas: tuple[Address, ...]
    owner: list[Address | None] = field(repr=False)
    is_complete: bool
    has_failed: bool = False

    @classmethod
    def from_slots(cls, reply: Any, node: Address, info: Any = None, remap: Remap | None = None) -> Topology:
        """Return the topology that a node reports.

        Args:
            reply: To CLUSTER SLOTS.
            node: The address of the node that replied: it need not know by which name it is reached.
            info: The reply to CLUSTER INFO.
            remap: As of `ClusterClient`.

        Raises:
            StoreUnavailable: The reply is no list of slots.
        """
        owner: list[Address | None] = [None] * SLOTS
        replicas = set[Address]()
        try:
            for start, end, primary, *others in reply:
                slots = range(SLOTS)[int(start) : int(end) + 1]
                owner[slots[0] : slots[-1] + 1] = [_address(primary, node, remap)] * len(slots)
                replicas.update(_address(other, node, remap) for other in others)
        except (ValueError, TypeError, AttributeError, IndexError):
            raise StoreUnavailable(
                f"the node {name_of(node)} answered CLUSTER SLOTS with what is no list of slots"
            ) from None
        owners = set(owner)
        primaries = {address for address in owners if address is not None}
        info_values = _info_values(info)
        epoch, has_failed = info_values.get("cluster_current_epoch", "0"), info_values.get("cluster_state") == "fail"
        return cls(
            int(epoch) if epoch.isdigit() else 0,
            tuple(sorted(primaries)),
            tuple(sorted(replicas - primaries)),
            owner,
            None not in owners,
            has_failed,
        )

    def problem(self) -> StoreUnavailable | None:
        """Return what keeps the cluster from serving all keys, with the remedy; None if nothing does."""
        if not self.primaries:
            return no_owner_of_slots()
        if self.is_complete:
            return None
        missing = [slot for slot, owner in enumerate(self.owner) if owner is None]
        return StoreUnavailable(
            f"{len(missing)} of the cluster's {SLOTS} slots have no primary ({_shown(missing)}): start the node that "
            "had them, or assign them (`redis-cli --cluster fix`)",
            cause="refused",
        )

    def with_owner(self, slot: int, address: Address) -> Topology:
        """Return the same with another owner of one slot, as a MOVED redirection names it."""
        owner = self.owner.copy()
        owner[slot] = address
        primaries = tuple(sorted({*self.primaries, address}))
        replicas = tuple(each for each in self.replicas if each != address)
        is_complete = self.is_complete or None not in owner
        return replace(self, primaries=primaries, replicas=replicas, owner=owner, is_complete=is_complete)


def no_primary(name: str) -> StoreUnavailable:
    """Return the error for commands to a node that is no primary of the cluster."""
    return StoreUnavailable(f"{name} is no primary of the cluster, or no longer", cause="refused")


def _address(entry: Any, node: Address, remap: Remap | None) -> Address:
    host, port = entry[0], int(entry[1])
    host = host.decode() if isinstance(host, bytes) else host
    # A node that does not know its own name leaves it out, "?" if it has none: it is where the queries were sent.
    address = (node[0] if host in (None, "", "?") else str(host), port)
    return address if remap is None else remap(address)


def _info_values(info: Any) -> dict[str, str]:
    """Return the fields of CLUSTER INFO; none if the user may not read it."""
    text = info.decode(errors="replace") if isinstance(info, bytes) else info
    return info_fields(text) if isinstance(text, str) else {}


def _shown(slots: Sequence[int]) -> str:
    """Return slots as ranges, the first few of them."""
    runs = [[slot for _, slot in run] for _, run in groupby(enumerate(slots), lambda pair: pair[1] - pair[0])]
    shown = [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs[:_SHOWN_RANGES]]
    return ", ".join(shown + ["..."] * (len(runs) > _SHOWN_RANGES))


class RefreshSchedule:
    """When to refresh the topology: once for all who request it. All times are seconds of a monotonic clock.

    Attributes:
        last_began_s: When the last refresh began that has ended; `-inf` if none has.
    """

    __slots__ = ("_began_s", "_is_requested", "_is_urgent", "last_began_s")

    def __init__(self) -> None:
        self._is_requested = True
        self._is_urgent = False
        self._began_s = self.last_began_s = -inf

    def request(self, *, is_urgent: bool = False) -> bool:
        """Note that the topology may have changed.

        Args:
            is_urgent: Whether to refresh it at once, however short a time ago that was done.

        Returns:
            Whether nobody else has requested a refresh yet, or none that is urgent: it is due sooner than before.
        """
        is_sooner = not self._is_requested or (is_urgent and not self._is_urgent)
        self._is_requested, self._is_urgent = True, self._is_urgent or is_urgent
        return is_sooner

    def begin(self, now_s: float) -> None:
        """Note that a refresh begins: a request that comes from now on is for another one."""
        self._began_s = now_s
        self._is_requested = self._is_urgent = False

    def end(self) -> None:
        """Note that the refresh has ended, with a topology or without."""
        self.last_began_s = self._began_s

    def due_in_s(self, now_s: float, *, is_unreachable: bool) -> float:
        """Return in how many seconds to refresh; 0 or less: now.

        Args:
            now_s: What time it is.
            is_unreachable: Whether a primary does not reply: a replica may take its place at any moment.
        """
        if self._is_urgent:
            return 0.0
        usual_s = UNREACHABLE_INTERVAL_S if is_unreachable else INTERVAL_S
        return self._began_s + (REQUESTED_INTERVAL_S if self._is_requested else usual_s) - now_s


class NodeFailures:
    """Whether a refresh may name another node in the place of one that does not carry out commands.

    It may until one has ended that began after the node began to fail: what was reported before says nothing about
    that. If it still names the node, callers fail at once: they do not wait as long as the node is away.
    """

    __slots__ = ("_first_s", "_last_s", "_openings")

    def __init__(self) -> None:
        self._first_s = self._last_s = -inf
        self._openings = 0

    def note(self, now_s: float, breaker: BreakerState) -> bool:
        """Note that the node did not carry a command out.

        Args:
            now_s: What time it is.
            breaker: The state of the node's breaker.

        Returns:
            Whether it begins to fail: the topology is to be refreshed at once.
        """
        is_first = breaker.openings != self._openings or not (breaker.is_open or now_s < self._last_s + FRESH_S)
        if is_first:
            self._first_s, self._openings = now_s, breaker.openings
        self._last_s = now_s
        return is_first

    def is_refresh_awaited(self, now_s: float, schedule: RefreshSchedule) -> bool:
        """Return whether callers of the node wait for a refresh."""
        return schedule.last_began_s < self._first_s and now_s < self._first_s + FRESH_S


class RefreshRound:
    """One refresh: nodes are sent the queries one after the other, until the topology is certain.

    A node that has left the cluster reports no slots. One that is cut off from the others reports that the cluster is
    down; one that has not been informed yet who owns a slot that moved reports no owner of it. So may all nodes, if it
    is so: then a second one is sent the queries, no more, as many processes may do so at once.

    Args:
        last: The topology of the last refresh.

    Attributes:
        best: The newest topology that was reported, of a node that is no worse than any other; None without any.
    """

    __slots__ = ("_doubtful_count", "_errors", "_last", "best")

    def __init__(self, last: Topology | None) -> None:
        self._last = last
        self._doubtful_count = 0
        self._errors = dict[Address, StoreUnavailable]()
        self.best: Topology | None = None

    def add(self, topology: Topology) -> bool:
        """Take what one more node reports; return whether no other node has to be sent the queries."""
        if self.best is None or _rank(topology) > _rank(self.best):
            self.best = topology
        if not topology.primaries or (self._last is not None and topology.epoch < self._last.epoch):
            return False
        self._doubtful_count += _is_doubtful(topology)
        return not _is_doubtful(topology) or (self._doubtful_count > 1 and _is_doubtful(self.best))

    def fail(self, node: Address, error: StoreUnavailable) -> None:
        """Note that a node reported no topology, and why."""
        self._errors[node] = error

    def failure(self) -> StoreUnavailable:
        """Return why no node reported a topology, with the reason of each."""
        reasons = "; ".join(f"{name_of(node)}: {error}" for node, error in self._errors.items())
        causes = (error.cause for error in self._errors.values() if error.cause != "not_sent")
        return StoreUnavailable(f"no node of the cluster reports its slots ({reasons})", cause=next(causes, None))


def _is_doubtful(topology: Topology) -> bool:
    return topology.has_failed or not topology.is_complete


def _rank(topology: Topology) -> tuple[bool, bool, bool, int]:
    return bool(topology.primaries), not topology.has_failed, topology.is_complete, topology.epoch
