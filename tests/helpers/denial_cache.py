"""The denial cache in tests: switched on by a first denial, held against the script, and driven reply by reply."""

from contextlib import contextmanager
from functools import partial

from helpers.replica import FOREVER, METHOD, STAGE, caching_replica
from helpers.requests import reply_to
from ratelimit.scripts import ScriptCall

ABOVE = 10**9
"""A cost above every burst and quota of these tests."""


def said(decision):
    """All that a decision tells a caller, but who made it and when."""
    fields = decision.reason, decision.detail, decision.limited_by, decision.retry_after, decision.limits
    return (*fields, decision.headers(), decision.problem(), decision.cause, decision.error, decision.degraded)


def turn_on(limiter, *request):
    """Have a limiter keep what it is told from now on: nothing is kept until Redis denied a first check."""
    decision = limiter.check(*request, ABOVE)
    assert (decision.allowed, decision.source) == (False, "redis")
    assert limiter._checker.denial_cache.is_active


def source_of(knows, asks, *request):
    """Check by a limiter that knows denials; return who answered. A denial is in every field what the script says."""
    expected = asks.peek(*request)
    decision = knows.check(*request)
    assert decision.allowed == expected.allowed
    if not decision.allowed:
        assert said(decision) == said(expected)
    assert decision.time_us == (None if decision.source == "denial_cache" else expected.time_us)
    return decision.source


@contextmanager
def both(backend, clock, *plans, stage=None, account=None, expires_us=None, **options):
    """Two limiters, one that knows denials and one that asks, and a key that is in all the plans.

    Whoever knows has been denied once. Yields `check` and `source_of`, which take a cost and a method.
    """
    with (
        caching_replica(backend, clock, **({"max_age": FOREVER} | options)) as knows,
        caching_replica(backend, clock, denial_cache=False) as asks,
    ):
        for plan in plans:
            knows.catalog.put_plan(plan)
        if stage is not None:
            knows.catalog.put_stage(stage)
        if account is not None:
            knows.catalog.set_account_throttle(account)
        expires_at = None if expires_us is None else (clock() + expires_us) / 1_000_000
        key = knows.catalog.create_key(plans=[plan.id for plan in plans], expires_at=expires_at)
        clock.advance_us(1)
        turn_on(knows, key.value, STAGE, METHOD)
        yield Both(knows, asks, key)


def by_two_clocks(limiter, own):
    """Have a limiter tell ages by a clock of its own, as without an injected one: its other clock is the server's."""
    limiter._namespace.age_us = limiter._checker.denial_cache._clock = own
    limiter._checker.denial_cache._is_injected = False


class Both:
    """See `both`."""

    def __init__(self, knows, asks, key):
        self.knows, self.asks, self.key = knows, asks, key
        self.catalog = knows.catalog

    def check(self, cost=1, method=METHOD, stage=STAGE, key=None):
        """The decision of whoever knows denials."""
        return self.knows.check((key or self.key).value, stage, method, cost)

    def source(self, cost=1, method=METHOD, stage=STAGE, key=None):
        """Who answered a check, "redis" or "denial_cache": see `source_of`."""
        return source_of(self.knows, self.asks, (key or self.key).value, stage, method, cost)

    def send(self, cost=1, method=METHOD, stage=STAGE, key=None):
        """A check that is on its way."""
        sent = Sent(self.knows, (key or self.key).value, stage, method, cost)
        assert not sent.is_over, "answered without Redis"
        return sent


class Sent:
    """A check that was sent: when Redis carries it out and when its reply arrives is for the test to say."""

    def __init__(self, limiter, *request):
        self._answer = partial(reply_to, limiter._store)
        self._flow = limiter._checker.check(*request)
        self._call = self._up_to_a_script(partial(next, self._flow))
        self._reply = None

    @property
    def is_over(self):
        """Whether it has its decision."""
        return self._call is None

    @property
    def is_carried_out(self):
        """Whether its reply may arrive."""
        return self._reply is not None

    def _up_to_a_script(self, step):
        """Go on until a script is to be run; None at the end. What has to be looked up before is read at once."""
        try:
            request = step()
            while not isinstance(request, ScriptCall):
                request = self._flow.send(self._answer(request))
        except StopIteration as finished:
            self.decision = finished.value
            return None
        return request

    def carried_out(self):
        """Have Redis carry it out."""
        self._reply = self._answer(self._call)
        return self

    def arrived(self):
        """Have its reply arrive: the decision, or None if more is to be asked. It was carried out before."""
        reply, self._reply = self._reply, None
        self._call = self._up_to_a_script(partial(self._flow.send, reply))
        return self.decision if self.is_over else None

    def failed(self, error):
        """Have it fail, wherever it is."""
        self._up_to_a_script(partial(self._flow.throw, error))

    def given_up(self):
        """Have its caller go away."""
        self._flow.close()
