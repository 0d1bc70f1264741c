"""Many API keys, quickly: written as the catalogue writes them (lua/PROTOCOL.md), a thousand at a time.

`Catalog.create_key` asks and guards for each key; where a benchmark needs a million of them on a server of its own,
nobody else writes, and nothing has to be guarded.
"""

import time
from itertools import count

from ratelimit.core import document
from ratelimit.core.digest import Digester
from ratelimit.core.flow import text
from ratelimit.core.names import Names
from ratelimit.core.records import KeyRecord

AT_ONCE = 1000


def value(number, batch=""):
    """The value of a key, from its number: nothing has to be remembered."""
    return f"rl_bench_{batch}_{number:020}"


def load_plans(client, namespace, plans):
    """Write plans into a catalogue that is there already, as one change: each `put_plan` would read all of them."""
    names = Names(namespace)
    with client.pipeline(transaction=True) as pipe:
        pipe.hset(names.catalog, mapping={f"plan:{plan.id}": document.plan_json(plan) for plan in plans})
        pipe.hincrby(names.catalog, "version", 1)
        pipe.execute()


def load_keys(client, namespace, keys, plan_of, batch="", progress=None):
    """Write `keys` keys with the values `value(0, batch)` and so on; `plan_of` tells the plan of each number."""
    names, digest = Names(namespace), Digester(None)
    epoch, version = map(text, client.hmget(names.catalog, "epoch", "version"))
    book = f"{epoch:8}{int(version):010}"
    created_us, first = time.time_ns() // 1000, client.zcard(names.keys)
    for start in range(0, keys, AT_ONCE):
        numbers = range(start, min(keys, start + AT_ONCE))
        strings, members, joined = {}, {}, {}
        with client.pipeline(transaction=False) as pipe:
            for number in numbers:
                key_id, plan, stamp = f"{first + number:010}", plan_of(number), f"{number % 10**8:08}"
                its_digest = digest(value(number, batch))
                record = KeyRecord(key_id, "", True, (plan,), {its_digest: 0}, created_us, 0, stamp)  # noqa: FBT003
                strings[names.key_record(key_id)] = record.json()
                strings[names.digest(its_digest)] = f"{key_id}:{stamp}"
                members[key_id] = created_us
                joined.setdefault(plan, []).append(key_id)
                pipe.hset(names.key_hash(key_id), "r", book + stamp)
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
