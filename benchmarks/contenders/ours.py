"""This library, used as its README says. Each variant has a namespace of its own, so all can share a server."""

import logging
from contextlib import asynccontextmanager, contextmanager
from fractions import Fraction
from functools import partial

import redis
import redis.asyncio

from benchmarks.contenders import floors, loading
from benchmarks.contenders.contender import Contender, UnansweredError, exactly
from ratelimit import AsyncLimiter, Limiter, Quota, Reason, Stage, Throttle, UsagePlan

logging.getLogger("ratelimit").setLevel(logging.ERROR)  # checks without an answer are counted and shown

STAGE, METHOD = "petstore/prod", "GET /pets"
PATIENT = 5.0
"""Deadline in seconds: the time-out that redis-py gives everybody else."""
UNDER_VALGRIND = 20.0
"""Deadline in seconds."""
ALL_DAY = 86_400.0
"""A `max_age` in seconds."""
LEASE_S = 1.0
"""Of leases, in seconds: the longest that the library allows."""


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
        raise UnansweredError(decision.error)
    return False


@contextmanager
def connect(url, _load, namespace="check", deadline=PATIENT, peek=False, **options):
    with Limiter.from_url(url, namespace=namespace, deadline=deadline, on_unavailable="closed", **options) as limiter:
        if peek:
            yield lambda key: (decision := limiter.peek(key, STAGE, METHOD)).allowed or _denied(decision)
        else:
            yield lambda key, cost=1: (decision := limiter.check(key, STAGE, METHOD, cost)).allowed or _denied(decision)


@asynccontextmanager
async def aconnect(url, _load, namespace="check", **options):
    """With the deadline that the library ships with: who waits longer gets no decision."""
    async with AsyncLimiter.from_url(url, namespace=namespace, on_unavailable="closed", **options) as limiter:

        async def call(key):
            decision = await limiter.check(key, STAGE, METHOD)
            return decision.allowed or _denied(decision)

        yield call


def script_call(limiter, key):
    """The script call of a check of the key, as the limiter has prepared it: it must have checked or peeked before."""
    return limiter._checker.prepared(key, STAGE, METHOD).to_script_call(limiter._namespace, 1)


@contextmanager
def raw_check(url, _load):
    """What a check sends, sent as the raw no-op is: EVALSHA of check.lua, its reply parsed and not decoded."""
    with (
        Limiter.from_url(url, namespace="check", deadline=PATIENT) as limiter,
        floors.raw_round_trip(url) as round_trip,
    ):
        commands = {}

        def call(key, _cost=1):
            if key not in commands:
                limiter.check(key, STAGE, METHOD)  # the first check of a key has another reply
                commands[key] = script_call(limiter, key).by_hash()
            return isinstance(round_trip(commands[key]), bytes)

        yield call


@asynccontextmanager
async def aplain(url, _load):
    """What a check sends, sent by redis-py's client: EVALSHA of check.lua, its reply not decoded."""
    async with (
        AsyncLimiter.from_url(url, namespace="check", deadline=PATIENT) as limiter,  # it prepares the command alone
        redis.asyncio.Redis.from_url(url) as client,
    ):
        commands = {}

        async def call(key):
            if key not in commands:
                await limiter.check(key, STAGE, METHOD)  # the first check of a key has another reply
                commands[key] = script_call(limiter, key).by_hash()
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
    options={"denial_cache": False},
    used_up=True,
)
PEEK = _variant("peek", "key, token bucket, daily quota", "check", peek=True)
CACHED = _variant("check, denied, denial cache", DENIED.limits, "cached", admits=False, used_up=True)
LEASED = _variant("check, leased", CHECK.limits, "leased", exact=False, lease=LEASE_S)
IN_PROCESS = [CACHED, LEASED]
"""Decided without a round trip, most of the time; the occasional round trips are included."""

RAW = Contender("raw socket, EVALSHA of check.lua", "floor", CHECK.limits, raw_check, enrol=CHECK.enrol)
"""The floor of a check: the same command and the same reply, sent and received in the least that Python can do."""

PLAIN = Contender("client, EVALSHA of check.lua", "floor", CHECK.limits, connect, aplain, CHECK.enrol)
"""What a check alone in its batch is to be as fast as."""

FLOORS = [RAW, PLAIN]
"""What a check sends, sent without this library."""

ALL = [CHECK, LAYERS, DENIED, PEEK, *IN_PROCESS]
