"""Requests over plain sockets: HTTP/1.1, connections that stay open, no library."""

import asyncio
from collections import Counter


async def _statuses(port, request, numbers, counts):
    """Send one request after the other, on one connection for as long as the server leaves it open."""
    reader = writer = None
    for _ in numbers:
        if writer is None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        counts[int(head.split(None, 2)[1])] += 1
        if b"transfer-encoding: chunked" in head:
            await reader.readuntil(b"\r\n0\r\n\r\n")
        else:
            _, _, length = head.partition(b"content-length:")
            await reader.readexactly(int(length.split(b"\r\n", 1)[0]))
        if b"connection: close" in head:
            writer.close()
            await writer.wait_closed()
            writer = None
    if writer is not None:
        writer.close()
        await writer.wait_closed()


async def statuses(port, path, key, requests, concurrency):
    """Return how often each status came."""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nx-api-key: {key}\r\n\r\n".encode()
    counts, numbers = Counter(), iter(range(requests))
    await asyncio.gather(*(_statuses(port, request, numbers, counts) for _ in range(concurrency)))
    return counts
