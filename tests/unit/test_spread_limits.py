"""Replies of several slots, joined to the one that a script would give."""

from ratelimit import Quota, Throttle
from ratelimit.engine import protocol
from ratelimit.engine.limits import Bucket, CompiledLimits, QuotaCount
from ratelimit.engine.spread_limits import SpreadLimits
from ratelimit.local.leased_bucket import SharedState

OWN, SHARED, QUOTA = (
    Bucket("plan:gold", Throttle(1, 5)),
    Bucket("account", Throttle(1, 5), "ratelimit:account", shared=True),
    QuotaCount("quota:gold", Quota(10, "DAY")),
)
NOW, SECOND = 1_772_625_600_000_000, 1_000_000


def spread():
    return SpreadLimits((OWN, SHARED, QUOTA), CompiledLimits((OWN, QUOTA), "p:gold"), "petstore/prod", "p:gold")


def test_a_shared_limit_has_refilled_by_its_own_servers_clock():
    """That of the key's server is an hour ahead, and says nothing of how long ago the other one was asked."""
    limits, behind = spread(), NOW - 3600 * SECOND
    states = [SharedState(2 * SECOND, behind, behind + SECOND)]
    joined = limits.joined(protocol.DENIED, NOW, (0, NOW, 7, NOW + SECOND), states, "redis")
    assert [status.remaining for status in limits.statuses(limits.numbers(joined), NOW)] == [0, 3, 7]
    first, until_us, _ = limits.denial(limits.numbers(joined), NOW, 4)
    assert (first, until_us) == (0, NOW + 4 * SECOND)
    replaced = limits.with_states(limits.numbers(joined), NOW, [SharedState(0, behind, behind)])
    assert [status.remaining for status in limits.statuses(replaced, NOW)] == [0, 0, 7]


def test_limits_with_another_form_of_the_keys_own_ones_are_made_once():
    """As long as it is the same one: a check that fails makes none."""
    limits = spread()
    half, third = limits.own.divided(2), limits.own.divided(3)
    divided = limits.with_own(half)
    assert [numbers.capacity for numbers in divided.numbers_of] == [5, 5, 5]
    assert limits.with_own(limits.own) is limits
    assert limits.with_own(half) is divided
    assert limits.with_own(third).numbers_of[2].capacity == 3
    assert limits.with_own(half).numbers_of == divided.numbers_of
