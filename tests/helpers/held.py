"""All that a server holds, to compare before and after."""

_READ = {
    b"string": lambda client, key: client.get(key),
    b"hash": lambda client, key: client.hgetall(key),
    b"set": lambda client, key: client.smembers(key),
    b"zset": lambda client, key: client.zrange(key, 0, -1, withscores=True),
    b"stream": lambda client, key: client.xrange(key),
}


def held(client):
    """Each key with its value and its expiry in milliseconds, -1 for none. For clients that do not decode."""
    return {key: (_READ[client.type(key)](client, key), client.pttl(key)) for key in client.keys("*")}
