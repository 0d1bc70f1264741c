"""Promise 4, never double: with a network in between that loses, delays and cuts replies."""

import asyncio
import time
from contextlib import contextmanager
from unittest.mock import patch

import redis
from helpers.proxy import Proxy
from helpers.replica import METHOD, STAGE, remaining, replica
from properties.promises.replicas import gold_key

from ratelimit import AsyncLimiter, Limiter, Reason, StoreUnavailable
from ratelimit.store.aio.batcher import CheckBatcher

DEADLINE = 0.5
HEALTH = "GET /health"


def a_check_is_carried_out_once(server, fault, how, *, forgotten=False):
    """Whatever happens to its reply, one check is one execution, and an unknown outcome is reported as unknown.

    `how` is "from_url", "async" or "retries": a client of the caller's that would try eleven times. `forgotten`
    has the server forget the script first, so that the check is sent as EVALSHA, refused, and as EVAL.
    """
    key = gold_key(server)
    with Proxy(server.socket) as proxy, replica(server) as direct:
        with _checking(proxy, how) as check:
            assert check(key.value).allowed
            if forgotten:
                with server.client() as client:
                    client.script_flush()
                proxy.let_through = 1
            proxy.fault = fault
            decision = check(key.value)
            proxy.wait_for_faults(1)
            proxy.fault = None
            if fault == "trickle":
                assert decision.allowed
            else:
                assert (decision.reason, decision.source) == (Reason.UNAVAILABLE, "fail_closed")
                assert decision.cause == "unknown"
            assert remaining(direct.peek(key.value, STAGE, METHOD)).get("quota:gold") == 98
            # What was late for one check is no answer to the next.
            assert remaining(check(key.value)).get("quota:gold") == 97
            if fault == "delay":
                time.sleep(Proxy.DELAY_S)
            assert remaining(check(key.value)).get("quota:gold") == 96
        assert remaining(direct.peek(key.value, STAGE, METHOD)).get("quota:gold") == 96
        assert proxy.faults == 1


@contextmanager
def _checking(proxy, how):
    """Yield a function that checks a key through the proxy."""
    if how == "async":
        with asyncio.Runner() as runner:
            limiter = AsyncLimiter.from_url(proxy.url, deadline=DEADLINE, on_unavailable="closed")
            limiter._namespace.before_refresh = lambda: None
            try:
                yield lambda key: runner.run(limiter.check(key, STAGE, METHOD))
            finally:
                runner.run(limiter.aclose())
        return
    if how == "from_url":
        limiter = Limiter.from_url(proxy.url, deadline=DEADLINE, on_unavailable="closed")
        client = None
    else:
        client = redis.Redis(port=proxy.port, socket_timeout=DEADLINE)
        assert client.connection_pool.connection_kwargs["retry"].get_retries() == 10
        limiter = Limiter(client, deadline=DEADLINE, on_unavailable="closed")
    limiter._namespace.before_refresh = lambda: None
    try:
        yield lambda key: limiter.check(key, STAGE, METHOD)
    finally:
        limiter.close()
        if client is not None:
            client.close()


def a_batch_is_carried_out_once(server, fault):
    """Checks of several tasks that leave in one write, and whose replies are lost, are carried out once each."""
    key = gold_key(server)

    async def five_at_once():
        async with AsyncLimiter.from_url(proxy.url, deadline=DEADLINE, on_unavailable="closed") as limiter:
            limiter._namespace.before_refresh = lambda: None
            await limiter.check(key.value, STAGE, METHOD)  # looks at the catalogue
            await asyncio.gather(*(limiter.check(key.value, STAGE, METHOD) for _ in range(2)))  # teaches
            proxy.fault = fault
            decisions = await asyncio.gather(*(limiter.check(key.value, STAGE, METHOD) for _ in range(5)))
            proxy.fault = None
            return decisions, await limiter.check(key.value, STAGE, METHOD)

    with Proxy(server.socket) as proxy, replica(server) as direct:
        decisions, after = asyncio.run(five_at_once())
        assert [decision.reason for decision in decisions] == [Reason.UNAVAILABLE] * 5
        assert {decision.cause for decision in decisions} == {"unknown"}
        assert remaining(after).get("quota:gold") == 91
        assert remaining(direct.peek(key.value, STAGE, METHOD)).get("quota:gold") == 91


def what_is_known_of_a_batch_is_told(server):
    """Where one check of a batch has to be asked alone and cannot be, another that was carried out is answered."""
    charged, new = gold_key(server), gold_key(server)
    put, sent = CheckBatcher._write, []

    def once(batcher, packets, answered):
        """As if the server went away between the batch and what it left out."""
        sent.append(packets)
        if len(sent) > 1:
            answered([StoreUnavailable("no connection to Redis")])
        else:
            put(batcher, packets, answered)

    async def two_at_once():
        async with AsyncLimiter.from_url(server.url, deadline=DEADLINE, on_unavailable="closed") as limiter:
            limiter._namespace.before_refresh = lambda: None
            await limiter.check(charged.value, STAGE, METHOD)
            await asyncio.gather(*(limiter.check(charged.value, STAGE, METHOD) for _ in range(2)))
            await limiter.peek(new.value, STAGE, METHOD)
            with patch.object(CheckBatcher, "_write", once):
                return await asyncio.gather(*(limiter.check(key.value, STAGE, METHOD) for key in (charged, new)))

    first, second = asyncio.run(two_at_once())
    assert [len(packets) for packets in sent] == [1, 1]
    assert first.allowed
    assert remaining(first) == {"plan:gold": 46, "quota:gold": 96}
    assert second.reason is Reason.UNAVAILABLE
    assert second.cause == "not_sent"
