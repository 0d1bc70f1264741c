"""Either twin of the limiter, and a Redis that goes and comes back."""

from contextlib import contextmanager

from helpers.proxy import Proxy
from helpers.replica import METHOD, STAGE
from helpers.twins import RunningLimiter
from helpers.waiting import wait_for
from ratelimit import Catalog

GONE = "a-key-that-nobody-has-and-nobody-had"


class OutageGateway(RunningLimiter):
    """A limiter behind a proxy, by which Redis goes away and comes back. `client` reaches it all the time.

    Attributes:
        proxy: The proxy.
        client: A client of the server itself.
        catalog: A catalogue by that client.
    """

    def __init__(self, server, is_async, clock=None, **options):
        self.proxy, self.client = Proxy(server.socket), server.client()
        self.catalog = Catalog(self.client, clock=clock)
        self.options = {"deadline": 0.5, "clock": clock, **options}
        super().__init__(lambda kind: kind.from_url(self.proxy.url, **self.options), is_async)

    def begin(self):
        """Connect, load the catalogue and subscribe to changes."""
        self.warm_up()
        wait_for(lambda: self.limiter._namespace._pushes)  # the subscription is confirmed

    def meet(self, key):
        """Have the limiter know a key, and all changes that were pushed before: they would make it forget the key."""
        keys, namespace = self.limiter._checker.keys, self.limiter._namespace
        pushes = namespace._pushes
        self.client.publish("ratelimit:changes", "0")
        wait_for(lambda: namespace._pushes > pushes)
        wait_for(lambda: self.peek(key.value) is not None and keys.get(key.value) is not None)

    def check(self, key, stage=STAGE, method=METHOD, cost=1):
        return super().check(key, stage, method, cost)

    def peek(self, key, stage=STAGE, method=METHOD, cost=1):
        return self.run(lambda: self.limiter.peek(key, stage, method, cost))

    def checks(self, times, key, **options):
        """Check so often; return the decisions as (status, source)."""
        return [(decision.status, decision.source) for decision in (self.check(key, **options) for _ in range(times))]

    def go_away(self, key=GONE):
        """Have Redis be gone, and the limiter know it."""
        self.proxy.refuse()
        self.proxy.disconnect()
        wait_for(lambda: self.peek(key).cause == "not_sent" or self.peek(key, "no/stage").cause == "not_sent")

    def come_back(self):
        """Have Redis be there, and the limiter know it: by then its journal is charged."""
        self.proxy.accept()
        wait_for(lambda: not self.waiting and not self.limiter._store.breaker_state().is_open, seconds=15)

    @contextmanager
    def away(self, key=GONE):
        self.go_away(key)
        yield
        self.come_back()

    @property
    def without_redis(self):
        return self.limiter._without_redis

    @property
    def waiting(self):
        """How many entries wait in the journal."""
        return len(self.without_redis.journal)

    @property
    def owed(self):
        """How many units wait in the journal, in however many entries: one that is being sent takes no more."""
        with self.without_redis.local.lock:
            return sum(each.cost for caller in self.without_redis.local.waiting.values() for each in caller.entries)

    def used(self, plan, key):
        """Units that Redis has counted of a key under a plan, today."""
        usage = self.catalog.usage(plan, *[self._today()] * 2, key_id=key.id)
        return sum(used for used, _ in usage.items.get(key.id, []))

    def _today(self):
        seconds, _ = self.client.time()
        from datetime import UTC, datetime

        clock = self.options["clock"]
        return datetime.fromtimestamp(seconds if clock is None else clock() / 1e6, UTC).date()

    def __exit__(self, *details):
        super().__exit__(*details)
        self.proxy.close()
        self.client.close()
