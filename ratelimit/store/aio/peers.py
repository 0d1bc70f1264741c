"""Asks servers beside the primary, over asyncio connections of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ratelimit.admin.doctor.read import Peer, PeerReply
from ratelimit.errors import StoreError
from ratelimit.store import peers, redis_compat


async def ask(pool: Any, to_ask: Sequence[Peer]) -> dict[Peer, PeerReply | StoreError]:
    """Return what each peer answered, or why it could not be asked."""
    replies = await asyncio.gather(*(_ask(pool, peer) for peer in to_ask))
    return dict(zip(to_ask, replies, strict=True))


async def _ask(pool: Any, peer: Peer) -> PeerReply | StoreError:
    exchange, connection = peers.Exchange(peer), None
    try:
        its_pool, address = peers.way_to(pool, peer)
        connection = redis_compat.new_connection(its_pool, peers.TIMEOUT_S, address)
        async with asyncio.timeout(peers.TIMEOUT_S):
            await connection.connect()
        exchange.begin()
        for packet, count in exchange.packets:
            async with asyncio.timeout(peers.TIMEOUT_S):
                await connection.send_packed_command([packet], check_health=False)
                exchange.add([await redis_compat.read_reply(connection) for _ in range(count)])
    except Exception as error:  # noqa: BLE001 - whatever its client's own way of connecting raises
        return peers.failure(error)
    finally:
        if connection is not None:
            redis_compat.forget_transport(connection)
    return exchange.reply()
