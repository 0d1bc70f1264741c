"""The only place where names in Redis are spelled. lua/PROTOCOL.md lists them for other languages."""

from __future__ import annotations

from collections.abc import Iterable

from ratelimit import validation

OTHERS = "*"
"""Stands for all methods of a stage that are not listed."""


_IN_A_METHOD = str.maketrans({"%": "%25", "{": "%7B", "}": "%7D"})


class RedisKeys:
    """The names of one namespace. Ids hold no ':' and methods come last, so no two things share a name.

    On a cluster what stands in braces, the hash tag, chooses the server: the whole catalogue has one tag, each API
    key another, and no other name has one.
    """

    def __init__(self, namespace: str) -> None:
        self.namespace = validation.namespace(namespace)
        self.catalog = f"{{{namespace}}}:catalog"
        self.former_catalog = f"{namespace}:catalog"
        self.keys = f"{{{namespace}}}:keys"
        self.intents = f"{{{namespace}}}:intents"
        self.account = f"{namespace}:account"
        self.alerts = f"{namespace}:alerts"
        self.changes = f"{namespace}:changes"
        self.replicas = f"{{{namespace}}}:replicas"
        self.journal = f"{{{namespace}}}:journal"

    def key_hash(self, key_id: str) -> str:
        """Everything a check needs of one API key, or of an identity: its stamp, buckets and counts."""
        return f"{self.namespace}:{{{key_id}}}"

    def identities(self, plan_id: str, one_in: int) -> str:
        """The counted identities of a plan, one of so many, scored by when their hashes expire."""
        return f"{self.namespace}:identities:{plan_id}:{one_in}"

    def key_record(self, key_id: str) -> str:
        """What administrators and clients read about one API key, JSON."""
        return f"{self.namespace}:{{{key_id}}}:record"

    def key_days(self, key_id: str) -> str:
        """The closed days of metering of one API key."""
        return f"{self.namespace}:{{{key_id}}}:days"

    def digest(self, digest: str) -> str:
        """The id of the key with this digest."""
        return f"{self.namespace}:digest:{digest}"

    def denials(self, day: int) -> str:
        """The denials of all clients on a day: `<plan>|<key>|<reason>` -> requests."""
        return f"{self.namespace}:denials:{day}"

    def plan_keys(self, plan_id: str) -> str:
        """The ids of the keys of a plan."""
        return f"{{{self.namespace}}}:plan:{plan_id}:keys"

    def plan_past(self, plan_id: str) -> str:
        """The keys that have left a plan: id -> the day on which it last did, since 1970."""
        return f"{{{self.namespace}}}:plan:{plan_id}:past"

    def stage_bucket(self, stage_id: str, method: str) -> str:
        """The bucket that all callers of a method share."""
        return f"{self.namespace}:stage:{stage_id}:{method.translate(_IN_A_METHOD)}"

    def is_own(self, name: str) -> bool:
        """Return whether a key of Redis is one of this namespace."""
        return name.startswith((f"{self.namespace}:", f"{{{self.namespace}}}:"))

    def is_key_hash(self, name: str) -> bool:
        """Return whether a name is that of the hash of an API key, not of an identity."""
        of_identity = self.key_hash(identity_id("")).removesuffix("}")
        return name.startswith(f"{self.namespace}:{{") and name.endswith("}") and not name.startswith(of_identity)

    def is_record(self, name: str) -> bool:
        """Return whether a name is that of the record of an API key."""
        return name.startswith(f"{self.namespace}:{{") and name.endswith("}:record")

    def is_digest(self, name: str) -> bool:
        """Return whether a name is that of a claim of a value."""
        return name.startswith(self.digest(""))

    def is_shared_bucket(self, name: str) -> bool:
        """Return whether a name is that of a bucket that all callers share."""
        return name == self.account or name.startswith(f"{self.namespace}:stage:")


class FormerNames:
    """Names of schema 1, where they were others. For the upgrade alone."""

    def __init__(self, names: RedisKeys) -> None:
        self._names, self._start = names, f"{names.namespace}:"

    def renamed(self, name: str) -> str | None:
        """Return what a name of schema 1 has become; None for those that stayed, and for the catalogue's."""
        kind, _, rest = name.removeprefix(self._start).partition(":")
        if name == f"{self._start}keys":
            return self._names.keys
        if kind == "plan" and rest.endswith((":keys", ":past")):
            return f"{{{self._names.namespace}}}:plan:{rest}"
        if kind == "stage":
            stage_id, _, method = rest.partition(":")
            bucket = self._names.stage_bucket(stage_id, method)
            return bucket if bucket != name else None
        return None

    def renames(self, names: Iterable[str]) -> list[tuple[str, str]]:
        """Return pairs of an old and a new name, in an order in which no name is taken before it is free."""
        # A name that is a new one as well is longer than the one that becomes it.
        pairs = [(name, self.renamed(name)) for name in sorted(names, key=len, reverse=True)]
        return [(old, new) for old, new in pairs if new is not None]


def identity_id(digest: str) -> str:
    """What stands for a key's id in the name of an identity's hash: no id of a key begins like this."""
    return f"~{digest}"


def plan_field(plan_id: str) -> str:
    """Hash field of a key's state under a plan: the plan's bucket, and what was used."""
    return f"p:{plan_id}"


def method_field(plan_id: str, stage_id: str, method: str) -> str:
    """Hash field of a key's bucket of one method under a plan."""
    return f"b:{plan_id}:{stage_id}:{method}"


def shadow_field(field: str) -> str:
    """Hash field in which a shadow keeps what a plan in force keeps in `field`."""
    return f"s:{field}"
