"""Everything that a server holds, to compare before and after."""

from redis.exceptions import ResponseError

_READ = {
    b"string": lambda client, key: client.get(key),
    b"hash": lambda client, key: client.hgetall(key),
    b"set": lambda client, key: client.smembers(key),
    b"zset": lambda client, key: client.zrange(key, 0, -1, withscores=True),
    b"list": lambda client, key: client.lrange(key, 0, -1),
    b"stream": lambda client, key: client.xrange(key),
}


_DENIALS = b"ratelimit:denials:"
_REPLICAS = b"}:replicas"
"""How the names end of the processes that live, in any namespace: each limiter writes it in its own time."""


def snapshot(client):
    """Return each key's type, value and expiry in milliseconds (-1 for none). For clients that do not decode.

    Without the processes that live, which say so in their own time.
    """
    return _read(client, names_in(client))


def snapshot_without_denials(client):
    """As `snapshot`, without the sums of denials, which clients add in their own time."""
    return _read(client, _names_without_denials(client))


def names_in(client):
    """Return the names of all that is there, without the processes that live."""
    return sorted(key for key in client.keys("*") if not key.endswith(_REPLICAS))


def _names_without_denials(client):
    return [key for key in names_in(client) if not key.startswith(_DENIALS)]


def _read(client, keys):
    # No DUMP: that of a large hash may change by being read.
    with client.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.type(key).pttl(key)
        replies = pipeline.execute()
        types, expiries = replies[::2], replies[1::2]
        for key, kind in zip(keys, types, strict=True):
            _READ[kind](pipeline, key)
        values = pipeline.execute()
    return dict(zip(keys, zip(types, values, expiries, strict=True), strict=True))


def exact_snapshot(backend):
    """Return each key's DUMP and when it expires, in milliseconds since 1970; negative if it does not.

    Without the sums of denials, as `snapshot_without_denials`. Of a cluster: what all of its primaries hold.
    """
    held = {}
    for server in getattr(backend, "primaries", [backend]):
        with server.client() as client:
            keys = _names_without_denials(client)
            held |= {key: (_content(client, key), _expires_ms(client, key)) for key in keys}
    return held


def _content(client, key):
    # The DUMP of a hash as large as the catalogue has an order, which reading it may change.
    return client.hgetall(key) if key == b"{ratelimit}:catalog" else client.dump(key)


def _expires_ms(client, key):
    try:
        return client.pexpiretime(key)
    except ResponseError:
        pass  # Redis 6.2 says only what is left
    while True:
        with client.pipeline() as pipeline:
            before, left, after = pipeline.time().pttl(key).time().execute()
        millisecond = before[0] * 1000 + before[1] // 1000
        if millisecond == after[0] * 1000 + after[1] // 1000:  # then it is exact
            return left if left < 0 else millisecond + left
