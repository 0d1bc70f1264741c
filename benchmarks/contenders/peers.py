"""The peers, each built and called as its own documentation shows, with its own defaults, on the same server.

A peer keeps one limit per call; the library's check keeps two and looks at the key besides.
"""

from contextlib import asynccontextmanager, contextmanager
from functools import partial
from importlib.util import find_spec

import limits
import limits.aio.storage
import limits.aio.strategies
import limits.storage
import limits.strategies
import pyrate_limiter
import redis
import redis.asyncio
import throttled
import throttled.asyncio
import upstash_ratelimit
from upstash_ratelimit.utils import now_ms

from benchmarks.contenders.contender import HOUR, Contender, UnansweredError

UNANSWERED = (UnansweredError, redis.RedisError, throttled.exceptions.StoreUnavailableError)
"""Exceptions that mean "no decision", of every contender."""

_LIMITS = {"fixed window": "FixedWindowRateLimiter", "sliding window": "SlidingWindowCounterRateLimiter"}


@contextmanager
def limits_sync(url, load, strategy):
    storage = limits.storage.storage_from_string(f"redis+{url}")
    limiter = getattr(limits.strategies, _LIMITS[strategy])(storage)
    item = limits.RateLimitItemPerHour(load.window)
    yield lambda caller, cost=1: limiter.hit(item, caller, cost=cost)
    storage.storage.close()


@asynccontextmanager
async def limits_async(url, load, implementation):
    storage = limits.storage.storage_from_string(f"async+redis+{url}", implementation=implementation)
    limiter = limits.aio.strategies.FixedWindowRateLimiter(storage)
    item = limits.RateLimitItemPerHour(load.window)

    async def call(caller):
        return await limiter.hit(item, caller)

    yield call
    client = storage.bridge.storage
    if implementation == "redispy":
        await client.aclose()
    else:
        client.connection_pool.disconnect()


def _quota(load, using):
    if using == "fixed_window":
        return f"{load.window}/h"
    return f"{load.rate}/{load.unit} burst {load.burst}"


@contextmanager
def throttled_sync(url, load, using):
    store = throttled.store.RedisStore(server=url)
    throttle = throttled.Throttled(using=using, quota=_quota(load, using), store=store)
    yield lambda caller, cost=1: not throttle.limit(caller, cost).limited
    store._backend.get_client().connection_pool.disconnect()


@asynccontextmanager
async def throttled_async(url, load, using):
    store = throttled.asyncio.RedisStore(server=url)
    throttle = throttled.asyncio.Throttled(using=using, quota=_quota(load, using), store=store)

    async def call(caller):
        return not (await throttle.limit(caller)).limited

    yield call
    await store._backend.get_client().connection_pool.disconnect()


class BucketPerCaller(pyrate_limiter.BucketFactory):
    """The routing that its README shows, with the store that it shows for Redis."""

    def __init__(self, client, load):
        self.client, self.buckets = client, {}
        self.clock = pyrate_limiter.WallClock()
        interval = {1: pyrate_limiter.Duration.SECOND, HOUR: pyrate_limiter.Duration.HOUR}[load.seconds]
        self.rates = [pyrate_limiter.Rate(load.rate, interval, burst=load.burst)]

    def wrap_item(self, name, weight=1):
        return pyrate_limiter.RateItem(name, self.clock.now(), weight=weight)

    def get(self, item):
        bucket = self.buckets.get(item.name)
        if bucket is None:
            bucket = self.buckets[item.name] = self.new_bucket(item.name)
        return bucket

    def new_bucket(self, name):
        store = pyrate_limiter.RedisStateStore(self.client, name)
        return pyrate_limiter.StateBucket(self.rates, algorithm=pyrate_limiter.TokenBucket(), store=store)


@contextmanager
def pyrate_sync(url, load):
    with redis.Redis.from_url(url) as client, pyrate_limiter.Limiter(BucketPerCaller(client, load)) as limiter:
        yield lambda caller, cost=1: limiter.try_acquire(caller, cost, blocking=False)


@asynccontextmanager
async def pyrate_async(url, load):
    async with redis.asyncio.Redis.from_url(url) as client:
        with pyrate_limiter.Limiter(BucketPerCaller(client, load)) as limiter:

            async def call(caller):
                return await limiter.try_acquire_async(caller, blocking=False)

            yield call


_UPSTASH = upstash_ratelimit.TokenBucket.SCRIPT.partition("\n")[2]
"""Its own, without the first line, a flag that only Upstash's servers support."""


def _upstash(load, script):
    """Return a function that runs the script; its reply begins with what is left, or -1."""
    interval = load.seconds * 1000
    return lambda caller, cost=1: script([caller], [load.burst, interval, load.rate, now_ms(), cost])


@contextmanager
def upstash_sync(url, load):
    """Its client speaks HTTP to Upstash alone, so its script is called by redis-py, as a registered one."""
    with redis.Redis.from_url(url) as client:
        run = _upstash(load, client.register_script(_UPSTASH))
        yield lambda caller, cost=1: run(caller, cost)[0] >= 0


@asynccontextmanager
async def upstash_async(url, load):
    async with redis.asyncio.Redis.from_url(url) as client:
        run = _upstash(load, client.register_script(_UPSTASH))

        async def call(caller):
            return (await run(caller))[0] >= 0

        yield call


LIMITS_FIXED = Contender(
    "limits fixed window",
    "peer",
    "one fixed window",
    partial(limits_sync, strategy="fixed window"),
    partial(limits_async, implementation="redispy"),
)
LIMITS_COREDIS = Contender(
    "limits fixed window, coredis",
    "peer",
    "one fixed window",
    partial(limits_sync, strategy="fixed window"),
    partial(limits_async, implementation="coredis"),
)
LIMITS_SLIDING = Contender(
    "limits sliding window", "peer", "one sliding window counter", partial(limits_sync, strategy="sliding window")
)
THROTTLED_BUCKET = Contender(
    "throttled-py token bucket",
    "peer",
    "one token bucket",
    partial(throttled_sync, using="token_bucket"),
    partial(throttled_async, using="token_bucket"),
    bucket=True,
)
THROTTLED_FIXED = Contender(
    "throttled-py fixed window",
    "peer",
    "one fixed window",
    partial(throttled_sync, using="fixed_window"),
    partial(throttled_async, using="fixed_window"),
)
THROTTLED_GCRA = Contender(
    "throttled-py GCRA",
    "peer",
    "one GCRA",
    partial(throttled_sync, using="gcra"),
    partial(throttled_async, using="gcra"),
    bucket=True,
)
PYRATE = Contender("pyrate-limiter token bucket", "peer", "one token bucket", pyrate_sync, pyrate_async, bucket=True)
UPSTASH = Contender(
    "upstash token bucket, its script", "peer", "one token bucket", upstash_sync, upstash_async, bucket=True
)
MAIN = [LIMITS_FIXED, THROTTLED_BUCKET, PYRATE]
ASYNC = [*MAIN, *([LIMITS_COREDIS] if find_spec("coredis") else []), THROTTLED_FIXED, UPSTASH]
"""For asyncio, `limits` takes either client; its documentation prefers coredis. The faster one is what counts."""

ALL = [*MAIN, LIMITS_SLIDING, THROTTLED_FIXED, THROTTLED_GCRA, UPSTASH]
