"""What check.lua costs the server by limits judged, from 1 to 8: the script takes more than the model has.

Asked by hand, over the wire contract: the plan's bucket, buckets that all callers share, and the quota last.
"""

import callgrind
import redis
from contenders import AMPLE

from ratelimit import Quota, Throttle
from ratelimit.engine.limits import Bucket, CompiledLimits, QuotaCount
from ratelimit.scripts import load

MOST = 8
KEY, FIELD, IDENTITY = "check:{1}", "p:gold", "epoch--10000000001stamp--1"
CALLS = 200
_THROTTLE = Throttle(AMPLE.rate, AMPLE.burst)


def limits(count):
    """So many limits, one of each kind before another shared bucket comes."""
    shared = [Bucket(f"bucket {n}", _THROTTLE, f"check:bucket:{n}", shared=True) for n in range(1, count - 1)]
    quota = [QuotaCount("quota", Quota(AMPLE.window, "DAY"))] if count > 1 else []
    return [Bucket("plan", _THROTTLE), *shared, *quota]


def command(count, now_us):
    """Return the EVALSHA of a check that so many limits judge."""
    call, script = CompiledLimits(limits(count), FIELD), load("check")
    request = call.request(
        now_us=0, cost=1, valid_until_us=0, flags=0, version_token=IDENTITY.encode(), estimate_us=lambda: now_us
    )
    keys = (KEY, *call.shared_keys)
    return call, ("EVALSHA", script.sha, len(keys), *keys, request, *call.fields)


def measure():
    """Return pairs: limits, and the server's instructions for a usual check that so many judge."""
    found = []
    with callgrind.metered() as meter, redis.Redis.from_url(meter.url) as client:
        client.script_load(load("check").source)
        seconds, _ = client.time()
        for count in range(1, MOST + 1):
            client.flushdb()
            client.hset(KEY, "r", IDENTITY)
            call, asked = command(count, seconds * 10**6)
            for calls in (CALLS, CALLS):  # the first to warm up
                meter.look()
                replies = [client.execute_command(*asked) for _ in range(calls)]
                spent = meter.look()
            assert all(isinstance(reply, bytes) for reply in replies), "a usual check is answered with its states"
            assert len(call.statuses_after_charge(replies[-1])) == count
            found.append((count, spent / CALLS))
    return found
