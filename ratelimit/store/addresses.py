"""Addresses of servers, as Sentinels and nodes of a cluster report them."""

from __future__ import annotations

from collections.abc import Callable

Address = tuple[str, int]
"""Host and port."""

OnMove = Callable[[Address], None]
"""Called with the address of another server that has taken the place of the last one."""


def name_of(address: Address) -> str:
    """Return an address as a text: the name of a node of a cluster."""
    return f"{address[0]}:{address[1]}"


def address_of(name: str) -> Address:
    """Return the address that `name_of` made a name of."""
    host, _, port = name.rpartition(":")
    return host, int(port)
