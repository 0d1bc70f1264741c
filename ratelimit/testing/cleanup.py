"""Leaves nothing behind on a server that others use."""

from __future__ import annotations

from typing import Any


def delete_namespace(client: Any, namespace: str) -> None:
    """Delete all that a namespace holds on the server of a client; no other key. On a cluster: on one primary.

    It walks over all keys of the database (SCAN), which blocks nobody.
    """
    # Of the catalogue, and of keys and shared limits: registry/redis_keys.py.
    for pattern in (f"{{{namespace}}}:*", f"{namespace}:*"):
        for name in client.scan_iter(match=pattern, count=1000):
            client.unlink(name)
