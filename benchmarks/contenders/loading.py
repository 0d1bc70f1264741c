"""Many API keys, fast: written as the catalogue writes them (lua/PROTOCOL.md), a thousand at a time.

`Catalog.create_key` guards each key against other writers. A benchmark that needs a million keys is the only writer on
its server, so nothing has to be guarded.
"""

import time
from itertools import count

from ratelimit.effects import text
from ratelimit.registry import plan_documents
from ratelimit.registry.key_record import KeyRecord
from ratelimit.registry.key_values import Digester
from ratelimit.registry.redis_keys import RedisKeys

AT_ONCE = 1000


def value(number, batch=""):
    """The value of a key, from its number: no list of values is needed."""
    return f"rl_bench_{batch}_{number:020}"


def load_plans(client, namespace, plans):
    """Write plans into a catalogue that exists, as one change: each `put_plan` would read all of them."""
    names = RedisKeys(namespace)
    with client.pipeline(transaction=True) as pipe:
        pipe.hset(names.catalog, mapping={f"plan:{plan.id}": plan_documents.plan_json(plan) for plan in plans})
        pipe.hincrby(names.catalog, "version", 1)
        pipe.execute()


def load_keys(client, namespace, keys, plan_of, batch="", progress=None):
    """Write `keys` keys with the values `value(0, batch)` and so on; `plan_of` maps a number to its plan."""
    names, digest = RedisKeys(namespace), Digester(None)
    epoch, version = map(text, client.hmget(names.catalog, "epoch", "version"))
    catalog_version = f"{epoch:8}{int(version):010}"
    created_us, first = time.time_ns() // 1000, client.zcard(names.keys)
    for start in range(0, keys, AT_ONCE):
        numbers = range(start, min(keys, start + AT_ONCE))
        strings, members, joined = {}, {}, {}
        with client.pipeline(transaction=False) as pipe:
            for number in numbers:
                key_id, plan, stamp = f"{first + number:010}", plan_of(number), f"{number % 10**8:08}"
                key_digest = digest(value(number, batch))
                record = KeyRecord(key_id, "", True, (plan,), {key_digest: 0}, created_us, 0, stamp)  # noqa: FBT003
                strings[names.key_record(key_id)] = record.json()
                strings[names.digest(key_digest)] = f"{key_id}:{stamp}"
                members[key_id] = created_us
                joined.setdefault(plan, []).append(key_id)
                pipe.hset(names.key_hash(key_id), "r", catalog_version + stamp)
            pipe.mset(strings)
            pipe.zadd(names.keys, members)
            for plan, ids in joined.items():
                pipe.sadd(names.plan_keys(plan), *ids)
            pipe.hincrby(names.catalog, "members", len(numbers))
            pipe.execute()
        if progress:
            progress(len(numbers))


_batches = count()


def new_batch():
    """A name that no other batch of this process has."""
    return f"{next(_batches):04}"
