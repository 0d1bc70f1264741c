"""Revoking on a server that takes few writes or none: what works without memory, and what the server does not allow.

At `maxmemory` what only revokes is carried out, and what grants or stores more is not. Without a disk, or with fewer
replicas than it must have, a server takes no writes at all: then nothing is changed, and the error says how to make it.
"""

import contextlib

import pytest
from helpers.redis_snapshot import exact_snapshot
from helpers.servers import NAMES, Server
from helpers.twins import CatalogTwin

from ratelimit import Catalog, Limiter, Quota, StoreUnavailable, Throttle, UsagePlan
from ratelimit.admin.commit import Commit

STAGE, METHOD = "petstore/prod", "GET /pets"


class IllServer:
    """A server with keys in plan gold, and how it falls ill: `out_of_memory`, `out_of_disk`, `out_of_replicas`."""

    def __init__(self, name):
        self.server = Server(name)
        self.root = self.server.client()

    def key(self):
        return Catalog(self.root).create_key(plans=["gold"])

    def reset(self):
        self.root.flushall()
        for plan_id in ("gold", "silver"):
            Catalog(self.root).put_plan(UsagePlan(plan_id, Throttle(1, 5), Quota(9, "DAY"), [STAGE]))

    @contextlib.contextmanager
    def out_of_memory(self):
        self.root.config_set("maxmemory", 1)
        try:
            yield
        finally:
            self.root.config_set("maxmemory", 0)

    @contextlib.contextmanager
    def out_of_disk(self):
        self.root.config_set("save", "3600 1000000")
        target = self.server.folder / "dump.rdb"
        target.unlink(missing_ok=True)
        target.mkdir()  # no file can replace it
        self.root.bgsave()
        while self.root.info("persistence")["rdb_bgsave_in_progress"]:
            pass
        assert self.root.info("persistence")["rdb_last_bgsave_status"] == "err"
        try:
            yield
        finally:
            target.rmdir()
            self.root.config_set("save", "")
            self.root.save()

    @contextlib.contextmanager
    def out_of_replicas(self):
        self.root.config_set("min-replicas-to-write", 1)
        try:
            yield
        finally:
            self.root.config_set("min-replicas-to-write", 0)

    def close(self):
        self.root.close()
        self.server.stop()


@pytest.fixture(scope="module", params=NAMES)
def started(request):
    made = IllServer(request.param)
    yield made
    made.close()


@pytest.fixture
def ill(started):
    started.reset()
    return started


@pytest.fixture(params=[False, True], ids=["blocking", "asyncio"])
def catalog(ill, request):
    return CatalogTwin(ill.server, request.param)


def revocations(catalog, key):
    """By name, each way to revoke a key's rights, in an order in which all are possible."""
    return {
        "disable": lambda: catalog.update_key(key.id, enabled=False),
        "expire": lambda: catalog.update_key(key.id, expires_at=1),
        "both": lambda: catalog.update_key(key.id, enabled=False, expires_at=1),
        "rotate": lambda: catalog.rotate_key(key.id),
        "remove": lambda: catalog.remove_key_from_plan(key.id, "gold"),
        "delete": lambda: catalog.delete_key(key.id),
    }


def refused_changes(attempts):
    """The names of those that the server refuses, and the words of its refusals."""
    refusals = {}
    for name, attempt in attempts.items():
        try:
            attempt()
        except StoreUnavailable as error:
            refusals[name] = f"{error.cause}: {error}"
    return refusals


def test_all_revocations_without_memory(catalog, ill):
    """They are carried out: a gateway that knew the key denies it, and the rest of the key is as it should be."""
    key, other = ill.key(), ill.key()
    with Limiter.from_url(ill.server.url, deadline=5) as limiter:
        ask = lambda value: limiter.check(value, STAGE, METHOD).detail  # noqa: E731
        assert [limiter.check(each.value, STAGE, METHOD).allowed for each in (key, other)] == [True, True]
        with ill.out_of_memory():
            with pytest.raises(StoreUnavailable, match="OOM"):
                catalog.create_key()
            assert refused_changes(revocations(catalog, key)) == {}
            assert ask(key.value) == "unknown"
            assert not catalog.update_key(other.id, enabled=False).enabled
            assert ask(other.value) == "disabled"
            rotated = catalog.rotate_key(other.id)
            assert (ask(other.value), ask(rotated.value)) == ("unknown", "disabled")
            assert catalog.remove_key_from_plan(other.id, "gold").plans == ()
        assert catalog.update_key(other.id, enabled=True).enabled
        assert ask(rotated.value) == "no_plan_for_stage"
        assert catalog.keys() == [catalog.get_key(other.id)]
        catalog.add_key_to_plan(other.id, "gold")
        assert limiter.check(rotated.value, STAGE, METHOD).allowed


def test_what_grants_needs_memory(catalog, ill):
    """And what stores texts does, even if it revokes as well: nothing of it is carried out."""
    key = ill.key()
    attempts = {
        "enable": lambda: catalog.update_key(key.id, enabled=True),
        "rename": lambda: catalog.update_key(key.id, enabled=False, name="x"),
        "describe": lambda: catalog.update_key(key.id, enabled=False, description="x" * 9999),
        "grace": lambda: catalog.rotate_key(key.id, grace_s=60),
        "move": lambda: catalog.move_key(key.id, "gold", "silver"),
        "create": catalog.create_key,
    }
    before = exact_snapshot(ill.server)
    with ill.out_of_memory():
        refusals = refused_changes(attempts)
    assert exact_snapshot(ill.server) == before
    assert refusals.keys() == attempts.keys()
    for words in refusals.values():
        assert words.startswith("refused: ")
        assert "OOM" in words
        assert "give the server more memory: `CONFIG SET maxmemory`" in words


def test_no_revocation_without_a_disk(catalog, ill):
    """Nothing is changed. Told to take writes that it cannot save, the server takes them."""
    key = ill.key()
    with ill.out_of_disk():
        before = exact_snapshot(ill.server)
        refusals = refused_changes(revocations(catalog, key))
        assert exact_snapshot(ill.server) == before
        assert refusals.keys() == revocations(catalog, key).keys()
        for words in refusals.values():
            assert words.startswith("refused: ")
            assert "MISCONF" in words
            assert "`CONFIG SET stop-writes-on-bgsave-error no`" in words
        ill.root.config_set("stop-writes-on-bgsave-error", "no")
        try:
            assert refused_changes(revocations(catalog, key)) == {}
        finally:
            ill.root.config_set("stop-writes-on-bgsave-error", "yes")


def test_no_revocation_without_replicas(catalog, ill):
    """Nothing is changed, be it to be durable or not. Without the setting, the server takes it."""
    key = ill.key()
    attempts = revocations(catalog, key)
    attempts["durable"] = lambda: catalog.update_key(key.id, enabled=False, durable=True)
    with ill.out_of_replicas():
        before = exact_snapshot(ill.server)
        refusals = refused_changes(attempts)
        assert exact_snapshot(ill.server) == before
    assert refusals.keys() == attempts.keys()
    for words in refusals.values():
        assert words.startswith("refused: ")
        assert "NOREPLICAS" in words
        assert "`CONFIG SET min-replicas-to-write 0`" in words
    assert refused_changes(revocations(catalog, key)) == {}


def test_a_write_that_needs_no_memory_comes_first(ill, monkeypatch):
    """Seeded: without it, the server refuses what stores a record."""
    monkeypatch.setattr(Commit, "pass_maxmemory", lambda *_: None)
    key = ill.key()
    attempts = revocations(Catalog(ill.root), key)
    with ill.out_of_memory():
        assert refused_changes(attempts).keys() == {"disable", "expire", "both", "remove"}
