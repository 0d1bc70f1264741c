"""Promises 3 and 5, between replicas: one clock, and no lost revocation."""

import time
from contextlib import contextmanager
from unittest.mock import patch

from helpers.replica import FOREVER, METHOD, STAGE, remaining, replica
from helpers.waiting import wait_for

from ratelimit import Catalog, Limiter, Quota, Reason, Stage, Throttle, UsagePlan
from ratelimit.engine.compile import compile_limits
from ratelimit.engine.reference_model import Reference

GOLD = UsagePlan("gold", Throttle(1, 50), Quota(100, "DAY"), [STAGE])


def gold_key(backend, clock=None):
    """Make the plan and a key of it, as an administrator; return the key."""
    with backend.client() as client:
        catalog = Catalog(client, clock=clock)
        catalog.put_plan(GOLD)
        return catalog.create_key(plans=["gold"])


# 3. One clock


@contextmanager
def machine_clock_off_by(seconds):
    """Let this process' machine have another idea of the time."""
    true_time, true_time_ns = time.time, time.time_ns
    with (
        patch("time.time", lambda: true_time() + seconds),
        patch("time.time_ns", lambda: true_time_ns() + seconds * 1_000_000_000),
    ):
        yield


def skewed_replicas_decide_alike(server, skews):
    """Whatever the replicas' clocks say, each decision is that of one model at the server's time."""
    key = gold_key(server)
    reference = Reference()
    with server.client() as client, replica(server) as first, replica(server) as second, replica(server) as third:
        first.catalog.put_stage(Stage(STAGE, Throttle(1000, 30)))
        for turn in range(60):
            with machine_clock_off_by(skews[turn % 3]):
                before = _server_us(client)
                decision = (first, second, third)[turn % 3].check(key.value, STAGE, METHOD)
                after = _server_us(client)
            assert before <= decision.time_us <= after
            limits = compile_limits(first._namespace.snapshot, GOLD, STAGE, METHOD, first._namespace.names).limits
            verdict = reference.check(key.id, limits, 1, decision.time_us)
            assert (decision.allowed, decision.limited_by) == (verdict.allowed, verdict.limited_by)
            assert [(limit.remaining, limit.reset_after) for limit in decision.limits] == [
                (judged.remaining, judged.reset_us / 1_000_000) for judged in verdict.limits
            ]


def a_key_expires_by_the_servers_clock(server):
    """A replica that is early refuses nothing too early, one that is late admits nothing too late."""
    with server.client() as client:
        now = _server_us(client) / 1_000_000
        catalog = Catalog(client)
        catalog.put_plan(GOLD)
        alive = catalog.create_key(plans=["gold"], expires_at=now + 300)
        dead = catalog.create_key(plans=["gold"], expires_at=now - 1)
    with replica(server) as limiter:
        for seconds in (-600, 600):
            with machine_clock_off_by(seconds):
                assert limiter.check(alive.value, STAGE, METHOD).allowed
                assert limiter.check(dead.value, STAGE, METHOD).detail == "disabled"


def _server_us(client):
    seconds, microseconds = client.time()
    return seconds * 1_000_000 + microseconds


# 5. No lost revocation


def _move(catalog, key):
    catalog.put_plan(UsagePlan("silver", None, Quota(7, "DAY"), [STAGE]))
    catalog.remove_key_from_plan(key.id, "gold")
    catalog.add_key_to_plan(key.id, "silver")


REVOCATIONS = {
    "disable": (lambda catalog, key: catalog.update_key(key.id, enabled=False), "disabled"),
    "delete": (lambda catalog, key: catalog.delete_key(key.id), "unknown"),
    "leave the plan": (lambda catalog, key: catalog.remove_key_from_plan(key.id, "gold"), "no_plan_for_stage"),
    "move": (_move, {"quota:silver": 6}),
    "expire": (lambda catalog, key: catalog.update_key(key.id, expires_at=1_000_000_000), "disabled"),
    "rotate": (lambda catalog, key: catalog.rotate_key(key.id), "unknown"),
}
"""What can be done to a key, and what its next check says: why it is refused, or what remains."""


def the_next_check_obeys(backend, clock, revocation):
    """A key that another replica has served is changed here: its very next check there goes by the change."""
    change, expected = REVOCATIONS[revocation]
    key = gold_key(backend, clock)
    with replica(backend, clock=clock) as here, replica(backend, clock=clock, max_age=FOREVER) as there:
        assert there.check(key.value, STAGE, METHOD).allowed
        change(here.catalog, key)
        for _ in range(2):
            decision = there.check(key.value, STAGE, METHOD)
            if isinstance(expected, str):
                assert (decision.reason, decision.detail) == (Reason.INVALID_KEY, expected)
            else:
                assert remaining(decision) == expected
                expected = {name: left - 1 for name, left in expected.items()}


def enabling_is_obeyed_too(backend, clock):
    """Switched off and on and off again, a key is open at its next check elsewhere, or not, as was said last."""
    key = gold_key(backend, clock)
    with replica(backend, clock=clock) as here, replica(backend, clock=clock, max_age=FOREVER) as there:
        for enabled in (True, False, True, False):
            here.catalog.update_key(key.id, enabled=enabled)
            assert there.check(key.value, STAGE, METHOD).allowed is enabled
            assert here.check(key.value, STAGE, METHOD).allowed is enabled


CATALOG_CHANGES = {
    "plan": lambda catalog: catalog.put_plan(UsagePlan("gold", Throttle(1, 4), Quota(100, "DAY"), [STAGE])),
    "stage": lambda catalog: catalog.put_stage(Stage(STAGE, Throttle(1, 4))),
    "account": lambda catalog: catalog.set_account_throttle(Throttle(1, 4)),
}
"""Changes after which some limit of a request has a capacity of 4."""


def capacities(decision):
    return [limit.limit for limit in decision.limits]


def an_older_version_never_comes_back(backend, clock, change):
    """Once a replica applied a version to a key, no replica applies an older one to it, however stale it is."""
    key, other = gold_key(backend, clock), gold_key(backend, clock)
    with replica(backend, clock=clock) as here, replica(backend, clock=clock, max_age=FOREVER) as there:
        assert there.check(key.value, STAGE, METHOD).allowed
        assert there.check(other.value, STAGE, METHOD).allowed
        CATALOG_CHANGES[change](here.catalog)
        assert 4 in capacities(here.check(key.value, STAGE, METHOD))
        decision = there.check(key.value, STAGE, METHOD)
        assert 4 in capacities(decision)
        # Being told was no check: two were admitted under the plan of 100, and one now.
        assert remaining(decision).get("quota:gold") == 97


def a_lost_push_is_caught_up(backend, clock):
    """A replica that heard nothing goes by a change `max_age` after it last looked, also where no key is required."""
    key = gold_key(backend, clock)
    with replica(backend, clock=clock) as here, replica(backend, clock=clock, max_age=5) as there:
        assert there.check(key.value, STAGE, METHOD).allowed
        for name, change in CATALOG_CHANGES.items():
            change(here.catalog)
            clock.advance(5)
            decision = there.check(key.value, STAGE, METHOD)
            assert 4 in [limit.limit for limit in decision.limits if limit.name.startswith(name)]


def a_push_is_heard(server):
    """A change reaches a replica that would not look by itself, without a check that meets the newer version."""
    key = gold_key(server)
    with server.client() as client, Limiter(client, deadline=5, max_age=FOREVER) as limiter, server.client() as admin:
        assert limiter.check(key.value, STAGE, METHOD).allowed
        wait_for(lambda: dict(admin.pubsub_numsub("ratelimit:changes"))[b"ratelimit:changes"] == 1)
        CATALOG_CHANGES["plan"](Catalog(admin))
        wait_for(lambda: capacities(limiter.peek(key.value, STAGE, METHOD)) == [4, 100])


def another_life_of_the_catalogue_is_noticed(backend, clock):
    """Deleted and made anew, a catalogue counts its versions from 1 again: a stale replica notices all the same."""
    key = gold_key(backend, clock)
    with replica(backend, clock=clock) as here, replica(backend, clock=clock, max_age=FOREVER) as there:
        for change in CATALOG_CHANGES.values():
            change(here.catalog)
        assert there.check(key.value, STAGE, METHOD).allowed
        with backend.client() as client:
            client.delete("{ratelimit}:catalog")
            Catalog(client, clock=clock).put_plan(UsagePlan("gold", Throttle(1, 3), Quota(100, "DAY"), [STAGE]))
        with replica(backend, clock=clock) as fresh:
            assert capacities(fresh.check(key.value, STAGE, METHOD)) == [3, 100]
        decision = there.check(key.value, STAGE, METHOD)
        assert capacities(decision) == [3, 100]
        assert remaining(decision).get("quota:gold") == 97
