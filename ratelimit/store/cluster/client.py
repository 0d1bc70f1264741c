"""How to connect to a cluster: of a client that is passed in, neither connections nor retries nor topology are used."""

from __future__ import annotations

from typing import Any, Self

from ratelimit.store.addresses import Address
from ratelimit.store.cluster.topology import Remap


class ClusterClient:
    """How to connect to the nodes of a cluster, and where to begin. It has no connection, and so nothing to close.

    Attributes:
        connection_pool: Says how to connect to a node: user, password, TLS, time limits. It makes no connection.
        start_nodes: The nodes that the first topology is read from.
        remap: Gives the address at which to reach a node, where the cluster reports another one; None: as reported.
    """

    def __init__(
        self,
        connection_pool: Any,
        start_nodes: tuple[Address, ...],
        remap: Remap | None = None,
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
