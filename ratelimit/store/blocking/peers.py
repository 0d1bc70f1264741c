"""Asks servers beside the primary, over blocking connections of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from ratelimit.admin.doctor.read import Peer, PeerReply
from ratelimit.errors import StoreError
from ratelimit.store import peers
from ratelimit.store.blocking.connection import open_connection
from ratelimit.store.blocking.wait import Wait


def ask(pool: Any, to_ask: Sequence[Peer]) -> dict[Peer, PeerReply | StoreError]:
    """Return what each peer answered, or why it could not be asked."""
    return {peer: _ask(pool, peer) for peer in to_ask}


def _ask(pool: Any, peer: Peer) -> PeerReply | StoreError:
    exchange = peers.Exchange(peer)
    try:
        connection = open_connection(*peers.way_to(pool, peer), peers.TIMEOUT_S)
        with contextlib.closing(connection):
            exchange.begin()
            for packet, count in exchange.packets:
                exchange.add(connection.execute(packet, count, Wait(peers.TIMEOUT_S)))
    except Exception as error:  # noqa: BLE001 - whatever its client's own way of connecting raises
        return peers.failure(error)
    return exchange.reply()
