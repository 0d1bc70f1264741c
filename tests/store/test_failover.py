"""A primary that is deposed: it is left within a second without an error, also by the subscription to changes."""

import gc
import threading
import time

import pytest
import redis
from helpers.background import Background
from helpers.commands import run
from helpers.fake_sentinel import FakeSentinel
from helpers.ports import free_port
from helpers.proxy import Proxy
from helpers.sentinel import NAME, WatchedPrimary
from helpers.servers import NAMES, Server
from helpers.steady_checks import METHOD, STAGE, AsyncSteadyChecks, SteadyChecks
from helpers.twins import RunningLimiter
from helpers.waiting import wait_for

from ratelimit import AsyncLimiter, Catalog, Limiter, Throttle, UsagePlan
from ratelimit.store import sentinel

BOUND_S = 2.0
"""Twice what is promised: the machine may be busy."""


class Observer(Background):
    """Looks at the Sentinel and the old primary all the time.

    Attributes:
        named_s: When the Sentinel first named another primary.
        last_decision_s: When the old primary was last seen to have carried out a script.
    """

    def __init__(self, watched):
        super().__init__()
        self._sentinel = redis.Redis(*watched.sentinel)
        self._primary = watched.primary.client()
        self._before = self._sentinel.sentinel_get_master_addr_by_name(NAME)
        self.named_s = self.last_decision_s = 0.0

    def _scripts(self):
        stats = self._primary.info("commandstats").get("cmdstat_evalsha", {"calls": 0})
        return stats["calls"] - stats.get("failed_calls", 0)

    def _run(self):
        count = self._scripts()
        while not self._stopped:
            if not self.named_s and self._sentinel.sentinel_get_master_addr_by_name(NAME) != self._before:
                self.named_s = time.monotonic()
            if (now := self._scripts()) != count:
                count, self.last_decision_s = now, time.monotonic()
            time.sleep(0.005)

    def __exit__(self, *exception):
        super().__exit__(*exception)
        self._sentinel.close()
        self._primary.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("kind", "checks"), [(Limiter, SteadyChecks), (AsyncLimiter, AsyncSteadyChecks)], ids=["blocking", "asyncio"]
)
def test_a_healthy_primary_that_is_deposed(name, kind, checks):
    """It decides nothing a second after the Sentinels name another one; what is revoked there is revoked."""
    with WatchedPrimary(name) as watched, watched.primary.client() as client:
        catalog = Catalog(client)
        catalog.put_plan(UsagePlan("gold", Throttle(1_000_000, 1_000_000), stages=[STAGE]))
        key = catalog.create_key(plans=["gold"])
        client.wait(1, 5000)
        with (
            checks(lambda: kind.from_url(watched.url, deadline=2, on_unavailable="closed"), key.value) as steady,
            Observer(watched) as observer,
        ):
            wait_for(lambda: len(steady.timed) > 100)
            assert all(timed.decision.allowed for timed in steady.timed[1:])
            watched.fail_over()
            with watched.replica.client() as new_primary:
                Catalog(new_primary).update_key(key.id, enabled=False)
            wait_for(lambda: steady.timed[-1].decision.status == 403, 20)
            time.sleep(BOUND_S)
        assert observer.last_decision_s - observer.named_s < BOUND_S
        assert steady.last(lambda decision: decision.allowed) - observer.named_s < BOUND_S
        failures = [timed.decision for timed in steady.timed if timed.decision.status == 503]
        assert {decision.cause for decision in failures} <= {"deposed", "not_sent"}


class Pair:
    """A primary and a replica of it, of which a Sentinel names the first until it is to name the other.

    Attributes:
        proxy: In front of the first.
    """

    def __init__(self, name):
        self.old, self.new = (
            Server(name, port=free_port(), bind="127.0.0.1", repl_diskless_sync_delay=0) for _ in range(2)
        )
        self.proxy = Proxy(self.old.socket)
        self.sentinel = FakeSentinel(("127.0.0.1", self.proxy.port))
        self.url = f"redis+sentinel://127.0.0.1:{self.sentinel.address[1]}/limits"
        with self.old.client() as client:
            catalog = Catalog(client)
            catalog.put_plan(UsagePlan("gold", Throttle("1/1000", 5), stages=[STAGE]))
            self.key = catalog.create_key(plans=["gold"])
        del catalog
        gc.collect()  # with older clients its connections are closed by that alone, and tests count connections
        self.replicate(self.new, self.old)

    def replicate(self, replica, primary):
        """Make one a replica of the other, and wait until it is."""
        with replica.client() as client:
            client.replicaof("127.0.0.1", primary.port)
            wait_for(lambda: client.info("replication")["master_link_status"] == "up", 20)

    def promote(self):
        """Make the second server a primary, beside the first, which goes on."""
        with self.new.client() as client:
            client.replicaof("NO", "ONE")

    @property
    def address(self):
        """Of the second server."""
        return "127.0.0.1", self.new.port

    def subscribers(self, server):
        with server.client() as client:
            channels = client.pubsub_channels()
            return sum(count for _, count in client.pubsub_numsub(*channels)) if channels else 0

    def clients(self, server):
        """How many connections a server has, of clients alone."""
        with server.client() as client:
            return sum(each["flags"] != "S" and each["flags"] != "M" for each in client.client_list()) - 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sentinel.__exit__()
        self.proxy.close()
        self.old.stop()
        self.new.stop()


@pytest.fixture(params=[False, True], ids=["blocking", "asyncio"])
def is_async(request):
    return request.param


@pytest.fixture
def pair():
    with Pair("valkey") as made:
        yield made


def test_a_command_by_url(pair):
    """The command line takes the same URL, and shows it without the password."""
    shown = run("plans", "list", RATELIMIT_URL=pair.url)
    assert (shown.exit_code, "gold" in shown.stdout) == (0, True)
    pair.sentinel.primary = None
    failed = run("plans", "list", RATELIMIT_URL=pair.url.replace("//", "//user:S3cr3tPw@"))
    assert failed.exit_code == 3
    assert "no Sentinel names a primary of the service 'limits' (127.0.0.1:" in failed.stderr
    assert pair.url in failed.stderr
    assert "S3cr3tPw" not in failed.output


def test_what_waits_for_a_deposed_primary_ends(pair, is_async):
    """At once, long before its deadline, with the cause "deposed"; then the other one decides."""
    with RunningLimiter(
        lambda kind: kind.from_url(pair.url, deadline=30, on_unavailable="closed"), is_async
    ) as limiter:
        limiter.warm_up()
        assert limiter.check(pair.key.value, STAGE, METHOD).allowed
        pair.proxy.fault = "swallow"
        decisions = []
        waiting = threading.Thread(target=lambda: decisions.append(limiter.check(pair.key.value, STAGE, METHOD)))
        waiting.start()
        pair.proxy.wait_for_faults(1)
        pair.promote()
        pair.sentinel.switch(pair.address)
        waiting.join(20)
        assert [(decision.status, decision.cause) for decision in decisions] == [(503, "deposed")]
        wait_for(lambda: limiter.check(pair.key.value, STAGE, METHOD).status != 503)
        wait_for(lambda: pair.clients(pair.new) > 0 == pair.clients(pair.old))


def test_nothing_stays_with_a_deposed_primary(pair, is_async):
    """No connection does: neither those of checks and administrators, nor the subscription to changes."""
    with RunningLimiter(
        lambda kind: kind.from_url(pair.url, deadline=5, max_age=300, on_unavailable="closed"), is_async
    ) as limiter:
        limiter.warm_up()
        limiter.run(limiter.limiter.catalog.plans)
        assert [limiter.check(pair.key.value, STAGE, METHOD).allowed for _ in range(6)] == [True] * 5 + [False]
        wait_for(lambda: pair.subscribers(pair.old) == 1)
        count = pair.clients(pair.old)
        assert count >= 2
        with pair.old.client() as client:
            client.wait(1, 5000)
        pair.promote()
        pair.sentinel.switch(pair.address)
        wait_for(lambda: pair.clients(pair.old) == pair.subscribers(pair.old) == 0)
        wait_for(lambda: pair.subscribers(pair.new) == 1)
        # Denied locally until a push says that there is more: one that comes from the new primary.
        assert not limiter.check(pair.key.value, STAGE, METHOD).allowed
        with pair.new.client() as client:
            Catalog(client).put_plan(UsagePlan("gold", Throttle(1000, 1000), stages=[STAGE]))
        wait_for(lambda: limiter.check(pair.key.value, STAGE, METHOD).allowed)
        plans = limiter.run(limiter.limiter.catalog.plans)
        assert [plan.throttle.burst for plan in plans] == [1000]


def test_a_primary_that_takes_no_writes_any_more(pair, is_async, monkeypatch):
    """Its reply makes the limiter ask the Sentinels at once, though they publish nothing."""
    monkeypatch.setattr(sentinel, "INTERVAL_S", 3600)
    monkeypatch.setattr(sentinel, "SWITCH_CHANNEL", "nothing")
    with RunningLimiter(lambda kind: kind.from_url(pair.url, deadline=5, on_unavailable="closed"), is_async) as limiter:
        limiter.warm_up()
        assert limiter.check(pair.key.value, STAGE, METHOD).allowed
        wait_for(lambda: pair.sentinel.count(b"SUBSCRIBE") == 1)
        pair.promote()
        pair.sentinel.primary = pair.address
        pair.replicate(pair.old, pair.new)
        assert limiter.check(pair.key.value, STAGE, METHOD).cause == "deposed"
        wait_for(lambda: limiter.check(pair.key.value, STAGE, METHOD).allowed)
        wait_for(lambda: pair.clients(pair.old) == 0)
