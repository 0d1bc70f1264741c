"""Applications under gunicorn that stand for a whole module of tests, with a plan for whoever comes."""

import contextlib

from helpers.gunicorn import gunicorn_server
from helpers.web import ITEM, STAGE, ask
from ratelimit import Limiter, PlanStage, Quota, Throttle, UsagePlan

FIELDS = {"ratelimit", "ratelimit-policy"}
ORIGIN = {"Origin": "https://shop.example"}
PREFLIGHT = {**ORIGIN, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "x-api-key"}
FOREVER = "0.000001"
"""Tokens a second: none comes back during a test."""


class Site:
    """The applications, and the limiter by which their catalogue is made."""

    def __init__(self, served, limiter):
        self.port, self.socket, self.limiter = served.port, served.socket, limiter

    def key(self, plan="gold"):
        """The fields of a request with a new key."""
        return {"x-api-key": self.limiter.catalog.create_key(plans=[plan]).value}

    def ask(self, verb, path, *fields, body=b""):
        return ask(self.port, verb, path, [pair for each in fields for pair in each.items()], body)

    def get(self, path, *fields):
        return self.ask("GET", path, *fields)

    def statuses(self, verb, path, *fields, times=4, body=b""):
        return [self.ask(verb, path, *fields, body=body).status for _ in range(times)]

    def spend(self, key):
        """Spend the limit of the strict method."""
        assert self.statuses("GET", "/v1/items/1", key) == [200, 200, 200, 429]

    def used(self, key):
        """Units of the quota, which each request is charged."""
        quota = self.limiter.peek(key["x-api-key"], STAGE, "GET /other").limits[-1]
        return quota.limit - quota.remaining

    @staticmethod
    def method_of(reply):
        """The method that the first limit of a reply is about; None for the one of unlisted methods."""
        first = reply.fields["ratelimit-policy"].partition(",")[0]
        return first.partition('"plan:gold:')[2].partition('"')[0] or None


@contextlib.contextmanager
def served_site(app, server, folder, listed=()):
    """Serve an application; the plan "gold" lists a strict method and others, "small" and "free" admit three requests.

    When it ends, no key's value is in what it logged.
    """
    with server.client() as client, Limiter(client, deadline=5) as limiter:
        client.flushall()
        throttles = {ITEM: Throttle(FOREVER, 3)} | {method: Throttle(FOREVER, 1000) for method in listed}
        quota, three = Quota(100_000, "DAY"), Throttle(FOREVER, 3)
        strict = PlanStage(STAGE, throttles=throttles)
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(FOREVER, 1000), quota, [strict]))
        for plan in ("small", "free"):
            limiter.catalog.put_plan(UsagePlan(plan, three, quota, [STAGE]))
        # So that also the longest field arrives.
        lengths = ("--limit-request-field_size", "200000", "--limit-request-line", "0")
        with gunicorn_server(app, folder, *lengths, RATELIMIT_URL=server.url) as served:
            yield Site(served, limiter)
            log = served.end()
            assert "rl_live_" not in log, log
