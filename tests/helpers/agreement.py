"""What stands in Redis of the keys of a namespace, read where it lies: whether all of it agrees."""

import json
from collections import defaultdict

NAMESPACE = "ratelimit"


def _texts(values):
    return [value.decode() if isinstance(value, bytes) else value for value in values]


class _Contents:
    """All that a namespace holds of keys."""

    def __init__(self, client, namespace):
        self.client, self.start, self.end = client, f"{namespace}:{{", "}:record"
        names = set(_texts(client.scan_iter(match=f"*{namespace}*", count=1000)))
        texts = {name[len(self.start) : -len(self.end)]: client.get(name) for name in names if name.endswith(self.end)}
        self.records = {key_id: json.loads(text) for key_id, text in texts.items()}
        self.live = {key_id: record for key_id, record in self.records.items() if not record.get("state")}
        self.dead = {key_id: record for key_id, record in self.records.items() if record.get("state")}
        self.listed = set(_texts(client.zrange(f"{{{namespace}}}:keys", 0, -1)))
        self.sets = defaultdict(set)
        for name in names:
            if name.startswith(f"{{{namespace}}}:plan:") and name.endswith(":keys"):
                self.sets[name.split(":")[2]] = set(_texts(client.smembers(name)))
        self.claims = {
            name.rpartition(":")[2]: _texts([client.get(name)])[0].partition(":")[0]
            for name in names
            if name.startswith(f"{namespace}:digest:")
        }
        self.intents = _texts(client.hkeys(f"{{{namespace}}}:intents"))

    def of_dead(self):
        for key_id, record in self.dead.items():
            if record["state"] == "draft":
                yield f"draft {key_id}"
            elif self.client.ttl(f"{self.start}{key_id}{self.end}") < 0:
                yield f"tombstone {key_id} for ever"
            if self.client.exists(f"{self.start}{key_id}}}"):
                yield f"counts of {key_id}, which is dead"

    def of_live(self):
        for key_id, record in self.live.items():
            if self.client.ttl(f"{self.start}{key_id}{self.end}") >= 0:
                yield f"key {key_id} expires"
            token = _texts([self.client.hget(f"{self.start}{key_id}}}", "r")])[0]
            if token is None or token[18:] != record["stamp"]:
                yield f"stamp of {key_id}"
            if key_id not in self.listed:
                yield f"{key_id} is not listed"
            for plan in record["plans"]:
                if key_id not in self.sets[plan]:
                    yield f"{key_id} is not in the set of {plan}"
            for digest, until_us in record["digests"].items():
                if (until_us != 1) != (self.claims.get(digest) == key_id):
                    yield f"{key_id} has a value that opens nothing, or has not its value"

    def of_catalogue_and_index(self):
        yield from (f"intent of {key_id}" for key_id in self.intents)
        yield from (f"{key_id} is listed, and no key" for key_id in self.listed - self.live.keys())
        for plan, members in self.sets.items():
            yield from (f"{key_id} is in the set of {plan}" for key_id in members if plan not in self._plans(key_id))
        for digest, key_id in self.claims.items():
            if digest not in self.live.get(key_id, {}).get("digests", {}):
                yield f"a dead claim of {key_id}"

    def _plans(self, key_id):
        return self.live[key_id]["plans"] if key_id in self.live else ()


def disagreements(client, namespace=NAMESPACE):
    """What is half done, or would be mistaken, each as a text; `client` is of a server, or of a cluster."""
    held = _Contents(client, namespace)
    return [*held.of_dead(), *held.of_live(), *held.of_catalogue_and_index()]


def contents(client, namespace=NAMESPACE):
    """What keys there are, without ids, stamps and tokens: the same for two histories with one result."""
    names = _texts(client.scan_iter(match=f"{namespace}:{{*}}:record", count=1000))
    records = [json.loads(client.get(name)) for name in names]
    return sorted(
        (sorted(record["digests"].items()), record["name"], record["enabled"], record["plans"], record["description"])
        for record in records
        if not record.get("state")
    )
