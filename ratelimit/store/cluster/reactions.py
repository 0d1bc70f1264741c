"""What is done about a node's error reply, or where there is no reply: the one table. No I/O.

A redirection says that nothing was carried out: the command goes to the node that it names, within the deadline of its
caller. All else ends as it does with one server, and the topology is refreshed where that may have changed.
"""

from __future__ import annotations

from typing import NamedTuple

from ratelimit.store.addresses import Address

MAX_ATTEMPTS = 16
"""How often a command is sent that was not carried out."""
_FREE_ATTEMPTS = 2
_LEAST_PAUSE_S, _LONGEST_PAUSE_S = 0.001, 0.05

NOT_SENT = "not sent"
UNANSWERED = "unanswered"
"""Beside the codes of error replies: the connection failed, before anything was sent or after."""


class Reaction(NamedTuple):
    """What is done.

    Attributes:
        is_repeated: Whether the command is sent again, as it was certainly not carried out; else it fails.
        address: The node that a redirection names; None: to the owner of the slot.
        needs_another: Whether it is sent again only if the slot has another owner by now, and else fails.
        is_asking: Whether ASKING goes before it: the slot is being moved to that node.
        is_moved: Whether that node owns the slot from now on.
        refreshes: Whether the topology is refreshed.
    """

    is_repeated: bool = False
    address: Address | None = None
    needs_another: bool = False
    is_asking: bool = False
    is_moved: bool = False
    refreshes: bool = False

    @property
    def is_redirected(self) -> bool:
        """Whether it goes to another node than before."""
        return self.address is not None or self.needs_another


FAIL = Reaction()
REFRESH_AND_FAIL = Reaction(refreshes=True)
REPEAT = Reaction(is_repeated=True)
IF_ANOTHER_OWNS = Reaction(is_repeated=True, needs_another=True, refreshes=True)

TABLE = {
    # Another node owns the slot; or it is being moved there, and this key, if there is one, is there already.
    "MOVED": Reaction(is_repeated=True, is_moved=True, refreshes=True),
    "ASK": Reaction(is_repeated=True, is_asking=True),
    # Of several keys of a slot that is being moved, some are there already: soon all will be.
    "TRYAGAIN": REPEAT,
    # The slot has no owner, or the node sees too few others: a failover may be under way. Or it has left the cluster.
    "CLUSTERDOWN": IF_ANOTHER_OWNS,
    # The node became a replica; or it is one, and its primary is gone.
    "READONLY": IF_ANOTHER_OWNS,
    "MASTERDOWN": IF_ANOTHER_OWNS,
    # It has just started: a replica may have taken its place.
    "LOADING": IF_ANOTHER_OWNS,
    NOT_SENT: IF_ANOTHER_OWNS,
    UNANSWERED: REFRESH_AND_FAIL,
}
"""By the code of an error reply. After any other the command fails, and the topology has not changed."""


def reaction_to(code: str, message: str, node: Address) -> Reaction:
    """Return what is done about an error.

    Args:
        code: The first word of an error reply, `NOT_SENT` or `UNANSWERED`.
        message: Its words, with or without the code: those of a redirection name slot and address.
        node: The node that replied.
    """
    reaction = TABLE.get(code, FAIL)
    if not (reaction.is_moved or reaction.is_asking):
        return reaction
    address = _named_address(message, node)
    return REFRESH_AND_FAIL if address is None else reaction._replace(address=address)


def _named_address(message: str, node: Address) -> Address | None:
    """Return the address at the end of "MOVED 3999 127.0.0.1:6381"; without a host, that of the node that replied."""
    host, colon, port = message.rpartition(" ")[2].rpartition(":")
    if not (colon and port.isascii() and port.isdigit()):
        return None
    return node[0] if host in ("", "?") else host, int(port)


def pause_s(attempt: int, *, is_redirected: bool) -> float:
    """Return for how long to wait before a command is sent again.

    Args:
        attempt: How often it was sent.
        is_redirected: Whether it goes to another node: it is redirected to and fro only as long as nodes disagree.
    """
    extra = attempt - (_FREE_ATTEMPTS if is_redirected else 0)
    return min(_LEAST_PAUSE_S * 2 ** (extra - 1), _LONGEST_PAUSE_S) if extra > 0 else 0.0
