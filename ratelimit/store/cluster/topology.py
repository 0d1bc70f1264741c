"""Which node owns which slot: what CLUSTER SLOTS says, and when to ask again. No I/O; callers say what time it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
    """

    epoch: int
    primaries: tuple[Address, ...]
    replicas: tuple[Address, ...]
    owner: list[Address | None] = field(repr=False)

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
        return cls(_epoch(info), tuple(sorted(primaries)), tuple(sorted(replicas - primaries)), owner)

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
        return Topology(self.epoch, primaries, tuple(each for each in self.replicas if each != address), owner)


def _address(entry: Any, node: Address, remap: Callable[[Address], Address] | None) -> Address:
    host, port = entry[0], int(entry[1])
    host = host.decode() if isinstance(host, bytes) else host
    # A node that does not know its own name leaves it out, "?" if it has none: it is where it was asked.
    address = (node[0] if host in (None, "", "?") else str(host), port)
    return address if remap is None else remap(address)


def _epoch(info: Any) -> int:
    text = info.decode(errors="replace") if isinstance(info, bytes) else info
    epoch = info_fields(text).get("cluster_current_epoch", "0") if isinstance(text, str) else "0"
    return int(epoch) if epoch.isdigit() else 0


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


def is_newer(topology: Topology, last: Topology | None) -> bool:
    """Return whether a node's view is no older than the last one."""
    return last is None or topology.epoch >= last.epoch
