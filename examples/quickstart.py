"""A plan, a key, and four checks. Runs on an embedded server: nothing to install or start."""

from ratelimit import Limiter, Quota, Throttle, UsagePlan

with Limiter.embedded() as limiter:  # or Limiter.from_url("redis://localhost:6379/0")
    limiter.catalog.put_plan(UsagePlan("gold", Throttle(rate=0.5, burst=3), Quota(1000, "DAY"), ["petstore/prod"]))
    key = limiter.catalog.create_key("my first caller", plans=["gold"])
    for _ in range(4):
        decision = limiter.check(key.value, "petstore/prod", "GET /pets")
        print(decision.status, decision.limited_by or "allowed", decision.headers())
