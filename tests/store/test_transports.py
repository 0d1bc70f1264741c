"""Ways to a server: checks are the same over TLS, and follow Sentinel to the new primary."""

import asyncio

import pytest
from helpers.sentinel import NAME, WatchedPrimary
from helpers.servers import NAMES
from helpers.tls_proxy import TlsProxy
from helpers.waiting import wait_for
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from ratelimit import AsyncLimiter, Limiter, Quota, Throttle, UsagePlan
from ratelimit.store.aio.pipeline.stream import StreamPipeline

STAGE, METHOD = "petstore/prod", "GET /pets"
TRIES = 100


def a_key(limiter):
    limiter.catalog.put_plan(UsagePlan("gold", Throttle("1/1000", 1000), Quota(1000, "DAY"), [STAGE]))
    return limiter.catalog.create_key(plans=["gold"]).value


def left(decision):
    return [limit.remaining for limit in decision.limits]


def test_over_tls(server, tmp_path):
    """One by one, and many at once on one connection: each is charged once."""
    with TlsProxy(server.socket, tmp_path) as end, Limiter.from_url(end.url, deadline=5) as limiter:
        key = a_key(limiter)
        assert [left(limiter.check(key, STAGE, METHOD)) for _ in range(3)] == [[999, 999], [998, 998], [997, 997]]

        async def many():
            async with AsyncLimiter.from_url(end.url, deadline=5) as gathering:
                gathering._namespace.before_refresh = lambda: (
                    None
                )  # no listener, whose start makes a check look once more
                await gathering.check(key, STAGE, METHOD)
                decisions = await asyncio.gather(*(gathering.check(key, STAGE, METHOD) for _ in range(200)))
                assert type(gathering._store._sender_of_checks().endpoint.pipeline) is StreamPipeline
                return [left(decision)[1] for decision in decisions]

        assert asyncio.run(many()) == list(range(995, 795, -1))


def test_a_certificate_of_somebody_else(server, tmp_path):
    """It is not talked to: nothing was sent, and the decision says so."""
    with TlsProxy(server.socket, tmp_path) as end:
        url = end.url.partition("?")[0]
        with Limiter.from_url(url, deadline=5) as limiter:
            assert limiter.check("k" * 30, STAGE, METHOD).cause == "not_sent"

        async def ask():
            async with AsyncLimiter.from_url(url, deadline=5) as limiter:
                return await limiter.check("k" * 30, STAGE, METHOD)

        assert asyncio.run(ask()).cause == "not_sent"


@pytest.mark.parametrize("name", NAMES)
def test_sentinel_leads_to_the_new_primary(name):
    """After a failover, both twins go on with all counts, each within a second or so."""
    with WatchedPrimary(name) as watched:
        sentinels = Sentinel([watched.sentinel])
        with sentinels.master_for(NAME, retry=Retry(NoBackoff(), 0)) as client, Limiter(client, deadline=5) as limiter:
            key = a_key(limiter)
            assert left(limiter.check(key, STAGE, METHOD)) == [999, 999]
            client.wait(1, 5000)

            async def ask():
                theirs = AsyncSentinel([watched.sentinel])
                async with (
                    theirs.master_for(NAME, retry=AsyncRetry(NoBackoff(), 0)) as other,
                    AsyncLimiter(other, deadline=5) as gathering,
                ):
                    gathering._namespace.before_refresh = lambda: None
                    assert left(await gathering.check(key, STAGE, METHOD)) == [998, 998]
                    await asyncio.to_thread(client.wait, 1, 5000)
                    await asyncio.to_thread(watched.fail_over)
                    with watched.replica.client() as direct, Limiter(direct, deadline=5) as another:
                        assert left(another.check(key, STAGE, METHOD)) == [997, 997]
                    for _ in range(TRIES):
                        if left(await gathering.peek(key, STAGE, METHOD)) == [997, 997]:
                            break
                        await asyncio.sleep(0.1)
                    many = await asyncio.gather(*(gathering.check(key, STAGE, METHOD) for _ in range(50)))
                for each in theirs.sentinels:
                    await each.aclose()
                return [left(answer) for answer in many]

            assert asyncio.run(ask()) == [[number, number] for number in range(996, 946, -1)]
            wait_for(lambda: left(limiter.peek(key, STAGE, METHOD)) == [947, 947])
            assert [left(limiter.check(key, STAGE, METHOD)) for _ in range(2)] == [[946, 946], [945, 945]]
        for each in sentinels.sentinels:
            each.close()
