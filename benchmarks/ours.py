"""This library, used as its README says. Each variant has a namespace of its own, so all can share a server."""

import logging
from contextlib import asynccontextmanager, contextmanager
from fractions import Fraction
from functools import partial

import loading
import redis
from contenders import Contender, UnansweredError, exactly

from ratelimit import AsyncLimiter, Limiter, Quota, Reason, Stage, Throttle, UsagePlan

logging.getLogger("ratelimit").setLevel(logging.ERROR)  # checks without an answer are counted and shown

STAGE, METHOD = "petstore/prod", "GET /pets"
PATIENT = 5.0  # seconds, the time-out that redis-py gives everybody else
UNDER_VALGRIND = 20.0
ALL_DAY = 86_400.0


def _plan(load):
    throttle = Throttle(Fraction(load.rate, load.seconds), load.burst)
    return UsagePlan("gold", throttle, Quota(load.window, "DAY"), [STAGE])


def enrol(url, load, callers, namespace="check", layers=False, used_up=False, progress=None):
    """Put the plan, and a key for each caller; with `layers` also a throttle of the stage and one of the account."""
    with Limiter.from_url(url, namespace=namespace, deadline=UNDER_VALGRIND, max_age=ALL_DAY) as limiter:
        catalog = limiter.catalog
        catalog.put_plan(_plan(exactly(1) if used_up else load))
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


def _answer(decision):
    if decision.reason is Reason.UNAVAILABLE:
        raise UnansweredError(decision.cause)
    return decision.allowed


@contextmanager
def connect(url, _load, namespace="check", deadline=PATIENT, peek=False, **options):
    with Limiter.from_url(url, namespace=namespace, deadline=deadline, **options) as limiter:
        if peek:
            yield lambda key: _answer(limiter.peek(key, STAGE, METHOD))
        else:
            yield lambda key, cost=1: _answer(limiter.check(key, STAGE, METHOD, cost))


@asynccontextmanager
async def aconnect(url, _load, namespace="check", **options):
    """With the deadline that the library ships with: who waits longer gets no decision."""
    async with AsyncLimiter.from_url(url, namespace=namespace, **options) as limiter:

        async def call(key):
            return _answer(await limiter.check(key, STAGE, METHOD))

        yield call


def _variant(name, limits, namespace, admits=True, peek=False, **enrolment):
    return Contender(
        name,
        "ours",
        limits,
        partial(connect, namespace=namespace, peek=peek),
        None if peek else partial(aconnect, namespace=namespace),
        partial(enrol, namespace=namespace, **enrolment),
        admits,
        bucket=True,
    )


CHECK = _variant("check", "key, token bucket, daily quota", "check")
LAYERS = _variant("check, all layers", "the same, stage and account buckets", "layers", layers=True)
DENIED = _variant("check, denied", "key, token bucket (empty), daily quota", "denied", admits=False, used_up=True)
PEEK = _variant("peek", "key, token bucket, daily quota", "check", peek=True)
ALL = [CHECK, LAYERS, DENIED, PEEK]
