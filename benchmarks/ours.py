"""This library, used as its README says. Each variant has a namespace of its own, so all can share a server."""

import logging
from contextlib import asynccontextmanager, contextmanager
from fractions import Fraction
from functools import partial

import loading
import redis
import redis.asyncio
from contenders import Contender, UnansweredError, exactly

from ratelimit import AsyncLimiter, Limiter, Quota, Reason, Stage, Throttle, UsagePlan

logging.getLogger("ratelimit").setLevel(logging.ERROR)  # checks without an answer are counted and shown

STAGE, METHOD = "petstore/prod", "GET /pets"
PATIENT = 5.0  # seconds, the time-out that redis-py gives everybody else
UNDER_VALGRIND = 20.0
ALL_DAY = 86_400.0


TERM = 1.0
"""Of leases, in seconds: the longest that there is."""

ASKING = {"denial_cache": False}
"""Options of a limiter that asks Redis about keys that are known to be out, too."""


def _plan(load, lease=0):
    throttle = Throttle(Fraction(load.rate, load.seconds), load.burst)
    return UsagePlan("gold", throttle, Quota(load.window, "DAY"), [STAGE], lease=lease)


def enrol(url, load, callers, namespace="check", layers=False, used_up=False, lease=0, progress=None):
    """Put the plan, and a key for each caller; with `layers` also a throttle of the stage and one of the account."""
    with Limiter.from_url(url, namespace=namespace, deadline=UNDER_VALGRIND, max_age=ALL_DAY) as limiter:
        catalog = limiter.catalog
        catalog.put_plan(_plan(exactly(1) if used_up else load, lease))
        if layers:
            shared = Throttle(load.rate, load.burst)
            catalog.put_stage(Stage(STAGE, shared))
            catalog.set_account_throttle(shared)
        with redis.Redis.from_url(url) as client:
            batch = loading.new_batch()
            loading.load_keys(client, namespace, callers, lambda _: "gold", batch, progress)
        keys = [loading.value(number, batch) for number in range(callers)]
        if used_up:
            for key in keys:
                limiter.check(key, STAGE, METHOD)
    return keys


def _denied(decision):
    """False; raises UnansweredError if there was no answer."""
    if decision.reason is Reason.UNAVAILABLE:
        raise UnansweredError(decision.cause)
    return False


@contextmanager
def connect(url, _load, namespace="check", deadline=PATIENT, peek=False, **options):
    with Limiter.from_url(url, namespace=namespace, deadline=deadline, **options) as limiter:
        if peek:
            yield lambda key: (decision := limiter.peek(key, STAGE, METHOD)).allowed or _denied(decision)
        else:
            yield lambda key, cost=1: (decision := limiter.check(key, STAGE, METHOD, cost)).allowed or _denied(decision)


@asynccontextmanager
async def aconnect(url, _load, namespace="check", **options):
    """With the deadline that the library ships with: who waits longer gets no decision."""
    async with AsyncLimiter.from_url(url, namespace=namespace, **options) as limiter:

        async def call(key):
            decision = await limiter.check(key, STAGE, METHOD)
            return decision.allowed or _denied(decision)

        yield call


def prepared(limiter, key):
    """What a check of the key asks, as the limiter has kept it: it must have checked or peeked before."""
    return limiter._checker.prepared(key, STAGE, METHOD).to_script_call(limiter._namespace, 1)


@asynccontextmanager
async def aplain(url, _load):
    """What a check sends, sent by redis-py's client: EVALSHA of check.lua, without a look at what it answers."""
    async with AsyncLimiter.from_url(url, namespace="check") as limiter, redis.asyncio.Redis.from_url(url) as client:
        commands = {}

        async def call(key):
            if key not in commands:
                await limiter.check(key, STAGE, METHOD)  # the first one of a key is answered in another way
                commands[key] = prepared(limiter, key).by_hash()
            return isinstance(await client.execute_command(*commands[key]), bytes)

        yield call


def _variant(name, limits, namespace, admits=True, peek=False, options=None, exact=True, **enrolment):
    options = options or {}
    return Contender(
        name,
        "ours",
        limits,
        partial(connect, namespace=namespace, peek=peek, **options),
        None if peek else partial(aconnect, namespace=namespace, **options),
        partial(enrol, namespace=namespace, **enrolment),
        admits,
        bucket=True,
        exact=exact,
    )


CHECK = _variant("check", "key, token bucket, daily quota", "check")
LAYERS = _variant("check, all layers", "the same, stage and account buckets", "layers", layers=True)
DENIED = _variant(
    "check, denied",
    "key, token bucket (empty), daily quota",
    "denied",
    admits=False,
    options=ASKING,
    used_up=True,
)
PEEK = _variant("peek", "key, token bucket, daily quota", "check", peek=True)
CACHED = _variant("check, denied, denial cache", DENIED.limits, "cached", admits=False, used_up=True)
LEASED = _variant("check, leased", CHECK.limits, "leased", exact=False, lease=TERM)
IN_PROCESS = [CACHED, LEASED]
"""What is answered without a round trip, most of the time: once in a while Redis is asked, and that is included."""

PLAIN = Contender("client, EVALSHA of check.lua", "floor", CHECK.limits, connect, aplain, CHECK.enrol)
"""What a check alone in its batch is to be as quick as."""

ALL = [CHECK, LAYERS, DENIED, PEEK, *IN_PROCESS]
