"""Denials as exceptions: for code that checks deep inside a call and handles denials in one place."""

from http import HTTPStatus

from ratelimit import Limiter, RateLimited, Throttle, UsagePlan

STAGE = "petstore/prod"


def list_pets(limiter: Limiter, api_key: str | None) -> list[str]:
    """Do work that only a caller within its limits may cause."""
    limiter.check(api_key, STAGE, "GET /pets").raise_for_limit()
    return ["Rex", "Tom"]


def respond(limiter: Limiter, api_key: str | None) -> None:
    """Print the HTTP response to a request."""
    try:
        body, status, headers = ", ".join(list_pets(limiter, api_key)), HTTPStatus.OK, {}
    except RateLimited as denial:
        decision = denial.decision
        # Missing, unknown and disabled keys all get the same 403; `decision.detail` is for your log.
        body, status, headers = "", HTTPStatus(decision.status), decision.headers()
    print(status.value, status.phrase, body)
    for name, value in headers.items():
        print(f"  {name}: {value}")


with Limiter.embedded() as limiter:
    limiter.catalog.put_plan(UsagePlan("trial", Throttle(rate="1/3600", burst=1), stages=[STAGE]))
    key = limiter.catalog.create_key("visitor", plans=["trial"])
    respond(limiter, key.value)
    respond(limiter, key.value)
    respond(limiter, None)
