"""Which node owns which slot: what CLUSTER SLOTS says, and when to ask again. No I/O; callers say what time it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from math import inf
from typing import Any

from ratelimit.effects import info_fields
from ratelimit.errors import StoreUnavailable
from ratelimit.scripts import Command
from ratelimit.store.cluster.slots import SLOTS

Address = tuple[str, int]

QUERIES: Sequence[Command] = (("CLUSTER", "SLOTS"), ("CLUSTER", "INFO"))
"""What a node is asked. All versions know CLUSTER SLOTS; the epoch beside it tells an older view from a newer one."""

TIMEOUT_S = 0.5
"""How long a node may take to connect, and to answer, before another is asked."""
PATIENCE_S = 2.0
"""How long if none has answered within that: they may be far away, with TLS, or their names may resolve slowly."""
DOUBTED_INTERVAL_S = 0.1
SILENT_INTERVAL_S = 0.25
INTERVAL_S = 5.0
"""How often to ask: while something said that the topology changed; while a primary does not answer; otherwise."""

FRESH_S = 1.0
"""Within so much time after nodes were asked nobody waits for them to be asked again: an answer would be the same."""

_SHOWN_RANGES = 3


def name_of(address: Address) -> str:
    """Return an address as `Primaries` gives it."""
    return f"{address[0]}:{address[1]}"


@dataclass(frozen=True, slots=True)
class Topology:
    """The nodes of a cluster as one of them knows them.

    Attributes:
        epoch: Of its configuration; each failover and each moved slot raises it. 0 if the user may not read it.
        primaries: Addresses of the nodes that own slots.
        replicas: Addresses of the others that CLUSTER SLOTS names.
        owner: By slot: the node that owns it, None if nobody does.
        has_failed: Whether that node says that the cluster is down. It may itself be cut off, while the others go on.
    """

    epoch: int
    primaries: tuple[Address, ...]
    replicas: tuple[Address, ...]
    owner: list[Address | None] = field(repr=False)
    has_failed: bool = False

    @classmethod
    def from_slots(
        cls,
        reply: Any,
        node: Address,
        info: Any = None,
        remap: Callable[[Address], Address] | None = None,
    ) -> Topology:
        """Return the topology that a node told.

        Args:
            reply: To CLUSTER SLOTS.
            node: The address of the node that was asked: it need not know by which name it is reached.
            info: The reply to CLUSTER INFO.
            remap: Gives the address at which to reach a node, where the cluster tells another.

        Raises:
            StoreUnavailable: The reply is none that can be understood.
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
        primaries = {address for address in owner if address is not None}
        info_values = _info_values(info)
        epoch, has_failed = info_values.get("cluster_current_epoch", "0"), info_values.get("cluster_state") == "fail"
        return cls(
            int(epoch) if epoch.isdigit() else 0,
            tuple(sorted(primaries)),
            tuple(sorted(replicas - primaries)),
            owner,
            has_failed,
        )

    def problem(self) -> str | None:
        """Return what keeps the cluster from serving all keys, with the remedy; None if nothing does."""
        if not self.primaries:
            return (
                "no node of the cluster owns slots: is it a node that has not joined yet, or left? Create the cluster "
                "(`redis-cli --cluster create`), or name a node of it"
            )
        missing = [slot for slot, owner in enumerate(self.owner) if owner is None]
        if not missing:
            return None
        return (
            f"{len(missing)} of the cluster's {SLOTS} slots have no primary ({_shown(missing)}): start the node that "
            "had them, or assign them (`redis-cli --cluster fix`)"
        )

    def with_owner(self, slot: int, address: Address) -> Topology:
        """Return the same with another owner of one slot, as a node told it who had to know."""
        owner = self.owner.copy()
        owner[slot] = address
        primaries = tuple(sorted({*self.primaries, address}))
        replicas = tuple(each for each in self.replicas if each != address)
        return replace(self, primaries=primaries, replicas=replicas, owner=owner)


def _address(entry: Any, node: Address, remap: Callable[[Address], Address] | None) -> Address:
    host, port = entry[0], int(entry[1])
    host = host.decode() if isinstance(host, bytes) else host
    # A node that does not know its own name leaves it out, "?" if it has none: it is where it was asked.
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


class Refresh:
    """When to ask for the topology: once for all who doubt it. All times are seconds of a monotonic clock."""

    __slots__ = ("_began_s", "is_doubted")

    def __init__(self) -> None:
        self.is_doubted = True
        self._began_s = -inf

    def doubt(self) -> bool:
        """Note that the topology may have changed; return whether nobody has said so yet."""
        is_news, self.is_doubted = not self.is_doubted, True
        return is_news

    def begin(self, now_s: float) -> None:
        """Note that nodes are asked now: whoever doubts the topology from now on has another one asked for."""
        self._began_s = now_s
        self.is_doubted = False

    def due_in_s(self, now_s: float, *, is_silent: bool) -> float:
        """Return in how many seconds to ask; 0 or less: now.

        Args:
            now_s: What time it is.
            is_silent: Whether a primary does not answer, whose place another may take at any moment.
        """
        usual_s = SILENT_INTERVAL_S if is_silent else INTERVAL_S
        return self._began_s + (DOUBTED_INTERVAL_S if self.is_doubted else usual_s) - now_s


class Views:
    """What the nodes tell that are asked one after the other, and whether to ask one more.

    A node that has left the cluster owns no slots. One that is cut off from the others says that the cluster is down,
    and so do all where it is: then a second one is asked, no more, as many processes may do so at once.

    Args:
        last: The topology as it was told before.

    Attributes:
        best: The first of those that no other was better than; None as long as nobody told any.
    """

    __slots__ = ("_last", "_of_failure", "best")

    def __init__(self, last: Topology | None) -> None:
        self._last = last
        self._of_failure = 0
        self.best: Topology | None = None

    def take(self, topology: Topology) -> bool:
        """Take the view of one more node; return whether to ask no other."""
        if self.best is None or _worth(topology) > _worth(self.best):
            self.best = topology
        if not topology.primaries or (self._last is not None and topology.epoch < self._last.epoch):
            return False
        self._of_failure += topology.has_failed
        return not topology.has_failed or (self._of_failure > 1 and self.best.has_failed)


def _worth(topology: Topology) -> tuple[bool, bool, int]:
    return bool(topology.primaries), not topology.has_failed, topology.epoch
