"""Peers with two limits for each caller, a throttle and a daily quota, as the library's plan has: for `memory`."""

from contextlib import contextmanager
from functools import partial

import limits
import pyrate_limiter
import redis
import throttled

from benchmarks.contenders.contender import DAY
from benchmarks.contenders.peers import BucketPerCaller, limits_sync, pyrate_sync, throttled_sync


@contextmanager
def both(url, load, first, second):
    """Two limits for each caller, as two calls: what a peer needs for a throttle and a daily quota."""
    with first(url, load) as throttle, second(url, load) as quota:
        yield lambda caller: throttle(caller) and quota(caller)


@contextmanager
def limits_daily(url, load):
    storage = limits.storage.storage_from_string(f"redis+{url}")
    limiter, item = limits.strategies.FixedWindowRateLimiter(storage), limits.RateLimitItemPerDay(load.window)
    yield lambda caller: limiter.hit(item, caller)
    storage.storage.close()


@contextmanager
def throttled_daily(url, load):
    store = throttled.store.RedisStore(server=url)
    quota = throttled.rate_limiter.per_day(load.window)
    throttle = throttled.Throttled(using="fixed_window", quota=quota, store=store)
    yield lambda caller: not throttle.limit(caller).limited
    store._backend.get_client().connection_pool.disconnect()


@contextmanager
def pyrate_daily(url, load):
    """Its fixed window, which keeps an entry for each unit of the day, for it has no counter."""
    daily = [pyrate_limiter.Rate(load.window, pyrate_limiter.Duration.DAY)]
    with redis.Redis.from_url(url) as client:
        factory = BucketPerCaller(client, load)
        factory.new_bucket = lambda name: pyrate_limiter.RedisBucket.init(
            daily, client, f"{name}:day", algorithm=pyrate_limiter.FixedWindow()
        )
        with pyrate_limiter.Limiter(factory) as limiter:
            yield lambda caller: limiter.try_acquire(caller, blocking=False)


@contextmanager
def pyrate_two_rates(url, load):
    """It takes several rates on one key; the day's is a bucket too, which refills all day and knows no midnight."""
    with redis.Redis.from_url(url) as client:
        factory = BucketPerCaller(client, load)
        daily = pyrate_limiter.Rate(load.window, DAY * 1000, burst=load.window)
        factory.rates = [*factory.rates, daily]
        with pyrate_limiter.Limiter(factory) as limiter:
            yield lambda caller: limiter.try_acquire(caller, blocking=False)


SAME_LIMITS = {
    "throttled-py: token bucket and fixed window": partial(
        both, first=partial(throttled_sync, using="token_bucket"), second=throttled_daily
    ),
    "pyrate-limiter: token bucket and fixed window": partial(both, first=pyrate_sync, second=pyrate_daily),
}
"""A token bucket, and units that are counted until midnight."""

OTHER_LIMITS = {
    "limits: two fixed windows": partial(
        both, first=partial(limits_sync, strategy="fixed window"), second=limits_daily
    ),
    "limits: sliding and fixed window": partial(
        both, first=partial(limits_sync, strategy="sliding window"), second=limits_daily
    ),
    "pyrate-limiter: two token buckets": pyrate_two_rates,
}
"""The same numbers, but no token bucket, or no quota: they let other requests pass."""

ALL = SAME_LIMITS | OTHER_LIMITS
