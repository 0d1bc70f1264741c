"""A cluster as a client names it: of the client, neither connections nor retries nor topology are used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from ratelimit.store.cluster.topology import Address


class ClusterClient:
    """How to connect to the nodes of a cluster, and where to begin. It has no connection, and so nothing to close.

    Attributes:
        connection_pool: Says how to connect to a node: user, password, TLS, time limits. It makes no connection.
        start_nodes: The nodes that are known before any was asked.
        remap: Gives the address at which to reach a node, where the cluster tells another; None: as it tells.
    """

    def __init__(
        self,
        connection_pool: Any,
        start_nodes: tuple[Address, ...],
        remap: Callable[[Address], Address] | None = None,
    ) -> None:
        self.connection_pool = connection_pool
        self.start_nodes = start_nodes
        self.remap = remap

    def close(self) -> None:
        """Do nothing, as clients of one server close their pool here."""

    async def aclose(self) -> None:
        """The same for asyncio."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
