"""A process of any version of this package, told what to do by lines of JSON: see test_two_versions.

Only what the contract promises is used: another version runs this file too.
"""

import json
import sys
from fractions import Fraction

import ratelimit
from ratelimit import Limiter, Quota, Stage, Throttle, UsagePlan


def throttle(data):
    return data and Throttle(Fraction(data[0]), data[1])


def plan(data):
    quota = data.get("quota") and Quota(data["quota"], "MONTH")
    return UsagePlan(data["id"], throttle(data.get("throttle")), quota, data["stages"], lease=data.get("lease", 0))


def check(limiter, key, stage, method, times=1):
    """How many of these requests were admitted, and which limits denied the others, or why else they were refused."""
    decisions = [limiter.check(key, stage, method) for _ in range(times)]
    others = {
        decision.limited_by or decision.detail or decision.cause for decision in decisions if not decision.allowed
    }
    return [sum(decision.allowed for decision in decisions), sorted(others)]


def usage(limiter, plan_id, key_id, days):
    items = limiter.catalog.usage(plan_id, *days, key_id).items[key_id]
    return [sum(used for used, _ in items), items[-1][1]]


DEEDS = {
    "where": lambda limiter: ratelimit.__file__,
    "check": check,
    "usage": usage,
    "left": lambda limiter, *request: {limit.name: limit.remaining for limit in limiter.peek(*request).limits},
    "put_plan": lambda limiter, data: limiter.catalog.put_plan(plan(data)),
    "put_stage": lambda limiter, stage, data: limiter.catalog.put_stage(Stage(stage, throttle(data))),
    "account": lambda limiter, data: limiter.catalog.set_account_throttle(throttle(data)),
    "create_key": lambda limiter, value, plans: limiter.catalog.create_key(value=value, plans=plans).id,
    "update_key": lambda limiter, key_id, **fields: limiter.catalog.update_key(key_id, **fields).id,
    "rotate_key": lambda limiter, key_id, value: limiter.catalog.rotate_key(key_id, value=value).id,
    "move_key": lambda limiter, *names: limiter.catalog.move_key(*names).id,
    "delete_key": lambda limiter, key_id: limiter.catalog.delete_key(key_id),
    "set_remaining": lambda limiter, *args: limiter.catalog.set_remaining(*args),
}


def main(url):
    limiter = None
    for line in sys.stdin:
        deed, args, keywords = json.loads(line)
        if deed == "open":
            if limiter is not None:
                limiter.close()
            limiter = Limiter.from_url(url, deadline=5, namespace=args[0])
            result = None
        else:
            result = DEEDS[deed](limiter, *args, **keywords)
        sys.stdout.write(f"{json.dumps(result)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
